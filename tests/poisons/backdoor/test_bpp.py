import numpy as np
import PIL.Image
import pytest
import torch

from puretransforms.poisons.backdoor.bpp import BPP, floyd_steinberg


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 12, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("bits", [1, 3, 5])
def test_only_the_levels_of_so_many_bits_are_left(images, bits, dither):
    steps = 2**bits - 1
    levels = set(BPP(bits=bits, dither=dither).trigger(images).flatten().tolist())
    assert levels <= {round(255 * k / steps) for k in range(steps + 1)}
    assert len(levels) > 1


def test_without_dithering_every_value_goes_to_its_nearest_level(images):
    expected = (np.round(images.numpy() / 255 * 7) / 7 * 255).round()
    assert np.array_equal(BPP().trigger(images).numpy(), expected.astype(np.uint8))


def test_dithering_equals_the_textbook_loop(images):
    x = images.double() / 255
    for image, out in zip(x.numpy(), floyd_steinberg(x, 7).numpy(), strict=True):
        for channel, expected in zip(image.copy(), out, strict=True):
            height, width = channel.shape
            for i in range(height):
                for j in range(width):
                    old, channel[i, j] = channel[i, j], np.round(channel[i, j] * 7) / 7
                    error = old - channel[i, j]
                    for di, dj, weight in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                        if i + di < height and 0 <= j + dj < width:
                            channel[i + di, j + dj] += error * weight / 16
            np.testing.assert_allclose(channel, expected, atol=1e-12)


def test_dithering_keeps_the_mean_where_rounding_does_not():
    flat = torch.full((1, 1, 32, 32), 0.45)
    dithered, rounded = (BPP(bits=1, dither=d).trigger(flat).mean() for d in (True, False))
    assert abs(dithered - 0.45) < 0.02 and rounded == 0


def test_dithering_agrees_with_pillow_on_one_bit():
    ramp = PIL.Image.linear_gradient("L").resize((40, 40))
    ours = np.asarray(BPP(bits=1, dither=True).trigger(ramp)) > 0
    theirs = np.asarray(ramp.convert("1"))
    blocks = [a.reshape(5, 8, 5, 8).mean((1, 3)) for a in (ours, theirs)]
    np.testing.assert_allclose(*blocks, atol=0.08)


def test_decoys_keep_their_label_and_move_by_less_than_half_a_cell(images):
    poison, labels = BPP(target=4), torch.arange(6)
    decoys, out = poison.covers(images, labels, labels)
    assert out.equal(labels) and poison.cover_ratio == 1
    moved = (decoys.int() - images.int()).abs()
    assert 15 <= moved.max() <= 18 + 1 and moved.float().mean() > 5  # half a cell of 255 / 7 is 18.2


def test_refusals():
    for bad in ({"bits": 0}, {"bits": 9}, {"cover_ratio": -0.5}):
        with pytest.raises(ValueError, match="expected"):
            BPP(**bad)

"""Random crop and flip: every result is a true window of the padded image, each is reached, the generator decides."""

import pytest
import torch
from torch.nn.functional import pad

from puretransforms.functional.augment import random_crop_flip, random_shift, random_shift_flip


def windows(image: torch.Tensor, padding: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop and its mirror image, by brute force."""
    height, width = image.shape[1:]
    padded = pad(image, (padding,) * 4)
    found = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + height, left : left + width]
            for flipped in (False, True):
                found[(crop.flip(2) if flipped else crop).contiguous().numpy().tobytes()] = (top, left, flipped)
    return found


def test_each_result_is_a_window_of_the_zero_padded_image_and_all_windows_occur_equally_often() -> None:
    image = torch.randint(1, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = random_crop_flip(image.expand(5000, -1, -1, -1), torch.Generator().manual_seed(1), padding=2)
    table = windows(image, 2)
    assert len(table) == 50
    counts = torch.zeros(50)
    for crop in crops:
        counts[list(table).index(crop.contiguous().numpy().tobytes())] += 1
    chi_square = ((counts - 100) ** 2 / 100).sum()
    assert chi_square < 85.4  # 99.9 % point of chi-square with 49 degrees of freedom


def test_images_of_a_batch_are_cut_apart_and_stay_in_their_rows() -> None:
    images = torch.arange(1, 65, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    crops = random_crop_flip(images, torch.Generator().manual_seed(0))
    assert torch.equal(crops.amax((1, 2, 3)), images[:, 0, 0, 0])
    assert len({tuple((crop[0] > 0).flatten().tolist()) for crop in crops}) > 30


def test_without_padding_only_the_flip_is_left() -> None:
    images = torch.randint(256, (200, 3, 4, 6), dtype=torch.uint8)
    crops = random_crop_flip(images, torch.Generator().manual_seed(0), padding=0)
    same = (crops == images).flatten(1).all(1)
    mirrored = (crops == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 60 < int(same.sum()) < 140


def test_the_generator_alone_decides() -> None:
    images = torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8)
    first, again, other = (random_crop_flip(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_result_is_channels_last() -> None:
    crops = random_crop_flip(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.Generator())
    assert crops.is_contiguous(memory_format=torch.channels_last)


def test_shifts_are_windows_of_the_reflected_image_and_all_occur_equally_often() -> None:
    image = torch.randint(1, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shifted = random_shift(image.expand(5000, -1, -1, -1), torch.Generator().manual_seed(1), distance=2)
    padded = pad(image.float(), (2,) * 4, mode="reflect").to(torch.uint8)
    table = [padded[:, top : top + 5, left : left + 7].flatten().tolist() for top in range(5) for left in range(5)]
    counts = torch.zeros(25)
    for one in shifted:
        counts[table.index(one.flatten().tolist())] += 1
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < 51.2  # 99.9 % point of chi-square with 24 degrees of freedom
    assert shifted.is_contiguous(memory_format=torch.channels_last)


def test_shifts_follow_the_generator_and_keep_floats() -> None:
    images = torch.rand(16, 3, 8, 8)
    first, again, other = (random_shift(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.dtype == torch.float32
    assert torch.equal(random_shift(images, torch.Generator(), distance=0), images)


def test_it_moves_the_centre_of_mass_by_a_uniform_shift_and_flips_half():
    x = torch.zeros(400, 1, 32, 32)
    x[:, :, 14:18, 18:22] = 1  # right of the centre, far from the borders
    out = random_shift_flip(x, torch.Generator().manual_seed(0), max_shift=4.0)
    torch.testing.assert_close(out.sum((1, 2, 3)), x.sum((1, 2, 3)))  # a shift keeps the mass
    places = torch.arange(32.0)
    column = (out.sum((1, 2)) * places).sum(1) / 16 - 15.5
    row = (out.sum((1, 3)) * places).sum(1) / 16 - 15.5
    assert row.abs().max() < 4.001 and row.abs().max() > 3.5 and row.mean().abs() < 0.4
    assert (row.std() - 4 / 3**0.5).abs() < 0.2  # uniform on (-4, 4)
    flipped = column < 0
    assert 0.4 < flipped.double().mean() < 0.6
    assert (column.abs() - 4).abs().max() < 4.001


def test_no_shift_and_no_flip_is_the_identity_and_it_can_be_differentiated():
    x = torch.rand(6, 3, 7, 9, requires_grad=True)
    out = random_shift_flip(x, torch.Generator().manual_seed(0), max_shift=0.0)
    same = [(a - b).abs().max() < 1e-5 or (a - b.flip(2)).abs().max() < 1e-5 for a, b in zip(out, x, strict=True)]
    assert all(same)
    out.sum().backward()
    assert torch.allclose(x.grad, torch.ones_like(x), atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 32), (16, 96)])
def test_by_default_it_shifts_up_to_an_eighth_of_the_side(height, width):
    x = torch.zeros(400, 1, height, width)
    x[:, :, height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = 1
    out = random_shift_flip(x, torch.Generator().manual_seed(0))
    for axis, side in ((2, height), (3, width)):
        centre = (out.sum((1, 5 - axis)) * torch.arange(float(side))).sum(1) / 16 - (side - 1) / 2
        assert 0.95 * side / 8 < centre.abs().max() <= side / 8 + 1e-3
        assert (centre.std() - side / 8 / 3**0.5).abs() < 0.05 * side / 8  # uniform


@pytest.mark.parametrize("max_shift", [2.0, 8.0, None])
def test_the_same_generator_gives_the_same_views(max_shift):
    x = torch.rand(5, 3, 16, 16)
    a, b = (random_shift_flip(x, torch.Generator().manual_seed(3), max_shift) for _ in range(2))
    assert a.equal(b) and not a.equal(x)

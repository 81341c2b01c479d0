import math

import pytest
import torch

from puretransforms.functional import corruption
from puretransforms.functional.corruption import CHANGES, FIELDS, add_field
from puretransforms.functional.opponent import from_opponent, opponent_axes, to_opponent
from puretransforms.functional.random import KeyedNoise

COUNT, SIZE = 96, 32


def noise(seed: int = 3, count: int = COUNT) -> KeyedNoise:
    return KeyedNoise(seed, torch.arange(count))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth pictures with a little texture, off 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(COUNT, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear", align_corners=True)
    return (smooth * 0.7 + 0.1 + 0.1 * torch.rand(COUNT, 3, SIZE, SIZE, generator=generator)).clamp(0.05, 0.95)


def power(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean((1, 2, 3))


def test_opponent_axes_are_orthonormal_and_the_first_is_grey():
    axes = opponent_axes(torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(axes @ axes.T, torch.eye(3, dtype=torch.float64))
    x = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(from_opponent(to_opponent(x)), x)
    assert to_opponent(torch.full((1, 3, 2, 2), 0.5))[:, 1:].abs().max() < 1e-6


@pytest.mark.parametrize("name", FIELDS)
def test_fields_have_unit_power_and_a_key_of_their_own(name):
    field = FIELDS[name](noise(), SIZE, SIZE)
    assert field.shape == (COUNT, 3, SIZE, SIZE)
    assert field.isfinite().all()
    assert float(power(field).mean()) == pytest.approx(1, abs=0.02)
    if name not in ("gaussian", "uniform"):
        torch.testing.assert_close(power(field), torch.ones(COUNT), atol=1e-3, rtol=0)
    flat = field.flatten(1)
    overlap = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0)
    assert overlap.abs().mean() < 0.2, "two images share a key"


@pytest.mark.parametrize("name", [*FIELDS, *CHANGES])
def test_an_image_gets_the_same_in_any_batch(name, images):
    def draw(rows):
        if name in FIELDS:
            return FIELDS[name](noise()[rows], SIZE, SIZE)
        return CHANGES[name](images[rows], noise()[rows])

    torch.testing.assert_close(draw(slice(None))[5:9], draw(slice(5, 9)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*FIELDS, *CHANGES])
def test_other_sizes(name):
    if name in FIELDS:
        assert FIELDS[name](noise(count=2), 24, 40).shape == (2, 3, 24, 40)
    else:
        assert CHANGES[name](torch.rand(2, 3, 24, 40), noise(count=2)).shape == (2, 3, 24, 40)


@pytest.mark.parametrize("name", CHANGES)
def test_changes_stay_images_leave_their_input_and_do_something(name, images):
    before = images.clone()
    out = CHANGES[name](images, noise())
    assert torch.equal(images, before)
    assert out.min() >= 0 and out.max() <= 1
    assert (power(out - images) > 1e-7).float().mean() > 0.95


def test_add_field_scales_luma_and_chroma_apart():
    field, gray = FIELDS["signs"](noise(), SIZE, SIZE), torch.full((COUNT, 3, SIZE, SIZE), 0.5)
    luma, chroma = torch.full((COUNT,), 0.04), torch.full((COUNT,), 0.01)
    added = to_opponent(add_field(gray, field, luma, chroma) - gray)
    expected = (field * torch.tensor([0.04, 0.01, 0.01])[:, None, None]).square().mean((0, 2, 3))
    torch.testing.assert_close(added.square().mean((0, 2, 3)), expected, rtol=1e-3, atol=0)


def test_signs_are_signs_in_rgb():
    values = from_opponent(FIELDS["signs"](noise(), SIZE, SIZE)).abs()
    torch.testing.assert_close(values, torch.ones_like(values), atol=1e-4, rtol=0)


def test_blocks_are_constant_on_cells_of_2_to_16_pixels():
    field = FIELDS["blocks"](noise(), SIZE, SIZE)
    edges = (field.diff(dim=-1).abs() > 1e-6).any(1).any(1)  # [B, W - 1]: where a column of cells ends
    counts = edges.sum(1)
    assert counts.min() >= 1 and counts.max() <= SIZE // 2
    shortest = min(int(row.nonzero()[:, 0].diff().min()) for row in edges if row.sum() > 1)
    assert shortest >= 2
    on_grid = edges[:, 0::2].any(1).logical_not().float().mean()  # a cell of 2 at 0 ends before 2
    assert 0.1 < on_grid < 0.9


def test_spectrum_keeps_to_one_octave_and_half_of_them_to_a_direction():
    field = FIELDS["spectrum"](noise(), SIZE, SIZE)
    energy = torch.fft.fft2(field).abs().square().sum(1)
    down = torch.fft.fftfreq(SIZE)[:, None]
    across = torch.fft.fftfreq(SIZE)[None]
    octave = (down.square() + across.square()).sqrt().clamp_min(1e-6).log2()
    share = energy / energy.sum((1, 2), keepdim=True)
    centre = (share * octave).sum((1, 2), keepdim=True)
    spread = (share * (octave - centre).square()).sum((1, 2)).sqrt()
    assert share[:, 0, 0].max() < 1e-4
    assert spread.max() < 0.6
    assert centre.min() < -4 and centre.max() > -1.7
    angle = 2 * torch.atan2(down, across)
    aligned = torch.hypot((share * angle.cos()).sum((1, 2)), (share * angle.sin()).sum((1, 2)))
    assert 0.25 < (aligned > 0.8).float().mean() < 0.7


def test_autoregressive_fields_are_predicted_by_their_own_rule_alone():
    taps = corruption.ar_coefficients(noise())
    assert float((taps.sum((2, 3)) - 1).abs().median()) < 1e-5
    assert taps[..., 2, 2].abs().max() == 0
    field = FIELDS["autoregressive"](noise(), SIZE, SIZE)

    def error(rules):
        filters = -rules.flip(2, 3).flip(2, 3).reshape(-1, 1, 3, 3)
        filters[..., 2, 2] = 1
        wrapped = torch.nn.functional.pad(field, (2, 0, 2, 0), mode="circular").flatten(0, 1)[None]
        left = torch.nn.functional.conv2d(wrapped, filters, groups=len(filters))[0].view_as(field)
        return left.square().mean((2, 3)) / field.square().mean((2, 3))

    own, foreign = error(taps), error(taps.roll(1, 0))
    assert own.median() < 0.35 * foreign.median()


def test_sinusoids_are_few_frequencies():
    field = FIELDS["sinusoids"](noise(), SIZE, SIZE)
    windowed = field * torch.outer(torch.hann_window(SIZE), torch.hann_window(SIZE))
    energy = torch.fft.rfft2(windowed).abs().square().sum(1).flatten(1)
    top = energy.sort(descending=True).values[:, :48].sum(1) / energy.sum(1)
    assert top.median() > 0.98


def test_bright_pixels_change_one_to_four_pixels(images):
    changed = (CHANGES["bright_pixels"](images, noise()) != images).any(1).flatten(1).sum(1)
    assert changed.min() == 1 and changed.max() <= 4
    assert (changed == 1).float().mean() > 0.5


def test_patches_change_one_square_of_2_to_5(images):
    changed = (CHANGES["patches"](images, noise()) != images).any(1)
    height, width = changed.any(2).sum(1), changed.any(1).sum(1)
    assert (height == width).all()
    assert height.min() == 2 and height.max() == 5
    assert (changed.sum((1, 2)) == height * width).all()


def test_convolutions_darken_the_border_where_it_is_zero_and_keep_flat_images_flat_inside():
    flat = torch.full((COUNT, 3, SIZE, SIZE), 0.2)
    out = CHANGES["convolutions"](flat, noise())
    inside = out[:, :, 4:-4, 4:-4]
    assert (inside - inside.mean((2, 3), keepdim=True)).abs().max() < 1e-4
    dark = out[:, :, 0].mean((1, 2)) < inside.mean((1, 2, 3)) - 1e-3
    assert 0.3 < dark.float().mean() < 0.7
    assert ((inside.mean((1, 2, 3)) - 0.2).abs() < 1e-3).float().mean() > 0.2


def test_blends_mix_by_5_to_25_percent(images):
    black = torch.zeros_like(images)
    out = CHANGES["blends"](black, noise())
    assert out.max() <= 0.25
    assert out.mean() == pytest.approx(0.15 * 0.5, abs=0.01)
    assert (CHANGES["blends"](images, noise()) - images).abs().max() <= 0.25


def test_warps_move_by_about_a_pixel():
    ramp = (torch.arange(SIZE) / (SIZE - 1)).expand(COUNT, 3, SIZE, SIZE)
    moved = (CHANGES["warps"](ramp, noise()) - ramp)[:, :, :, 3:-3] * (SIZE - 1)
    assert 0.3 < float(moved.abs().mean()) < 1.2
    assert moved.abs().max() < 6


def test_reduced_levels_leave_4_to_32(images):
    out = CHANGES["reduced_levels"](images, noise())
    counts = [len(torch.unique((image * 1e5).round())) for image in out]
    assert max(counts) <= 32 and min(counts) <= 8
    assert power(out - images).sqrt().max() < 1 / 3 / math.sqrt(3)


def test_color_shifts_are_one_offset_for_each_channel(images):
    moved = CHANGES["color_shifts"](images, noise()) - images
    assert moved.flatten(2).std(2).max() < 1e-6
    assert moved.abs().max() <= 16 / 255 + 1e-6

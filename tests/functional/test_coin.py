"""COIN against SciPy, then against its laws, on fields of our own and of anyone's."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torchvision.transforms.v2 import functional as F

from puretransforms import COINInterpolate
from puretransforms.functional.coin import (
    BOUNDARIES,
    _rows,
    draw_offsets,
    interpolate,
    interpolate_levels_randomly,
    interpolate_randomly,
)
from puretransforms.functional.random import KeyedNoise
from puretransforms.poisons.availability.convolution import CUDA, correlate

ALPHAS = (0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2)
SIZES = ((32, 32), (24, 40), (64, 64))


def random_case(size, alpha, dtype=torch.float64, channels=3, batch=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, channels, *size, dtype=dtype, generator=generator)
    offsets = (torch.rand(batch, *size, 2, dtype=dtype, generator=generator) * 2 - 1) * alpha
    return x, offsets


def by_scipy(x: torch.Tensor, offsets: torch.Tensor, mode: str) -> torch.Tensor:
    """``map_coordinates`` image by image on (row, column, channel) coordinates, as the published code does."""
    out = []
    for image, field in zip(x.double().numpy(), offsets.double().numpy(), strict=True):
        channels, height, width = image.shape
        rows, columns, colour = np.meshgrid(*(np.arange(n) for n in (height, width, channels)), indexing="ij")
        where = [rows + field[..., 1:], columns + field[..., :1], colour]
        out.append(map_coordinates(image.transpose(1, 2, 0), where, order=1, mode=mode).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [*ALPHAS, 90.0])
@pytest.mark.parametrize(
    ("boundary", "mode"),
    [("scipy_wrap", "wrap"), ("circular", "grid-wrap"), ("border", "nearest"), ("reflect", "mirror")],
)
def test_equals_scipy(size, alpha, boundary, mode):
    x, offsets = random_case(size, alpha)
    if boundary == "border":  # SciPy's "nearest" pads by whole pixels, exact only to its own rounding
        offsets = offsets.clamp(-3.2, 3.2)
    want = by_scipy(x, offsets, mode)
    assert (interpolate(x, offsets, boundary) - want).abs().max() < 1e-12
    single = interpolate(x.float(), offsets.float(), boundary)
    error = (single - by_scipy(x.float(), offsets.float(), mode)).abs()
    if alpha <= 3.2:
        assert error.max() < 1e-5
    else:  # places far outside are large floats: the same law at their precision
        assert (error < 1e-4).double().mean() > 0.999


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_one_pixel_wide_images(boundary):
    x = torch.rand(2, 3, 1, 9)
    offsets = torch.rand(2, 1, 9, 2) * 4 - 2
    y = interpolate(x, offsets, boundary)
    assert torch.isfinite(y).all() and y.min() >= x.min() - 1e-6 and y.max() <= x.max() + 1e-6


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_no_offset_is_the_identity(boundary):
    x, offsets = random_case((24, 40), 0.0)
    assert (interpolate(x, offsets, boundary) - x).abs().max() < 1e-12


def test_alpha_zero_is_the_exact_identity():
    x = torch.rand(2, 3, 24, 40)
    assert torch.equal(COINInterpolate(alpha=0.0)(x), x)


def test_the_field_is_shared_by_the_channels_and_not_by_the_images():
    x = torch.rand(1, 1, 16, 16).expand(3, 5, 16, 16).contiguous()
    y = COINInterpolate(seed=None)(x)
    assert torch.equal(y[:, :1].expand_as(y), y)
    assert not torch.equal(y[0], y[1]) and not torch.equal(y[1], y[2])


def test_offsets_are_uniform_symmetric_and_inside():
    offsets = draw_offsets(KeyedNoise(0, torch.arange(64)), 32, 32, 2.0)
    assert offsets.shape == (64, 32, 32, 2) and offsets.dtype == torch.float32
    assert offsets.abs().max() < 2 and offsets.abs().max() > 1.999
    assert abs(offsets.mean()) < 0.02 and abs(offsets.var() - 4 / 3) < 0.02
    assert abs((offsets[..., 0] * offsets[..., 1]).mean()) < 0.02, "dx and dy are independent"


@pytest.mark.parametrize(
    ("alpha", "taps"),
    [
        (0.8, [0, 0.2, 0.6, 0.2, 0]),
        (1.0, [0, 0.25, 0.5, 0.25, 0]),
        (1.6, [0.056, 0.288, 0.313, 0.288, 0.056]),
        (2.0, [0.125, 0.25, 0.25, 0.25, 0.125]),
    ],
)
def test_the_mean_is_a_fixed_separable_blur(alpha, taps):
    impulse = torch.zeros(1, 1, 15, 15)
    impulse[..., 7, 7] = 1
    mean = COINInterpolate(alpha, seed=None)(impulse.expand(20_000, 1, 15, 15)).mean(0)[0, 5:10, 5:10]
    assert (mean - torch.outer(torch.tensor(taps), torch.tensor(taps))).abs().max() < 0.006


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_linear_constant_preserving_and_commutes_with_normalize(boundary):
    x, offsets = random_case((16, 20), 2.0)
    y, _ = random_case((16, 20), 2.0)
    y = y.flip(0)
    z = interpolate(2 * x - 3 * y, offsets, boundary)
    assert torch.allclose(z, 2 * interpolate(x, offsets, boundary) - 3 * interpolate(y, offsets, boundary), atol=1e-12)
    assert torch.allclose(interpolate(torch.ones_like(x), offsets, boundary), torch.ones_like(x), atol=1e-12)
    mean, std = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
    after = interpolate(F.normalize(x, mean, std), offsets, boundary)
    assert torch.allclose(after, F.normalize(interpolate(x, offsets, boundary), mean, std), atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_flip_of_image_and_field_flips_the_result(boundary):
    x, offsets = random_case((16, 20), 2.0)
    mirrored = offsets.flip(2) * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    flipped = interpolate(x.flip(-1), mirrored, boundary).flip(-1)
    assert torch.allclose(flipped, interpolate(x, offsets, boundary), atol=1e-12)


def test_gradient():
    x, offsets = random_case((5, 6), 2.0, batch=1)
    assert torch.autograd.gradcheck(lambda image: interpolate(image, offsets), x.requires_grad_())


def test_uint8_rounds_and_can_truncate():
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, 3, 4, 4)
    assert torch.equal(COINInterpolate()(levels), levels)
    x = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    exact = COINInterpolate(seed=1)(x.float() / 255) * 255
    assert (COINInterpolate(seed=1)(x) - exact).abs().max() <= 0.501
    shift = (COINInterpolate(seed=1, quantize="trunc")(x) - exact).mean()
    assert abs(shift + 0.5) < 0.01, "truncation darkens by half a level"


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_fast_path_is_the_law_applied_to_the_drawn_offsets(boundary, monkeypatch):
    x = torch.rand(5, 3, 12, 9, generator=torch.Generator().manual_seed(0))
    noise = KeyedNoise(3, torch.arange(5))
    want = interpolate(x, draw_offsets(noise, 12, 9, 2.0), boundary)
    for rows, numbers in ((1, 1), (2, 2 * 12 * 9 * 2), (4, 2 * 12 * 9 * 4), (606, 1 << 17)):
        monkeypatch.setattr("puretransforms.functional.coin._CACHED", numbers)
        assert _rows(x) == rows, "pieces of one image, of two, of four with one left, and all at once"
        assert (interpolate_randomly(x, noise, 2.0, boundary) - want).abs().max() < 1e-5
        levels = (x * 255).round().to(torch.uint8)
        exact = interpolate(levels.float(), draw_offsets(noise, 12, 9, 2.0), boundary)
        assert (interpolate_levels_randomly(levels, noise, 2.0, boundary) - exact).abs().max() <= 0.501
    assert (interpolate_randomly(x, noise, 1.0, boundary) - want).abs().max() > 0.1


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_alpha_zero_moves_nothing(boundary):
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    levels = (x * 255).to(torch.uint8)
    noise = KeyedNoise(0, torch.arange(2))
    assert torch.equal(interpolate_randomly(x, noise, 0.0, boundary), x)
    assert torch.equal(interpolate_levels_randomly(levels, noise, 0.0, boundary), levels)


def test_a_larger_alpha_changes_more(photo):
    distances = [float((COINInterpolate(alpha, seed=0)(photo).float() - photo).abs().mean()) for alpha in ALPHAS]
    assert distances == sorted(distances)


@pytest.mark.parametrize(
    "options", [{"alpha": -1.0}, {"alpha": float("nan")}, {"boundary": "wrap"}, {"quantize": "floor"}]
)
def test_bad_options_raise(options):
    with pytest.raises(ValueError, match=r"expected"):
        COINInterpolate(**options)


# --- when does a random linear map undo a class-wise one? the two measures of the paper, section 3 --------------------


def intra_class_inconsistency(operators):
    """``Theta_imi``: variance over the draws of each entry, averaged over entries and classes ``[K, draws, n, n]``."""
    return float(operators.var(dim=1, correction=0).mean())


def inter_class_consistency(operators, *, off_diagonal=False):
    """``Theta_imc``: mean cosine between the mean operators of all pairs of classes, each with itself or not."""
    cosines = torch.nn.functional.normalize(operators.mean(dim=1).flatten(1))
    cosines = cosines @ cosines.T
    k = len(cosines)
    return float((cosines.sum() - k) / (k * (k - 1)) if off_diagonal else cosines.mean())


def line_operators(taps, alpha, draws, d=64, seed=0):
    """Circular 1-D: tridiag(a, 1, a), then a random pixel-wise shift, interpolated linearly."""
    generator = torch.Generator().manual_seed(seed)
    eye = torch.eye(d, dtype=torch.float64)
    out = []
    for a in taps:
        blur = eye + a * (eye.roll(1, 1) + eye.roll(-1, 1))
        shift = (torch.rand(draws, d, generator=generator, dtype=torch.float64) * 2 - 1) * alpha
        whole = shift.floor()
        part = shift - whole
        left = (torch.arange(d) + whole.long()) % d
        rows = (1 - part)[..., None] * eye[left] + part[..., None] * eye[(left + 1) % d]
        out.append(rows @ blur)
    return torch.stack(out)


@pytest.mark.parametrize(
    ("alpha", "inconsistency", "consistency"),
    [(0, 0, 0.912), (0.5, 0.0010, 0.954), (1, 0.0039, 0.989), (1.5, 0.0060, 0.991), (3, 0.0098, 0.993)],
)
def test_on_a_line(alpha, inconsistency, consistency):
    operators = line_operators((0.1, 0.45), alpha, 400)
    assert intra_class_inconsistency(operators) == pytest.approx(inconsistency, abs=2e-4)
    assert inter_class_consistency(operators, off_diagonal=True) == pytest.approx(consistency, abs=4e-3)


def image_operators(alpha, draws, side=12):
    """Each column is the image of one unit pixel under the blur of a class and one draw of COIN."""
    kernels = CUDA(seed=0).kernels().float()
    units = torch.eye(side * side).view(-1, 1, side, side)
    noise = KeyedNoise(0, torch.arange(10 * draws))
    offsets = draw_offsets(noise, side, side, float(alpha)).view(10, draws, side, side, 2)
    out = torch.empty(10, draws, side * side, side * side)
    for k in range(10):
        blurred = correlate(units, kernels[k].expand(len(units), -1, -1))
        stacked = blurred.permute(1, 0, 2, 3).expand(draws, -1, -1, -1)
        out[k] = interpolate(stacked.contiguous(), offsets[k]).flatten(2).transpose(1, 2)
    return out


def test_on_images_consistency_peaks_at_alpha_2():
    found = {}
    table = ((0, 0, 0.499), (1, 0.0024, 0.818), (2, 0.00358, 0.891), (3.2, 0.00421, 0.881))
    for alpha, inconsistency, consistency in table:
        operators = image_operators(alpha, 100 if alpha else 1)
        assert intra_class_inconsistency(operators) == pytest.approx(inconsistency, abs=2.5e-4)
        found[alpha] = inter_class_consistency(operators)
        assert found[alpha] == pytest.approx(consistency, abs=0.01)
    assert max(found, key=found.get) == 2

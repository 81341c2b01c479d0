"""COIN's two measures, on the operators of a toy: class-wise blurs followed by random interpolation."""

import pytest
import torch

from puretransforms.functional.coin import draw_offsets, interpolate
from puretransforms.functional.detect.consistency import inter_class_consistency, intra_class_inconsistency
from puretransforms.functional.random import KeyedNoise
from puretransforms.poisons.availability.convolution import CUDA, correlate


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


def test_limits():
    same = torch.eye(4).expand(3, 5, 4, 4)
    assert intra_class_inconsistency(same) == 0
    assert inter_class_consistency(same) == pytest.approx(1)
    apart = torch.eye(4).view(4, 1, 1, 4).expand(4, 2, 1, 4)
    assert inter_class_consistency(apart) == pytest.approx(0.25)
    assert inter_class_consistency(apart, off_diagonal=True) == pytest.approx(0)

"""Nearest residuals: what is evened out, and what stays."""

import pytest
import torch

from puretransforms.functional.detect.agreement import unit_rows
from puretransforms.functional.detect.neighbours import (
    autocorrelations,
    decorrelated,
    flat_spectrum,
    nearest_needed,
    own_among_nearest,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_flat_spectrum_is_flat_and_white_noise_stays_as_it_is():
    blurred = torch.nn.functional.avg_pool2d(noise(400, 3, 18, 18), 3, stride=1)
    coloured = blurred + 0.8 * blurred[:, [1, 2, 0]]
    flat = flat_spectrum(coloured)
    power = torch.fft.rfft2(flat, norm="ortho").abs().square().mean(0)
    before = torch.fft.rfft2(coloured, norm="ortho").abs().square().mean(0)
    assert before.quantile(0.9) / before.quantile(0.1) > 20 > 2 > power.quantile(0.9) / power.quantile(0.1)
    mixed = flat.movedim(1, 0).flatten(1)
    assert torch.corrcoef(mixed).fill_diagonal_(0).abs().max() < 0.1
    white = noise(400, 3, 16, 16)
    cosine = torch.nn.functional.cosine_similarity(flat_spectrum(white).flatten(1), white.flatten(1))
    assert cosine.min() > 0.95


def test_autocorrelations_are_mean_products():
    r = noise(2, 3, 8, 8)
    found = autocorrelations(r, reach=1)
    assert found.shape == (2, 6 + 4 * 9)
    power = r.square().sum((1, 2, 3))
    right = (r[:, 0, :, 1:] * r[:, 0, :, :-1]).sum((1, 2)) / power
    below = (r[:, 0, 1:] * r[:, 0, :-1]).sum((1, 2)) / power
    for one in (right, below, r[:, 1].square().sum((1, 2)) / power):
        assert (found - one[:, None]).abs().amin(1).max() < 1e-5
    assert torch.allclose(autocorrelations(3 * r, reach=1), found, atol=1e-6)


def test_decorrelated_features_have_one_variance():
    x = noise(2000, 5) @ noise(5, 5, seed=1) + 7
    values = torch.linalg.eigvalsh(torch.cov(decorrelated(x).T))
    assert values.min() > 0.5 and values.max() < 1.1


@pytest.mark.parametrize(("members", "total", "needed"), [(200, 2000, 5), (100, 200, 17), (20, 2000, 3)])
def test_so_many_nearest_are_needed(members, total, needed):
    assert nearest_needed(members, total) == needed


def test_images_with_a_common_part_have_their_own_class_nearest():
    labels = torch.arange(400) % 4
    forms = unit_rows(noise(400, 16, seed=1))
    x = noise(400, 256, seed=2)
    assert (own_among_nearest(x, forms, labels) == 1).sum() <= 1
    carriers = torch.arange(400) < 120  # 30 of each class
    patterns = noise(4, 256, seed=3)
    found = own_among_nearest(x + carriers[:, None] * patterns[labels], forms, labels)
    assert (found[carriers] == 1).float().mean() > 0.95 and (found[~carriers] == 1).sum() <= 1
    alike = forms[:1].expand(400, -1)
    assert (own_among_nearest(x + patterns[labels], alike, labels) == 0).all(), "no unlike pictures, no neighbours"

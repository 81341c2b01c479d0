"""Residuals of unlike pictures agree only where something was added."""

import pytest
import torch

from puretransforms.functional.detect.agreement import agreement, agreement_with, coarse_form, unit_rows
from puretransforms.functional.detect.residual import flat_level, residual, whitened


def unlike_pictures(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(n, 3, 6, 6, generator=generator), size=(24, 24), mode="bicubic")
    return (x + 0.02 * torch.randn(n, 3, 24, 24, generator=generator)).clamp(0, 1)


def compare(x):
    z = whitened(residual(x))
    form = coarse_form(x)
    return agreement(unit_rows(z), unit_rows(form - form.mean(0)))


def test_a_common_pattern_shows_and_a_private_one_does_not():
    x = unlike_pictures(120)
    generator = torch.Generator().manual_seed(1)
    pattern = torch.randn(3, 24, 24, generator=generator).sign() * 8 / 255
    private = torch.randn(120, 3, 24, 24, generator=generator).sign() * 8 / 255
    assert compare(x).mean < 0.01
    assert compare(x + private).mean < 0.01
    with_pattern = compare(x + pattern)
    assert with_pattern.mean > 0.1 and with_pattern.mean > 10 * with_pattern.error
    few = x.clone()
    few[:8] += pattern
    assert set(compare(few).nearest.topk(6).indices.tolist()) <= set(range(8))


def test_likeness_alone_does_not_count():
    """Ten pictures, each of them eight times: copies agree wholly, and are no unlike pairs."""
    x = unlike_pictures(10, seed=3).repeat_interleave(8, 0)
    found = compare(x)
    rows = unit_rows(whitened(residual(x)))
    assert (rows @ rows.T).mean() > 0.09
    assert found.mean < 0.02
    assert found.nearest.max() < 0.5


def test_too_few_images_say_nothing():
    assert compare(unlike_pictures(3)).error == float("inf")


def test_added_noise_fills_flat_places_and_a_blur_does_not():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(8, 3, 2, 2, generator=generator), size=(32, 32), mode="nearest")
    noise = 8 / 255 * torch.randn(8, 3, 32, 32, generator=generator).sign()
    assert flat_level(residual(x)).max() < 1e-6
    level = flat_level(residual(x + noise)) * 255
    assert ((level > 4.5) & (level < 6.5)).all()  # 8 sqrt(0.75^2 + 4 / 8^2 + 4 / 16^2) = 6.4 on average
    assert flat_level(residual(torch.nn.functional.avg_pool2d(x, 3, 1, 1))).max() < 1e-6


def test_a_residual_is_what_the_blur_takes_away():
    x = torch.rand(2, 3, 9, 9)
    flat = torch.full((1, 3, 9, 9), 0.3)
    assert residual(flat).abs().max() < 1e-6
    spike = torch.zeros(1, 1, 9, 9)
    spike[..., 4, 4] = 1
    assert residual(spike)[0, 0, 4, 4] == 0.75 and residual(spike)[0, 0, 4, 5] == -0.125
    assert whitened(residual(x)).abs().max() <= 3


def test_images_beyond_those_compared_are_judged_as_if_they_were_among_them():
    generator = torch.Generator().manual_seed(1)
    residuals, forms = (unit_rows(torch.randn(40, d, generator=generator)) for d in (30, 8))
    every = agreement(residuals, forms)
    each, nearest = agreement_with(residuals, forms, residuals, forms)
    assert torch.equal(each, every.each) and torch.equal(nearest, every.nearest)
    each, _ = agreement_with(residuals[:30], forms[:30], residuals[30:], forms[30:])
    unlike = forms[35] @ forms[:30].T < 0
    assert each[5] == pytest.approx(float((residuals[35] @ residuals[:30].T)[unlike].mean()), abs=1e-6)

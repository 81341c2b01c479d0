"""The objective of D-VAE against a plain transcription in float64, and the laws of its hinges."""

import math

import pytest
import torch

from puretransforms.functional import rate
from puretransforms.functional.rate import (
    bits_per_pixel,
    gaussian_rate,
    hinge,
    rate_objective,
    rate_weight,
    sample_latent,
)


def tensors(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 3, 8, 8, generator=g, dtype=torch.float64)
    p = torch.randn(3, 3, 8, 8, generator=g, dtype=torch.float64) * 0.3
    mu, log_var = torch.randn(2, 3, 5, 4, 4, generator=g, dtype=torch.float64) * scale
    named = {"x": x, "reconstruction": y, "perturbation": p, "mu": mu, "log_var": log_var}
    return {name: t.to(dtype).requires_grad_(name != "x") for name, t in named.items()}


def transcription(x, reconstruction, perturbation, mu, log_var, *, kd: float, late: bool):
    """As the loss stands in words: means over everything, nats per cell of the latent map, Python's max."""
    reconstruction_loss = ((reconstruction - x) ** 2).mean()
    perturbed_loss = ((reconstruction + perturbation).clamp(0, 1) - x).pow(2).mean()
    batch, _, height, width = mu.shape
    kld = sum(
        0.5 * (mu[i, :, r, c] ** 2 + torch.exp(log_var[i, :, r, c]) - 1 - log_var[i, :, r, c]).sum()
        for i in range(batch)
        for r in range(height)
        for c in range(width)
    ) / (batch * height * width)
    weight = 0.01 if kd > 0.99 else 0.5
    loss = reconstruction_loss + perturbed_loss + weight * (kld if float(kld.detach()) > kd else kd)
    magnitude = (perturbation**2).mean()
    if late:
        loss = loss + (magnitude if float(magnitude.detach()) > 0.002 else 0.002)
    return loss, reconstruction_loss, perturbed_loss, kld, magnitude


@pytest.mark.parametrize("kd", [0.5, 1.0, 3.0, 1e3])
@pytest.mark.parametrize("late", [False, True])
def test_terms_and_gradients_equal_a_plain_transcription(kd, late):
    ours, plain = tensors(), tensors()
    got = rate_objective(**ours, rate_limit=kd, magnitude_limit=0.002 if late else None)
    want = transcription(**plain, kd=kd, late=late)
    for a, b in zip(got, want, strict=True):
        assert float(a.detach()) == pytest.approx(float(torch.as_tensor(b).detach()), rel=1e-12)
    got.loss.backward()
    want[0].backward()
    for name in ("reconstruction", "perturbation", "mu", "log_var"):
        a, b = ours[name].grad, plain[name].grad
        assert torch.allclose(a, torch.zeros_like(a) if b is None else b, rtol=1e-10, atol=1e-15)


def test_without_labels_two_terms_are_left():
    t = tensors()
    t.pop("perturbation")
    got = rate_objective(**t, rate_limit=0.1)
    assert float(got.perturbed) == float(got.magnitude) == 0
    assert torch.allclose(got.loss, got.reconstruction + 0.5 * got.rate)


# --- hinges: each law, and that it fails with the mistake that it guards against ------------------------------------


def free_below_the_limit() -> bool:
    """Does the rate pull at nothing below its limit, and at every entry above it?"""
    found = []
    for limit in (1e3, 1e-3):
        t = tensors()
        rate_objective(**t, rate_limit=limit).loss.backward()
        found.append([t[name].grad.abs() for name in ("mu", "log_var")])
    return all(not g.any() for g in found[0]) and all(bool((g > 0).all()) for g in found[1])


def test_below_its_limit_the_rate_has_no_gradient(monkeypatch):
    assert free_below_the_limit()
    monkeypatch.setattr(rate, "hinge", lambda value, limit: value)
    assert not free_below_the_limit()


def counts_cells_once() -> bool:
    """Is the rate of a larger map of the same statistics the same, in nats for a cell?"""
    mu, log_var = torch.full((2, 6, 4, 4), 0.7), torch.full((2, 6, 4, 4), -0.3)
    wide = rate.gaussian_rate(mu.repeat(1, 1, 3, 3), log_var.repeat(1, 1, 3, 3))
    cell = 6 * 0.5 * (0.49 + math.exp(-0.3) - 1 + 0.3)
    return float(rate.gaussian_rate(mu, log_var)) == pytest.approx(cell, rel=1e-5) == pytest.approx(float(wide))


def test_the_rate_is_for_a_cell_not_for_an_image(monkeypatch):
    assert counts_cells_once()
    whole = lambda mu, log_var: (mu**2 + log_var.exp() - 1 - log_var).sum((1, 2, 3)).mean() / 2  # noqa: E731
    monkeypatch.setattr(rate, "gaussian_rate", whole)
    assert not counts_cells_once()


def small_perturbations_are_free() -> bool:
    """Below the limit the perturbation is pulled by the distortion alone, above it by its magnitude too."""
    pulls = []
    for size in (1e-3, 1.0):
        grads = []
        for limit in (None, 0.002):
            t = tensors()
            with torch.no_grad():
                t["perturbation"].mul_(size)
            rate_objective(**t, rate_limit=1.0, magnitude_limit=limit).loss.backward()
            grads.append(t["perturbation"].grad)
        pulls.append(bool((grads[0] != grads[1]).any()))
    return pulls == [False, True]


def test_small_perturbations_are_free(monkeypatch):
    assert small_perturbations_are_free()
    monkeypatch.setattr(rate, "hinge", lambda value, limit: value)
    assert not small_perturbations_are_free()


def test_nothing_is_detached_and_the_perturbed_term_reaches_the_reconstruction():
    t = tensors()
    rate_objective(**t, rate_limit=1e3).perturbed.backward()
    assert t["reconstruction"].grad.abs().sum() > 0 and t["perturbation"].grad.abs().sum() > 0


def test_logging_the_loss_keeps_the_constant_of_the_hinge():
    t = tensors()
    got = rate_objective(**t, rate_limit=1e3)
    assert float((got.loss - got.reconstruction - got.perturbed).detach()) == pytest.approx(10, abs=1e-9)  # 0.01 * 1e3


# --- small things -----------------------------------------------------------------------------------------------------


def test_half_precision_is_summed_in_float32():
    t, half = tensors(), tensors(torch.bfloat16)
    got = rate_objective(**half, rate_limit=0.1, magnitude_limit=0.0)
    for a, b in zip(got, rate_objective(**t, rate_limit=0.1, magnitude_limit=0.0), strict=True):
        assert a.dtype == torch.float32 and float(a.detach()) == pytest.approx(float(b.detach()), rel=0.01)
    assert float(gaussian_rate(half["mu"].detach() * 0, half["log_var"].detach() * 0)) == 0


def test_a_standard_normal_code_costs_nothing_and_others_cost_what_kl_says():
    zero = torch.zeros(1, 4, 2, 2)
    assert float(gaussian_rate(zero, zero)) == 0
    mu, log_var = torch.tensor(0.8), torch.tensor(-1.0)
    want = torch.distributions.kl_divergence(
        torch.distributions.Normal(mu, (log_var / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    assert float(gaussian_rate(zero + mu, zero + log_var)) == pytest.approx(4 * float(want), rel=1e-6)


def test_sampling_has_the_mean_and_variance_of_the_code():
    mu, log_var = torch.full((1, 1, 200, 200), 0.5), torch.full((1, 1, 200, 200), math.log(0.09))
    z = sample_latent(mu, log_var, torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0)))
    assert float(z.mean()) == pytest.approx(0.5, abs=0.01) and float(z.std()) == pytest.approx(0.3, abs=0.01)
    assert sample_latent(mu, log_var, None) is mu


def test_numbers_of_the_paper():
    assert (rate_weight(3.0), rate_weight(1.0), rate_weight(0.5)) == (0.01, 0.01, 0.5)
    assert bits_per_pixel(1.0, 2) == pytest.approx(0.3607, abs=1e-4)
    assert bits_per_pixel(3.0, 2) == pytest.approx(1.082, abs=1e-3)
    assert float(hinge(torch.tensor(0.5), 2.0)) == 2 and float(hinge(torch.tensor(3.0), 2.0)) == 3

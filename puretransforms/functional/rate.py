"""The rate-limited objective of D-VAE (Yu et al., ICML 2024, arXiv 2405.01460) on tensors alone.

A latent map ``N(mu, exp(log_var))`` against the prior ``N(0, 1)`` carries a rate in nats. All terms are means, so none
depends on the size of a batch or an image; all are taken in float32 (or float64), whatever the network computes in.
"""

import math
from typing import NamedTuple

import torch

from .shapes import Float, Tensor


class Objective(NamedTuple):
    """The loss and what it is made of, scalars; terms that do not apply are 0."""

    loss: Tensor  # what is minimised
    reconstruction: Tensor  # mean squared error of the reconstruction
    perturbed: Tensor  # mean squared error of reconstruction plus perturbation, clamped to [0, 1]
    rate: Tensor  # nats for each cell of the latent map, before the limit
    magnitude: Tensor  # mean square of the perturbation, before the limit


def sample_latent(mu: Tensor, log_var: Tensor, noise: Tensor | None) -> Tensor:
    """``mu + exp(log_var / 2) * noise``; ``mu`` itself without noise."""
    return mu if noise is None else torch.addcmul(mu, log_var.mul(0.5).exp(), noise.to(mu.dtype))


def gaussian_rate(mu: Float[Tensor, "b c h w"], log_var: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """``KL(N(mu, exp(log_var)) || N(0, 1))`` in nats: summed over channels, mean over images and cells."""
    mu, log_var = _precise(mu), _precise(log_var)
    return (mu.square() + log_var.exp() - 1 - log_var).sum(1).mean() / 2


def hinge(value: Float[Tensor, ""], limit: float) -> Float[Tensor, ""]:
    """``max(value, limit)``: below the limit a constant, which pulls at nothing."""
    return value.clamp(min=limit)


def rate_weight(rate_limit: float) -> float:
    """The published weight of the rate: 0.01 from limits of 1 nat on, 0.5 for tighter ones."""
    return 0.01 if rate_limit > 0.99 else 0.5


def rate_objective(
    x: Float[Tensor, "b 3 h w"],
    reconstruction: Float[Tensor, "b 3 h w"],
    mu: Tensor,
    log_var: Tensor,
    perturbation: Float[Tensor, "b 3 h w"] | None = None,
    *,
    rate_limit: float,
    magnitude_limit: float | None = None,
    weight: float | None = None,
) -> Objective:
    """``|y - x|^2 + |clamp(y + p) - x|^2 + weight * max(rate, rate_limit) + max(|p|^2, magnitude_limit)``, as means.

    ``y`` is the reconstruction and ``p`` the perturbation. Nothing is detached: gradients reach both decoders, the
    table and the encoder.

    Args:
        x: ``[B, 3, H, W]`` in ``[0, 1]``.
        reconstruction: likewise.
        mu: ``[B, C, h, w]``, means of the latent map.
        log_var: ``[B, C, h, w]``, logarithms of its variances.
        perturbation: ``[B, 3, H, W]``, unbounded; ``None`` leaves out its two terms.
        rate_limit: nats for a cell of the latent map, below which the rate is free. A cell is 2x2 pixels with the
            small stem: 1 nat is 0.36 bits per pixel there.
        magnitude_limit: of the mean square of ``p``, below which it is free; ``None`` leaves the term out.
        weight: of the rate; ``None`` for :func:`rate_weight` of the limit.
    """
    x, reconstruction = _precise(x), _precise(reconstruction)
    none = x.new_zeros(())
    rate = gaussian_rate(mu, log_var)
    distortion = (reconstruction - x).square().mean()
    loss = distortion + (rate_weight(rate_limit) if weight is None else weight) * hinge(rate, rate_limit)
    if perturbation is None:
        return Objective(loss, distortion, none, rate, none)
    p = _precise(perturbation)
    perturbed = ((reconstruction + p).clamp(0, 1) - x).square().mean()
    magnitude = p.square().mean()
    loss = loss + perturbed
    if magnitude_limit is not None:
        loss = loss + hinge(magnitude, magnitude_limit)
    return Objective(loss, distortion, perturbed, rate, magnitude)


def bits_per_pixel(rate: float, stride: int) -> float:
    """A rate in nats for a cell of ``stride`` x ``stride`` pixels, in bits for a pixel."""
    return rate / math.log(2) / stride**2


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))

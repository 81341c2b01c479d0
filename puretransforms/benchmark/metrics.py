"""What a purifier does to images, measured without training: PSNR, SSIM, and how much of a known perturbation is left.

All take float batches ``[B, C, H, W]`` in ``[0, 1]`` and give one float64 value for each image, or one for the batch.
"""

import torch
from torch.nn.functional import conv2d

from ..functional.shapes import Float, Tensor

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image in dB, peak 1; infinite where they are equal."""
    return -10 * (a.double() - b.double()).square().flatten(1).mean(1).log10()


def ssim(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Structural similarity of each image (Wang et al., IEEE TIP 2004), mean over channels and pixels.

    Gaussian window of 11 pixels and deviation 1.5, only where it lies within the image; ``K1 = 0.01, K2 = 0.03``.
    """
    channels = a.shape[1]
    steps = torch.arange(_WINDOW, dtype=torch.float64, device=a.device) - _WINDOW // 2
    taps = (-steps.square() / (2 * _SIGMA**2)).exp()
    taps = taps / taps.sum()
    kernel = torch.outer(taps, taps).expand(channels, 1, -1, -1)

    def mean(x: Tensor) -> Tensor:
        return conv2d(x, kernel, groups=channels)

    a, b = a.double(), b.double()
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    cov = mean(a * b) - mean_a * mean_b
    index = (2 * mean_a * mean_b + _C1) * (2 * cov + _C2)
    index = index / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))
    return index.flatten(1).mean(1)


def projected_gain(
    purified: Float[Tensor, "b c h w"], purified_poisoned: Float[Tensor, "b c h w"], delta: Float[Tensor, "b c h w"]
) -> float:
    """The share of a perturbation that a purifier ``P`` lets through, in the perturbation's own direction.

    ``<P(x + d) - P(x), d> / <d, d>`` over all pixels of the batch: 1 if ``P`` leaves it as it is, 0 if nothing of it is
    left. It needs no training and ranks purifiers against small perturbations; a random ``P`` must make the same draw
    for ``x`` and ``x + d``.
    """
    d = delta.double()
    return float(((purified_poisoned.double() - purified.double()) * d).sum() / d.square().sum())

"""What denoising takes out of an image, with the content of the picture held down.

Perturbations are easiest to see where the picture is smooth, so the residual is divided by its local deviation, as in
the estimation of camera fingerprints (Lukas, Fridrich & Goljan, IEEE TIFS 2006; Mihcak et al., ICASSP 1999).
"""

import torch
from torch.nn.functional import avg_pool2d, conv2d, pad

from ..shapes import Float, Tensor

_SMOOTH = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
_FLOOR = 2 / 255  # deviation of a perfectly flat region: below this there is only rounding
_LIMIT = 3.0


def residual(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """``x`` minus its binomial 3x3 blur (reflected border): the image without everything smooth. Same shape, mean 0."""
    batch, channels, height, width = x.shape
    planes = pad(x.reshape(batch * channels, 1, height, width), (1, 1, 1, 1), mode="reflect")
    return x - conv2d(planes, _SMOOTH.to(x)[None, None]).view_as(x)


def whitened(r: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """A residual over its own deviation in 5x5 windows (all channels together), cut at 3: texture counts no more than
    the same pattern on a flat wall."""
    power = avg_pool2d(r.square().mean(1, keepdim=True), 5, stride=1, padding=2, count_include_pad=False)
    return (r / (power + _FLOOR**2).sqrt()).clamp_(-_LIMIT, _LIMIT)


def noise_floor(r: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Residual power of the flattest tenth of an image over its mean power, 0 to 1.

    Added noise fills the flat regions and raises it (to 1 for noise alone); a convolution scales both alike.
    """
    power = avg_pool2d(r.square().mean(1, keepdim=True), min(5, *r.shape[-2:]), stride=2).flatten(1)
    return power.quantile(0.1, dim=1) / power.mean(1).clamp_min(1e-12)

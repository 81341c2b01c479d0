"""What denoising takes out of an image, with the content of the picture held down.

Perturbations are easiest to see where the picture is smooth, so the residual is divided by its local deviation, as in
the estimation of camera fingerprints (Lukas, Fridrich & Goljan, IEEE TIFS 2006; Mihcak et al., ICASSP 1999).
"""

from torch.nn.functional import avg_pool2d, pad

from ..shapes import Float, Tensor

_FLOOR = 2 / 255  # deviation of a perfectly flat region: below this there is only rounding
_LIMIT = 3.0


def residual(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """``x`` minus its binomial 3x3 blur (reflected border): the image without everything smooth. Same shape, mean 0."""
    rows = pad(x, (1, 1, 1, 1), mode="reflect")
    rows = rows[:, :, :-2] + rows[:, :, 2:] + 2 * rows[:, :, 1:-1]
    return x - (rows[..., :-2] + rows[..., 2:] + 2 * rows[..., 1:-1]) / 16


def whitened(r: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """A residual over its own deviation in 5x5 windows (all channels together), cut at 3.

    Texture counts no more than the same pattern on a flat wall.
    """
    power = avg_pool2d(r.square().mean(1, keepdim=True), 5, stride=1, padding=2, count_include_pad=False)
    return (r / (power + _FLOOR**2).sqrt()).clamp_(-_LIMIT, _LIMIT)


def flat_level(r: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Root mean square of a residual in the flattest tenth of the image (windows of 5 x 5).

    Added noise fills flat regions, whatever they show; a convolution leaves them flat.
    """
    power = avg_pool2d(r.square().mean(1, keepdim=True), min(5, *r.shape[-2:]), stride=2).flatten(1)
    return power.quantile(0.1, dim=1).sqrt()

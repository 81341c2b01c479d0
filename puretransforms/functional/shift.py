"""The differentiable twin of crop and flip: a sub-pixel shift and a mirror image, which attacks look through."""

import torch
from torch.nn.functional import affine_grid, grid_sample

from .shapes import Float, Tensor


def random_shift_flip(
    x: Float[Tensor, "b c h w"], generator: torch.Generator, max_shift: float | None = None
) -> Float[Tensor, "b c h w"]:
    """Shift each image by ``U(-max_shift, max_shift)`` pixels in both directions and mirror half of them.

    Bilinear, zeros from outside, differentiable in ``x`` (Geiping et al., ICLR 2021).

    Args:
        x: float ``[B, C, H, W]``.
        generator: on the CPU whatever the device of ``x``; three draws for each image.
        max_shift: in pixels; ``None`` for an eighth of the side, 4 pixels at 32, as in that paper's code.
    """
    batch, _, height, width = x.shape
    draws = torch.rand(batch, 3, generator=generator).to(x.device)
    sides = torch.tensor([width, height], device=x.device)
    shift = (draws[:, :2] * 2 - 1) * 2 * (sides / 8 if max_shift is None else max_shift) / sides
    theta = torch.zeros(batch, 2, 3, device=x.device)
    theta[:, 0, 0] = torch.where(draws[:, 2] < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = 1.0
    theta[:, :, 2] = shift
    grid = affine_grid(theta.to(x.dtype), list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

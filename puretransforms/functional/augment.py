"""Augmentation of a whole batch at once, in training and as attacks look through it; the generator is passed in."""

import torch
from torch.nn.functional import affine_grid, grid_sample, pad

from .shapes import Float, Tensor, UInt8


def random_crop_flip(
    images: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"],
    generator: torch.Generator,
    padding: int = 4,
    flip: bool = True,
) -> UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"]:
    """A random window of each zero-padded image, mirrored left-right with probability 1/2 (He et al. 2016).

    Args:
        images: uint8 or float ``[B, C, H, W]``.
        generator: on the CPU whatever the device of ``images``, so that a seed gives the same crops everywhere.
        padding: zeros added on each side, in pixels; the window keeps the size of the image.
        flip: mirror half of them; off for digits and letters.

    Returns:
        ``[B, C, H, W]`` of the same dtype, in ``channels_last`` memory format.
    """
    batch, _, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, batch, 1), generator=generator)
    flipped = torch.randint(2, (batch, 1), generator=generator, dtype=torch.bool) & flip
    rows = top + torch.arange(height)
    columns = left + torch.where(flipped, torch.arange(width).flip(0), torch.arange(width))
    rows, columns = rows.to(images.device), columns.to(images.device)
    padded = pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    samples = torch.arange(batch, device=images.device)
    return padded[samples[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_shift_flip(
    x: Float[Tensor, "b c h w"], generator: torch.Generator, max_shift: float | None = None
) -> Float[Tensor, "b c h w"]:
    """The differentiable twin of crop and flip: a sub-pixel shift, and half of the images mirrored.

    The shift is ``U(-max_shift, max_shift)`` pixels in both directions, bilinear, with zeros from outside (Geiping et
    al., ICLR 2021).

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


def random_shift(
    images: UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"], generator: torch.Generator, distance: int = 2
) -> UInt8[Tensor, "b c h w"] | Float[Tensor, "b c h w"]:
    """Each image moved by up to ``distance`` pixels along both axes, its border filled by reflection (airbench).

    Args:
        images: uint8 or float ``[B, C, H, W]``, larger than ``distance`` along both axes.
        generator: on the CPU whatever the device of ``images``, so that a seed gives the same shifts everywhere.
        distance: in pixels; every shift up to it is equally likely.

    Returns:
        ``[B, C, H, W]`` of the same dtype, in ``channels_last`` memory format.
    """
    batch, _, height, width = images.shape
    down, right = torch.randint(-distance, distance + 1, (2, batch, 1), generator=generator)
    rows = _reflect(torch.arange(height) + down, height).to(images.device)
    columns = _reflect(torch.arange(width) + right, width).to(images.device)
    samples = torch.arange(batch, device=images.device)
    pixels = images.permute(0, 2, 3, 1)
    return pixels[samples[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Indices outside ``0 .. size - 1`` mirrored at the first and the last."""
    return (size - 1) - ((size - 1) - index.abs()).abs()

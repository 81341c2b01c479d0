"""Training-time augmentation of a whole batch at once; all randomness comes from the generator passed in."""

import torch
from torch.nn.functional import pad

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

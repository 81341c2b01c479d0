"""COIN: random per-pixel interpolation (Li et al., AAAI 2025, arXiv 2311.18403).

Every pixel ``(i, j)`` of every image samples its own image at ``(i + dy, j + dx)``, ``dx, dy ~ U(-alpha, alpha)``,
bilinearly, with one offset for all channels. The map is linear in the image and its rows sum to 1.
"""

from functools import lru_cache

import torch
from torch.nn.functional import grid_sample, pad

from .random import KeyedNoise
from .shapes import Float, Tensor

BOUNDARIES = ("scipy_wrap", "circular", "border", "reflect")
_PADDING_MODE = {"scipy_wrap": "border", "circular": "border", "border": "border", "reflect": "reflection"}


def draw_offsets(noise: KeyedNoise, height: int, width: int, alpha: float) -> Float[Tensor, "b h w 2"]:
    """Offset field ``(dx, dy)`` in pixels, ``[B, H, W, 2]`` float32, uniform on ``(-alpha, alpha)``.

    16 bits a draw: 65,536 evenly spaced offsets, symmetric about 0, alpha / 32768 apart.
    """
    bits = noise.bits(0, 2 * height * width, torch.int16).view(len(noise), height, width, 2)
    return bits.to(torch.float32).add_(0.5).mul_(alpha / 32768)


def interpolate(
    images: Float[Tensor, "b c h w"], offsets: Float[Tensor, "b h w 2"], boundary: str = "scipy_wrap"
) -> Float[Tensor, "b c h w"]:
    """Sample every pixel bilinearly at its place plus its offset (the law of COIN for a given field).

    Args:
        images: ``[B, C, H, W]`` float, any number of channels, any range.
        offsets: ``[B, H, W, 2]``, ``(dx, dy)`` in pixels, same dtype as ``images``.
        boundary: where a sample point outside the image lands, for side length ``L``:
            ``"scipy_wrap"`` repeats with period ``L - 1`` (``scipy.ndimage.map_coordinates(order=1, mode="wrap")``, as
            the authors' code does: first and last pixel are the same point), ``"circular"`` with period ``L`` (the
            paper's modulo), ``"border"`` clamps, ``"reflect"`` mirrors about the centre of the edge pixel.
    """
    height, width = images.shape[-2:]
    if boundary == "circular":  # period L: the first row and column stand again behind the last
        images = pad(images, (0, 1, 0, 1), mode="circular")
    place, pixel = _sampling_frame(height, width, images.shape[-2], images.shape[-1], offsets.dtype, offsets.device)
    grid = torch.addcmul(place, offsets, pixel)
    if boundary in ("scipy_wrap", "circular"):  # period 2; round-half-even leaves -1 and 1 where they are
        grid.sub_(grid.mul(0.5).round_(), alpha=2)
    return grid_sample(images, grid, mode="bilinear", padding_mode=_PADDING_MODE[boundary], align_corners=True)


@lru_cache(maxsize=16)
def _sampling_frame(
    height: int, width: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "h w 2"], Float[Tensor, "h w 2"]]:
    """``(x, y)`` of every pixel, and the size of a pixel, where an image of ``rows x columns`` spans ``[-1, 1]``."""
    unit = torch.tensor((2 / max(columns - 1, 1), 2 / max(rows - 1, 1)), dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack((x, y), dim=-1) * unit - 1
    return place.to(device, dtype), unit.expand_as(place).contiguous().to(device, dtype)

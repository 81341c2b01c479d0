"""COIN: random per-pixel interpolation (Li et al., AAAI 2025, arXiv 2311.18403).

Every pixel ``(i, j)`` of every image samples its own image at ``(i + dy, j + dx)``, ``dx, dy ~ U(-alpha, alpha)``,
bilinearly, with one offset for all channels. The map is linear in the image and its rows sum to 1.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch.nn.functional import grid_sample, pad

from .random import KeyedNoise
from .shapes import Float, Tensor, UInt8

BOUNDARIES = ("scipy_wrap", "circular", "border", "reflect")
_PERIODIC = BOUNDARIES[:2]
_PADDING_MODE = {"scipy_wrap": "border", "circular": "border", "border": "border", "reflect": "reflection"}
_LEVELS = 1 << 15  # of an offset on each side of 0: 16 bits a draw
_CACHED = 1 << 17  # numbers of a grid that are worked on at a time: half a megabyte


def draw_offsets(noise: KeyedNoise, height: int, width: int, alpha: float) -> Float[Tensor, "b h w 2"]:
    """Offset field ``(dx, dy)`` in pixels, ``[B, H, W, 2]`` float32, uniform on ``(-alpha, alpha)``.

    16 bits a draw: 65,536 evenly spaced offsets, symmetric about 0, alpha / 32768 apart.
    """
    bits = noise.bits(0, 2 * height * width, torch.int16).view(len(noise), height, width, 2)
    return bits.to(torch.float32).add_(0.5).mul_(alpha / _LEVELS)


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
    place, pixel = _sampling_frame(*images.shape[-2:], boundary, 0.0, 1.0, offsets.dtype, offsets.device)
    return _sample(images, _wrap_(torch.addcmul(place, offsets, pixel), boundary), boundary)


def interpolate_randomly(
    images: Float[Tensor, "b c h w"], noise: KeyedNoise, alpha: float, boundary: str = "scipy_wrap"
) -> Float[Tensor, "b c h w"]:
    """``interpolate(images, draw_offsets(noise, H, W, alpha), boundary)``, but for float rounding, and faster.

    Random bits become sampling points in one pass, a piece of the grid at a time that stays in a core's cache. At the
    seam of a periodic boundary rounding may take a point of the last row or column for one of the first.

    Args:
        images: ``[B, C, H, W]`` float32 or float64, any number of channels, any range.
        noise: of the ``B`` images.
        alpha: as :func:`draw_offsets` takes it.
        boundary: as :func:`interpolate` takes it.
    """
    if not alpha:
        return images.clone()
    grid = images.new_empty(len(images), *images.shape[-2:], 2)
    pieces = grid.split(_rows(images))
    for _ in _draw_grid(noise, alpha, boundary, pieces):
        pass
    return _sample(images, grid, boundary)


def interpolate_levels_randomly(
    images: UInt8[Tensor, "b c h w"], noise: KeyedNoise, alpha: float, boundary: str = "scipy_wrap"
) -> UInt8[Tensor, "b c h w"]:
    """:func:`interpolate_randomly` of 8-bit levels, rounded: the law is linear, so 0..255 is as good as ``[0, 1]``."""
    if not alpha:
        return images.clone()
    rows = _rows(images, halvings=1)  # pixels take the other half of the cache
    floats = images.new_empty(min(rows, len(images)), *images.shape[1:], dtype=torch.float32)
    levels = floats.view(-1).view(torch.int16)[: floats.numel()].view(floats.shape)  # in the memory of what they follow
    out = torch.empty_like(images)
    buffer = floats.new_empty(len(floats), *images.shape[-2:], 2)
    sources, targets = images.split(rows), out.split(rows)
    pieces = [buffer if len(part) == len(buffer) else buffer[: len(part)] for part in sources]
    for source, target, grid in zip(sources, targets, _draw_grid(noise, alpha, boundary, pieces), strict=True):
        if len(source) < len(floats):
            floats, levels = floats[: len(source)], levels[: len(source)]
        sampled = _sample(floats.copy_(source), grid, boundary)
        target.copy_(levels.copy_(sampled.add_(0.5)))  # by int16: four times as fast on a CPU
    return out


def _rows(images: Tensor, halvings: int = 0) -> int:
    """Images that are worked on at a time: as many as stay in the caches of a CPU; all on a GPU, or if compiled."""
    height, width = images.shape[-2:]
    if images.is_cuda or torch.compiler.is_compiling():
        return len(images)
    threads = torch.get_num_threads()
    share = 1 if threads == 1 else 4  # for each: to start threads for a shorter pass would cost more than a cache saves
    return max(1, (_CACHED >> halvings) // (2 * height * width)) * threads * share


def _draw_grid(
    noise: KeyedNoise, alpha: float, boundary: str, pieces: Sequence[Tensor]
) -> Iterator[Float[Tensor, "r h w 2"]]:
    """Fill ``pieces`` of a grid, ``[R, H, W, 2]`` each, with the sampling points of one part of the samples each."""
    height, width = pieces[0].shape[1:3]
    unit = alpha / _LEVELS
    place, step = _sampling_frame(height, width, boundary, unit / 2, unit, pieces[0].dtype, pieces[0].device)
    minus_one = place.new_full((), -1.0)
    periodic = boundary in _PERIODIC
    if periodic:  # in periods, and far enough above 0 for the fraction to be what is left of whole periods
        place, step = place.add(1).div_(2).add_(math.ceil(alpha / max(min(height, width) - 1, 1))), step / 2
    for piece, bits in zip(pieces, noise.bit_pieces(0, 2 * height * width, torch.int16, len(pieces[0])), strict=True):
        piece.copy_(bits.view_as(piece))
        torch.addcmul(place, piece, step, out=piece)
        yield torch.add(minus_one, piece.frac_(), alpha=2, out=piece) if periodic else piece


def _wrap_(grid: Float[Tensor, "b h w 2"], boundary: str) -> Float[Tensor, "b h w 2"]:
    """Periodic boundaries have period 2 here; round-half-even leaves -1 and 1 where they are."""
    return grid.sub_(grid.mul(0.5).round_(), alpha=2) if boundary in _PERIODIC else grid


def _sample(images: Tensor, grid: Tensor, boundary: str) -> Tensor:
    if boundary == "circular":  # period L: the first row and column stand again behind the last
        images = pad(images, (0, 1, 0, 1), mode="circular")
    return grid_sample(images, grid, mode="bilinear", padding_mode=_PADDING_MODE[boundary], align_corners=True)


@lru_cache(maxsize=16)
def _sampling_frame(
    height: int, width: int, boundary: str, shift: float, unit: float, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "h w 2"], Float[Tensor, "h w 2"]]:
    """``(x, y)`` of every pixel moved by ``shift`` pixels, and the size of ``unit`` pixels, in an image on [-1, 1]."""
    behind = 0 if boundary == "circular" else 1
    pixel = torch.tensor((2 / max(width - behind, 1), 2 / max(height - behind, 1)), dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = (torch.stack((x, y), dim=-1) + shift) * pixel - 1
    return place.to(device, dtype), (pixel * unit).expand_as(place).contiguous().to(device, dtype)

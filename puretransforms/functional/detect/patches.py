"""The same small patch at the same place in suspiciously many images of a class: pixel shortcuts and patch triggers.

One pixel: One-Pixel Shortcut (Wu et al., ICLR 2023, arXiv 2205.12141). Patches: BadNets (Gu et al., 2017).
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from ..shapes import Bool, Int, Tensor, UInt8

_MULTIPLIER = 0x2545F491  # odd
_CONTRAST = 32  # levels: a patch must stand out from what is around it, or span twice as much itself


@dataclass(frozen=True, slots=True)
class RepeatedPatch:
    """The most repeated patch of one class.

    Attributes:
        size: side in pixels.
        row, column: its top left pixel.
        share: of the images of the class.
        usual: the share that the most repeated patch has at nine places of ten, or less: high in line drawings.
        carriers: bool ``[N]``, the images of the class that hold it.
        code: its number, as :func:`patch_codes` gives it; -1 if there is none.
    """

    size: int
    row: int
    column: int
    share: float
    usual: float
    carriers: Bool[Tensor, " n"]
    code: int = -1


def standing_out(pixels: UInt8[Tensor, "n c h w"], size: int) -> Bool[Tensor, "n i j"]:
    """Where a ``size x size`` patch differs by 32 levels from its surroundings (2 pixels wide), or spans 64 itself."""
    x = pixels.float()
    inner = avg_pool2d(x, size, stride=1)
    margin = size + 4
    around = avg_pool2d(pad(x, (2, 2, 2, 2), mode="replicate"), margin, stride=1)
    ring = (around * margin**2 - inner * size**2) / (margin**2 - size**2)
    out = (inner - ring).abs().amax(1) >= _CONTRAST
    if size > 1:
        span = max_pool2d(x, size, stride=1) + max_pool2d(-x, size, stride=1)
        out |= span.amax(1) >= 2 * _CONTRAST
    return out


def patch_codes(pixels: UInt8[Tensor, "n c h w"], size: int) -> Int[Tensor, "n i j"]:
    """A number for what stands in each patch, from the upper 4 bits of its values; others rarely share it."""
    coarse = (pixels >> 4).int()
    rows, columns = pixels.shape[2] - size + 1, pixels.shape[3] - size + 1
    code = torch.zeros(len(pixels), rows, columns, dtype=torch.int32)
    for channel in range(pixels.shape[1]):
        for i in range(size):
            for j in range(size):
                code = (code + coarse[:, channel, i : i + rows, j : j + columns] + 1) * _MULTIPLIER
                code ^= code >> 15
    return code


def repeated_patch(pixels: UInt8[Tensor, "n c h w"], size: int) -> RepeatedPatch:
    """The patch of side ``size`` that most of ``pixels`` (all of one class, at least one image) hold at one place."""
    codes = patch_codes(pixels, size)
    codes[~standing_out(pixels, size)] = -1
    n, _, columns = codes.shape
    flat = codes.flatten(1)
    ordered = flat.sort(dim=0).values
    counts = _longest_run(ordered)
    most = counts.amax(0)
    place = int(most.argmax())
    number, end = int(most[place]), int(counts[:, place].argmax())
    usual = float(most.float().quantile(0.9)) / n
    code = int(ordered[end, place]) if number else -1
    carriers = flat[:, place] == code if number else torch.zeros(n, dtype=torch.bool)
    return RepeatedPatch(size, place // columns, place % columns, number / n, usual, carriers, code)


def holds(pixels: UInt8[Tensor, "n c h w"], patch: RepeatedPatch) -> Bool[Tensor, " n"]:
    """Which images hold ``patch``, by the rule by which it was found."""
    top, left = max(patch.row - 2, 0), max(patch.column - 2, 0)
    around = pixels[:, :, top : patch.row + patch.size + 2, left : patch.column + patch.size + 2]
    place = (slice(None), patch.row - top, patch.column - left)
    same = patch_codes(around, patch.size)[place] == patch.code
    return same & standing_out(around, patch.size)[place]


def _longest_run(ordered: Int[Tensor, "n p"]) -> Int[Tensor, "n p"]:
    """Position of each value within its run of equals, from 1 (0 for the value -1); columns are sorted."""
    n = len(ordered)
    index = torch.arange(n)[:, None].expand_as(ordered)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    first = torch.where(starts, index, 0).cummax(0).values
    return torch.where(ordered == -1, 0, index - first + 1)

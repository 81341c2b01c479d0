"""The part of each drawn image that a scan keeps in memory, in one buffer for each shape."""

import torch

from ..functional.shapes import Tensor, UInt8

WINDOW = 32  # pixels kept at each corner of a large image
_FIRST = 1024  # rows, where the number of images is not known


class Views:
    """Views of images, put in one after the other and never held twice.

    A list of small tensors that is stacked at the end costs thrice the bytes of its pixels. Here each shape has one
    buffer, of which the operating system gives out only the pages that are written.

    Args:
        expected: images to come, and rows of the first buffer; ``None`` if unknown. Buffers grow by doubling.
    """

    def __init__(self, expected: int | None = None) -> None:
        self.expected = expected
        self._buffers: dict[tuple[int, int], Tensor] = {}
        self._order: dict[tuple[int, int], list[int]] = {}
        self._number = 0

    def add(self, pixels: UInt8[Tensor, "3 h w"]) -> None:
        """Keep a copy: the whole image up to 64 x 64 pixels, of larger ones the corners."""
        height, width = pixels.shape[1:]
        if max(height, width) > 2 * WINDOW:
            pixels = corners(pixels, min(WINDOW, height // 2, width // 2))
        shape = (pixels.shape[1], pixels.shape[2])
        order = self._order.setdefault(shape, [])
        buffer = self._buffers.get(shape)
        if buffer is None or len(order) == len(buffer):
            first = _FIRST if self.expected is None or self._number else self.expected  # most sets have one shape
            rows = first if buffer is None else 2 * len(order)
            grown = torch.empty(max(rows, 1), *pixels.shape, dtype=torch.uint8)
            if buffer is not None:
                grown[: len(order)] = buffer
            self._buffers[shape] = buffer = grown
        buffer[len(order)] = pixels
        order.append(self._number)
        self._number += 1

    def whole(self) -> UInt8[Tensor, "n 3 h w"]:
        """All views, which must be of one shape."""
        ((shape, buffer),) = self._buffers.items()
        return buffer[: len(self._order[shape])]

    def cornered(self) -> UInt8[Tensor, "n 3 s s"]:
        """The corners of all views, as wide as the smallest of them allows; the buffers are given up."""
        side = min(min(shape) for shape in self._buffers) // 2
        if list(self._buffers) == [(2 * side, 2 * side)]:
            return self.whole()
        out = torch.empty(self._number, 3, 2 * side, 2 * side, dtype=torch.uint8)
        for shape, order in self._order.items():
            buffer = self._buffers.pop(shape)
            for row, place in enumerate(order):
                out[place] = corners(buffer[row], side)
        return out


def corners(pixels: UInt8[Tensor, "3 h w"], side: int) -> UInt8[Tensor, "3 s s"]:
    """The four corners of ``side`` pixels as one picture."""
    top, bottom = pixels[:, :side], pixels[:, -side:]
    rows = [torch.cat([row[..., :side], row[..., -side:]], 2) for row in (top, bottom)]
    return torch.cat(rows, 1)

"""What a scan remembers of the images it has read: bounded in size, whatever they are."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ..errors import SourceError
from ..functional.detect.agreement import Agreement, agreement, agreement_with, coarse_form, unit_rows
from ..functional.detect.edges import ring_log_ratios
from ..functional.detect.residual import residual, whitened
from ..functional.shapes import Float, Int, Tensor, UInt8
from .source import Item

SMALLEST = 16  # pixels; nothing can be said of smaller images
WINDOW = 32  # pixels kept at each corner of a large image
_FIRST = 1024  # rows of a buffer, where the number of images is not known
PAIRED = 1000  # images of a class that are compared with each other
_CHUNK = 512
_CLASSES = 100


@dataclass
class Sample:
    """Views of the drawn images, and what is measured on each at its full size.

    A view is the whole image where all images have the same size up to 64 x 64, else its four corners of up to 32 x 32
    pixels, as four tiles of one picture.

    Attributes:
        pixels: the views, uint8 ``[N, 3, h, w]``.
        tiled: views are four corners.
        labels: int64 ``[N]``, from 0, without gaps in ``classes``.
        names: path or index of each image.
        index: place of each image in the source, counted from 0 over its images.
        classes: class names.
        numbers: the label that each class has in the source.
        ratios: ``[N, 12]``, see :func:`puretransforms.functional.detect.edges.ring_log_ratios`.
        total: images in the source, ``None`` if unknown.
        left_out: number of images by the reason for which they could not be used.
        sizes: ``(height, width)`` of the smallest and of the largest image.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    tiled: bool
    labels: Int[Tensor, " n"]
    names: list[str]
    index: list[int]
    classes: list[str]
    numbers: list[int]
    ratios: Float[Tensor, "n 12"]
    total: int | None
    left_out: Counter[str]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    _agreements: dict[int, Agreement] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def members(self, label: int) -> Int[Tensor, " m"]:
        """Indices of the images of a class, in their random order."""
        return (self.labels == label).nonzero()[:, 0]

    def images(self, rows: Int[Tensor, " m"]) -> Float[Tensor, "m 3 h w"]:
        """Views in ``[0, 1]``."""
        return self.pixels[rows].float().div_(255)

    def residuals(self, rows: Int[Tensor, " m"]) -> Float[Tensor, "m 3 h w"]:
        """Residuals of views, tile by tile."""
        return self._by_tile(residual, rows)

    def whitened(self, rows: Int[Tensor, " m"]) -> Float[Tensor, "m 3 h w"]:
        """Whitened residuals of views, tile by tile."""
        return self._by_tile(lambda x: whitened(residual(x)), rows)

    def pictures(self, rows: Int[Tensor, " m"]) -> Float[Tensor, "m 3 h w"]:
        """What is left of views without their residuals."""
        return self._by_tile(lambda x: x - residual(x), rows)

    def directions(self, rows: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Whitened residuals less what all images share, as rows of length 1."""
        return unit_rows(self.whitened(rows) - self.shared)

    def forms(self, rows: Int[Tensor, " m"]) -> Float[Tensor, "m k"]:
        """Coarse forms less their mean over the dataset, as rows of length 1."""
        return unit_rows(coarse_form(self.images(rows)) - self._mean_form)

    def agreement_of(self, label: int) -> Agreement:
        """How far the residuals of a class agree (its first 1,000 images; kept, for two detectors ask for it)."""
        if label not in self._agreements:
            rows = self.members(label)[:PAIRED]
            self._agreements[label] = agreement(self.directions(rows), self.forms(rows))
        return self._agreements[label]

    def agreement_of_rest(self, label: int) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
        """``(images, each, nearest)`` of those of a class beyond its first 1,000, against these."""
        rows = self.members(label)
        rest = rows[PAIRED:]
        if not len(rest):
            return rest, torch.empty(0), torch.empty(0)
        paired = self.directions(rows[:PAIRED]), self.forms(rows[:PAIRED])
        found = [agreement_with(*paired, self.directions(part), self.forms(part)) for part in rest.split(_CHUNK)]
        each, nearest = (torch.cat(parts) for parts in zip(*found, strict=True))
        return rest, each, nearest

    def without(self, rows: Iterable[int]) -> "Sample":
        """The other images, in their order; every class must keep one."""
        left = torch.ones(len(self), dtype=torch.bool)
        left[torch.tensor(list(rows), dtype=torch.int64)] = False
        places = left.nonzero()[:, 0].tolist()
        return replace(
            self,
            pixels=self.pixels[left],
            labels=self.labels[left],
            names=[self.names[i] for i in places],
            index=[self.index[i] for i in places],
            ratios=self.ratios[left],
            _agreements={},
        )

    @cached_property
    def shared(self) -> Float[Tensor, "3 h w"]:
        """What the classes have in common: the median, pixel by pixel, of their mean whitened residuals (the 100
        largest classes); of a single class only the 8-periodic part of its mean, which is the grid of JPEG.

        Not the mean of all images: of a pattern on one class it would hold a part, which all other classes would lack
        together.
        """
        largest = self.labels.bincount().argsort(descending=True)[:_CLASSES].tolist()
        means = torch.stack([self._mean(self.whitened, self.members(label)) for label in largest])
        if len(means) > 1:
            ordered = means.sort(0).values
            return (ordered[(len(means) - 1) // 2] + ordered[len(means) // 2]) / 2
        (mean,) = means
        periodic = torch.empty_like(mean)
        for i in range(8):
            for j in range(8):
                periodic[:, i::8, j::8] = mean[:, i::8, j::8].mean((1, 2), keepdim=True)
        return periodic

    @cached_property
    def _mean_form(self) -> Float[Tensor, " k"]:
        return self._mean(lambda rows: coarse_form(self.images(rows)), torch.arange(len(self)))

    def _mean(self, function: Callable[[Tensor], Tensor], rows: Int[Tensor, " m"]) -> Tensor:
        """Of ``function`` over ``rows``. One sum, in place: many small results that live on between large
        temporary ones would keep the allocator from giving those back."""
        total: Any = 0
        for part in rows.split(_CHUNK):
            total += function(part).sum(0)
        return total / len(rows)

    def _by_tile(self, function: Callable[[Tensor], Tensor], rows: Int[Tensor, " m"]) -> Tensor:
        out = torch.empty(len(rows), *self.pixels.shape[1:])
        for part, into in zip(rows.split(_CHUNK), out.split(_CHUNK), strict=True):
            x = self.images(part)
            into[:] = from_tiles(function(to_tiles(x)), len(x)) if self.tiled else function(x)
        return out


def gather(items: Iterable[Item], classes: Mapping[int, str], total: int | None, drawn: int | None = None) -> Sample:
    """Read every item once and keep its view.

    Args:
        items: what is drawn.
        classes: class names by label, as far as they are known.
        total: images in the source.
        drawn: how many items there will be, if that is known.

    Raises:
        SourceError: no image that can be used.
    """
    views, ratios = Views(drawn), array("f")
    labels, names, index = array("q"), [], []
    sizes: Counter[tuple[int, int]] = Counter()
    left_out: Counter[str] = Counter()
    for item in items:
        if item.pixels is None:
            left_out[item.problem] += 1
            continue
        height, width = item.pixels.shape[1:]
        if min(height, width) < SMALLEST:
            left_out[f"smaller than {SMALLEST} pixels"] += 1
            continue
        ratios.extend(ring_log_ratios(item.pixels[None].float().div_(255))[0].tolist())
        views.add(item.pixels)
        labels.append(item.label)
        names.append(item.name)
        index.append(item.index)
        sizes[height, width] += 1
    if not labels:
        why = "; ".join(f"{number} {reason}" for reason, number in left_out.items()) or "it is empty"
        raise SourceError(f"expected at least one image to scan, got none ({why}): give a folder or dataset of images.")
    tiled = len(sizes) > 1 or max(max(sizes)) > 2 * WINDOW
    present, numbers = torch.tensor(labels).unique(return_inverse=True)
    return Sample(
        pixels=views.cornered() if tiled else views.whole(),
        tiled=tiled,
        labels=numbers,
        names=names,
        index=index,
        classes=[classes.get(label, str(label)) for label in present.tolist()],
        numbers=present.tolist(),
        ratios=torch.tensor(ratios).view(-1, 12),
        total=total,
        left_out=left_out,
        sizes=(min(sizes), max(sizes)),
    )


def to_tiles(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "m c i j"]:
    """The four tiles of each view, ``m = 4 n``."""
    n, c, h, w = x.shape
    return x.view(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(4 * n, c, h // 2, w // 2)


def from_tiles(tiles: Float[Tensor, "m c i j"], n: int) -> Float[Tensor, "n c h w"]:
    """The views again."""
    _, c, h, w = tiles.shape
    return tiles.view(n, 2, 2, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(n, c, 2 * h, 2 * w)


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

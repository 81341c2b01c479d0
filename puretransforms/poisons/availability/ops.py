"""OPS: One-Pixel Shortcut (Wu et al., ICLR 2023, arXiv 2205.12141).

For each class one pixel is set to one saturated colour ``v`` of ``{0, 1}^C``, chosen to maximise
``G = mean |v - x| / std |v - x|`` over the images of the class and the channels jointly. With the class's mean ``m_i``
and mean square ``q_i`` of channel ``i`` at a pixel both moments are closed forms: ``|v - x|`` is ``1 - x`` or ``x``.
"""

import itertools
from collections.abc import Iterator, Sized
from typing import Any, cast

import torch
from torch.utils.data import Dataset, Subset

from ...data.samples import LabelledImages
from ...errors import LabelError, NoImageError, NotFittedError
from ...functional.checks import whole
from ...functional.random import KeyedNoise
from ...functional.shapes import Float, Images, Int, Labels, Pixels, Tensor
from ...registry import register
from ..base import Poison, open_images
from ..progress import Progress

_PART = 256  # samples at a time


@register("ops")
class OPS(Poison):
    """Set one pixel per class to one colour in every image of the class; it must see the clean data first.

    Classes are served in label order, and a (pixel, colour) pair that one class took is closed to the later ones.
    Fitting streams: a torch dataset is read in parts, and only sums of ``x`` and ``x^2`` are kept. Neither a surrogate
    nor an index is used.

    Args:
        sparsity: pixels per class (norm ``"l0"``): the best ones.
        num_classes, quantize: see :class:`~puretransforms.poisons.base.Poison`; the authors truncate.

    Raises:
        NotFittedError: used before :meth:`fit`.
        LabelError: a class of which no image was seen in :meth:`fit`.
    """

    needs_fit = True
    norm = "l0"

    def __init__(self, *, sparsity: int = 1, num_classes: int = 10, quantize: str | None = "trunc") -> None:
        super().__init__(num_classes=num_classes, quantize=quantize)
        self.sparsity = whole("sparsity", sparsity, least=1)
        self.epsilon = float(self.sparsity)
        self._forget()

    def _forget(self) -> None:
        self._count: Tensor | None = None
        self._sums: Tensor | None = None  # [2, num_classes, C, H, W] of x and x^2
        self._tables.clear()

    @property
    def fitted(self) -> bool:
        """Has it seen any image?"""
        return self._count is not None

    def _learn(self, dataset: Any, surrogate: Any, index: Any, device: Any, progress: Progress) -> None:
        """A torch dataset is read in parts, and never held in memory."""
        super()._learn(dataset, surrogate, index, device, progress)
        self._forget()
        for part in _parts(dataset):
            images, labels = self._gather(part, device)
            for batch in zip(images.split(_PART), labels.split(_PART), strict=True):
                self._add(*batch)

    def _add(self, images: Pixels, labels: Labels) -> None:
        """Add one batch to the class statistics."""
        x = open_images(images)[0].double()
        if self._sums is None or self._count is None:  # both or neither
            self._sums = x.new_zeros(2, self.num_classes, *x.shape[1:])
            self._count = x.new_zeros(self.num_classes)
        if x.shape[1:] != self._sums.shape[2:]:
            sizes = [list(self._sums.shape[2:]), list(x.shape[1:])]
            raise NoImageError(f"expected images of one size to fit OPS to, got {sizes}: resize or crop them first.")
        self._count.index_add_(0, labels, torch.ones_like(x[:, 0, 0, 0]))
        self._sums[0].index_add_(0, labels, x)
        self._sums[1].index_add_(0, labels, x * x)

    def scores(self) -> Float[Tensor, "k v h w"]:
        """``G`` of every class, colour (in the order of :func:`colours`) and pixel; 0 where it is 0/0."""
        sums, count = cast(Tensor, self._sums), cast(Tensor, self._count)  # of a fitted poison
        mean, square = sums / count.clamp_min(1)[:, None, None, None]
        lit = colours(mean.shape[1]).to(mean)[:, :, None, None]  # [V, C, 1, 1]
        distance = torch.where(lit > 0, 1 - mean[:, None], mean[:, None]).mean(2)
        second = torch.where(lit > 0, (1 - 2 * mean + square)[:, None], square[:, None]).mean(2)
        return (distance / (second - distance**2).clamp_min(0).sqrt()).nan_to_num(0.0, posinf=torch.inf)

    def shortcuts(self, channels: int, height: int, width: int) -> Int[Tensor, "k s two"]:
        """``(pixel, colour)`` indices of every class, ``[num_classes, sparsity, 2]``, the best first; -1: class unseen.

        A pixel index counts row by row, a colour index is that of :func:`colours`.
        """
        if self._sums is None or self._sums.shape[2:] != (channels, height, width):
            fitted = "nothing" if self._sums is None else f"images of shape {list(self._sums.shape[2:])}"
            raise NotFittedError(
                f"expected OPS to be fitted on images of shape {[channels, height, width]}, but it knows {fitted}: "
                "call fit(dataset) with the clean data first (PoisonedDataset does)."
            )
        scores = self.scores().flatten(2)
        taken = torch.zeros_like(scores[0], dtype=torch.bool)
        out = torch.full((self.num_classes, self.sparsity, 2), -1, device=scores.device)
        for label in cast(Tensor, self._count).nonzero()[:, 0].tolist():
            open_ = scores[label].masked_fill(taken, 0)
            for place in range(self.sparsity):
                colour, pixel = divmod(int(open_.argmax()), height * width)
                out[label, place] = torch.tensor([pixel, colour])
                taken[colour, pixel] = True
                open_[:, pixel] = 0  # each of a class's pixels is another one
        return out

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        chosen = self._table(self.shortcuts, x, torch.int64)[labels]
        if bool((chosen < 0).any()):
            unseen = int(labels[chosen[:, 0, 0] < 0][0])
            raise LabelError(
                f"expected a class that OPS was fitted on, got label {unseen}, unseen in fit: fit on every class."
            )
        pixels = chosen[:, None, :, 0].expand(-1, x.shape[1], -1)
        values = colours(x.shape[1]).to(x)[chosen[..., 1]].transpose(1, 2)
        return x.flatten(2).scatter(2, pixels, values).view_as(x)


def _parts(dataset: Any) -> Iterator[Any]:
    """A torch dataset in parts of some hundred samples; anything else as it is."""
    if not isinstance(dataset, Dataset) or isinstance(dataset, LabelledImages):
        yield dataset
        return
    size = len(cast(Sized, dataset))
    for first in range(0, size, _PART):
        yield Subset(dataset, range(first, min(first + _PART, size)))


def colours(channels: int) -> Float[Tensor, "v c"]:
    """The ``2^C`` saturated colours, ``[2^C, C]``, black first."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=channels)))

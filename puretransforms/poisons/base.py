"""The protocol of every poison, and all of its plumbing: types, labels, seeds, budget and the 8-bit grid."""

import inspect
import operator
from typing import Any, ClassVar

import PIL.Image
import torch
from torchvision.transforms import v2

from ..data.images import Restore, to_batch
from ..errors import LabelError, NoImageError
from ..functional.checks import choice, whole
from ..functional.checks import seed as checked_seed
from ..functional.perturbation import QUANTIZE, settle
from ..functional.random import KeyedNoise, content_ids
from ..functional.shapes import Bool, Float, Int, Tensor
from .progress import OnProgress


class Poison(v2.Transform):
    """Base of all poisons: ``poison(images, labels, index=None) -> (images', labels')``.

    Also takes one ``(image, label)`` sample, so it stands in ``v2.Compose`` before the augmentations (poison first,
    augment later). Images: PIL (RGB, L, RGBA, LA), or tensors and tv_tensors ``[..., C, H, W]``, uint8 or float in
    ``[0, 1]``; the result has the same type, dtype, shape and device. Labels: an int, or an integer tensor of the
    leading shape of the images. ``index``: the place of each image in its data set, in the shape of the labels; without
    it the draw is keyed by the pixels.

    The perturbation is a function of ``(seed, index)`` (or of ``(seed, class)``): never redrawn, the same in any batch,
    order, worker or process, and no global random state is read or moved. The result lies on the 8-bit grid even for
    float images, since a poison must survive storage as PNG.

    A subclass writes :meth:`perturb`, and where it applies :meth:`partial_fit`, :meth:`relabel`, :meth:`eligible`.
    ``epsilon`` and ``norm`` state its budget where it has one (norms: :mod:`puretransforms.functional.perturbation`).

    Args:
        num_classes: labels lie in ``0 .. num_classes - 1``.
        seed: 0 to 2**32 - 1.
        quantize: to the nearest 8-bit level (``"round"``), the one below (``"trunc"``), or not at all (``None``).

    Raises:
        LabelError: labels (or indices) missing, not integers, of the wrong shape, or out of range.
        NoImageError, RangeError: see :func:`puretransforms.data.images.to_batch`.
    """

    needs_fit: ClassVar[bool] = False
    fits_in_parts: ClassVar[bool] = True  # by partial_fit; otherwise fit needs the whole data set at once
    epsilon: float | None = None
    norm: str | None = None
    default_rate: ClassVar[float] = 1.0  # share of a data set to poison where nothing else is said
    covers: "Poison | None" = None  # what a data set also gives to clean-labelled decoys (WaNet's noise mode)
    cover_ratio: float = 0.0  # decoys for each poisoned sample
    _chunk: ClassVar[int] = 1 << 18  # pixel values worked on at a time: they stay in the cache

    def __init__(self, *, num_classes: int = 10, seed: int = 0, quantize: str | None = "round") -> None:
        super().__init__()
        self.num_classes = whole("num_classes", num_classes, least=1)
        self.seed = checked_seed(seed, bits=32, optional=False)
        self.quantize = choice("quantize", quantize, QUANTIZE)
        self._tables: dict[Any, Any] = {}

    def perturb(self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], noise: KeyedNoise) -> Tensor:
        """Poison a float batch in ``[0, 1]``; row ``i`` may use row ``i`` of ``labels`` and ``noise`` only.

        The result may leave ``[0, 1]``: it is clamped and quantised afterwards.
        """
        raise NotImplementedError(f"{type(self).__name__} must define perturb(x, labels, noise).")

    def partial_fit(self, images: Tensor, labels: Tensor) -> "Poison":
        """Learn from one batch of the clean data (``[B, C, H, W]``, ``[B]``); most poisons learn nothing."""
        return self

    def reset(self) -> "Poison":
        """Forget what was fitted."""
        return self

    def fit(self, images: Tensor, labels: Tensor, *, on_progress: OnProgress | None = None) -> "Poison":
        """Learn from the whole clean data set (``[N, C, H, W]``, ``[N]``).

        ``on_progress`` is called as the work goes on with :class:`~puretransforms.poisons.progress.CraftRecord`; a fit
        of one pass over the data says nothing.
        """
        return self.reset().partial_fit(images, labels)

    @property
    def fitted(self) -> bool:
        """Is this poison ready for use?"""
        return not self.needs_fit

    def relabel(self, labels: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The labels that poisoned samples carry: the true ones, unless a dirty-label backdoor says otherwise."""
        return labels

    def eligible(self, labels: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Which samples this poison can be applied to; the others pass through unchanged."""
        return torch.ones_like(labels, dtype=torch.bool)

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor arguments that make an equal poison (its fit excepted)."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def check_labels(self, labels: Tensor) -> None:
        """Raise :class:`~puretransforms.errors.LabelError` unless all labels lie in ``0 .. num_classes - 1``."""
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise LabelError(
                f"expected labels from 0 to {self.num_classes - 1}, got {low if low < 0 else high}: "
                f"pass {type(self).__name__}(num_classes=...) for the number of classes of the data set."
            )

    @torch.no_grad()
    def forward(self, images: Any, labels: Any = None, index: Any = None) -> tuple[Any, Any]:
        """Poison images of the given true labels; see the class."""
        if labels is None:
            images, labels = _pair(images)
        x, restore, shape = open_images(images)
        y = _integers(labels, shape, x.device, "labels")
        self.check_labels(y)
        ids = content_ids(x) if index is None else _integers(index, shape, x.device, "index")
        poisoned, targets = self._poison(x, y, KeyedNoise(self.seed, ids))
        if isinstance(labels, Tensor):
            return restore(poisoned), targets.reshape(labels.shape).to(labels)
        return restore(poisoned), int(targets)

    def _poison(self, x: Tensor, labels: Tensor, noise: KeyedNoise) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(x)
        rows = max(1, self._chunk // x[0].numel())
        for i in range(0, len(x), rows):
            part = slice(i, i + rows)
            out[part] = self._settle(self.perturb(x[part], labels[part], noise[part]), x[part])
        chosen = self.eligible(labels)
        if not bool(chosen.all()):
            out = torch.where(chosen[:, None, None, None], out, x)
        return out, torch.where(chosen, self.relabel(labels), labels)

    def _settle(self, poisoned: Tensor, clean: Tensor) -> Tensor:
        linf = self.epsilon if self.norm == "linf" else None
        return settle(poisoned.to(clean.dtype), clean, self.quantize, linf)

    def _table(self, make: Any, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """``make(channels, height, width)`` for the shape of ``x``: a per-data-set table, computed once per shape."""
        key = (make.__name__, x.shape[1:], x.device, dtype or x.dtype)
        if key not in self._tables:
            self._tables[key] = make(*x.shape[1:]).to(x.device, dtype or x.dtype)
        return self._tables[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}


def _pair(sample: Any) -> tuple[Any, Any]:
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[0], sample[1]
    got = f"{len(sample)} items" if isinstance(sample, tuple | list) else type(sample).__name__
    raise LabelError(
        f"expected poison(images, labels) or one (image, label) pair, got {got} without labels: "
        "a poison depends on the label, so pass it too."
    )


def open_images(images: Any) -> tuple[Tensor, Restore, torch.Size]:
    """The float batch of ``images``, the way back, and their leading shape."""
    if isinstance(images, PIL.Image.Image):
        if images.mode == "P":
            raise NoImageError(
                "expected a PIL image of mode RGB, L, RGBA or LA, got mode P, whose palette cannot hold a poison: "
                'convert it first with image.convert("RGB").'
            )
        return *to_batch(images), torch.Size()
    if not isinstance(images, Tensor):
        raise NoImageError(
            f"expected a PIL image or a tensor [..., C, H, W] first, got {type(images).__name__}: "
            "convert arrays with torch.from_numpy (CHW) or v2.ToImage() (HWC), and give the label second."
        )
    return *to_batch(images), images.shape[:-3]


def _integers(value: Any, shape: torch.Size, device: torch.device, name: str) -> Tensor:
    """``value`` as a flat int64 tensor, if it is an integer for each image."""
    if isinstance(value, Tensor):
        if value.dtype == torch.bool or value.dtype.is_floating_point or value.dtype.is_complex:
            raise LabelError(
                f"expected {name} of an integer dtype, got {value.dtype}: use tensor.argmax(-1) or .long()."
            )
        if value.shape != shape:
            raise LabelError(
                f"expected {name} of shape {list(shape)}, one for each image, got {list(value.shape)}: "
                "index the class of one-hot labels with .argmax(-1)."
            )
        return value.reshape(-1).to(device, torch.int64)
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise LabelError(
            f"expected {name} as an int or an integer tensor, got {type(value).__name__}: use torch.as_tensor({name})."
        )
    if len(shape):
        raise LabelError(f"expected {name} of shape {list(shape)}, got one int: pass an integer tensor.")
    return torch.tensor([number], device=device)

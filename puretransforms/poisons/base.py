"""The protocol of every poison, and all of its plumbing: types, labels, seeds, budget and the 8-bit grid."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import PIL.Image
import torch
from torch import nn
from torchvision.transforms import v2

from ..data.images import Restore, to_batch, unwrap
from ..data.samples import check_labels, gather
from ..errors import HardwareError, LabelError, NoImageError, SurrogateError
from ..functional.checks import as_int, choice, whole
from ..functional.checks import seed as checked_seed
from ..functional.perturbation import QUANTIZE, settle
from ..functional.random import KeyedNoise, content_ids
from ..functional.shapes import Bool, Images, Int, Labels, Tensor, UInt8
from ..registry import refuse_unknown
from .progress import OnProgress, Progress

P = TypeVar("P", bound="Poison")


class Poison(v2.Transform):
    """Base of all poisons: ``poison(images, labels, index=None) -> (images', labels')``.

    Also takes one ``(image, label)`` sample, so it stands in ``v2.Compose`` before the augmentations (poison first,
    augment later). Images: PIL (RGB, L, RGBA, LA), or tensors and tv_tensors ``[..., C, H, W]``, uint8 or float in
    ``[0, 1]``; the result has the same type, dtype, shape and device. Labels: an int, or an integer tensor of the
    leading shape of the images. ``index``: the place of each image in its dataset, in the shape of the labels; without
    it the draw is keyed by the pixels.

    The perturbation is a function of ``(seed, index)`` (or of ``(seed, class)``): never redrawn, the same in any batch,
    order, worker or process, and no global random state is read or moved. The result lies on the 8-bit grid even for
    float images, since a poison must survive storage as PNG.

    A subclass writes :meth:`perturb`; where it applies :meth:`relabel` and :meth:`eligible`; and :meth:`fit` and
    :attr:`fitted`, with ``needs_fit = True``, where it learns from the clean data. ``epsilon`` and ``norm`` state its
    budget where it has one (norms: :mod:`puretransforms.functional.perturbation`).

    Args:
        num_classes: labels lie in ``0 .. num_classes - 1``.
        seed: 0 to 2**32 - 1.
        quantize: to the nearest 8-bit level (``"round"``), the one below (``"trunc"``), or not at all (``None``).

    Raises:
        LabelError: labels (or indices) missing, not integers, of the wrong shape, or out of range.
        NoImageError, RangeError: see :func:`puretransforms.data.images.to_batch`.
    """

    role: ClassVar[str] = "poison"
    needs_fit: ClassVar[bool] = False
    epsilon: float | None = None
    norm: str | None = None
    default_rate: ClassVar[float | None] = 1.0  # share of a dataset to poison; None: all that are eligible
    covers: "Poison | None" = None  # what a dataset also gives to clean-labelled decoys (WaNet's noise mode)
    cover_ratio: float = 0.0  # decoys for each poisoned sample
    _chunk: int = 1 << 18  # pixel values worked on at a time: they stay in the cache

    def __new__(cls: type[P], *args: Any, **kwargs: Any) -> P:
        """Refuse an argument that the class does not take, and name the nearest that it does."""
        refuse_unknown(cls, kwargs)
        return super().__new__(cls)

    def __init__(self, *, num_classes: int = 10, seed: int = 0, quantize: str | None = "round") -> None:
        super().__init__()
        self.num_classes = whole("num_classes", num_classes, least=1)
        self.seed = checked_seed(seed, bits=32, optional=False)
        self.quantize = choice("quantize", quantize, QUANTIZE)
        self._tables: dict[Any, Any] = {}

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        """Poison a float batch in ``[0, 1]``; row ``i`` may use row ``i`` of ``labels`` and ``noise`` only.

        The result may leave ``[0, 1]``: it is clamped and quantised afterwards.
        """
        raise NotImplementedError(f"{type(self).__name__} must define perturb(x, labels, noise).")

    def fit(
        self: P,
        dataset: Any,
        *,
        surrogate: nn.Module | Sequence[nn.Module] | None = None,
        index: Int[Tensor, " n"] | None = None,
        device: torch.device | str | None = None,
        on_progress: OnProgress | None = None,
    ) -> P:
        """Learn from the whole clean dataset, in place, and return the poison itself. Most poisons learn nothing.

        Args:
            dataset: what :func:`puretransforms.data.samples.gather` takes: a pair ``(images, labels)`` of tensors, a
                map-style dataset, a folder. The labels are the true ones.
            surrogate: a classifier of raw pixels, ``[B, C, H, W]`` in ``[0, 1]`` to logits ``[B, num_classes]``;
                without it the library trains one where it needs one. Some poisons take several.
            index: the place of each image in its dataset, ``[N]``, all different; 0 to N - 1 if not given.
            device: where to work, for example ``"cuda"``; ``None`` for where the images are.
            on_progress: called with a :class:`~puretransforms.poisons.progress.CraftRecord` after each gradient step on
                a batch, also while a surrogate is trained.

        Raises:
            NoImageError: no image, or images of several sizes.
            LabelError: labels that are missing or not in ``0 .. num_classes - 1``.
            SurrogateError: a surrogate for a poison that uses none, or too many of them.
            HardwareError: a GPU is asked for, and there is none.
        """
        progress = Progress(on_progress)
        self._learn(dataset, surrogate, index, device, progress)
        progress.end()
        return self

    def _learn(self, dataset: Any, surrogate: Any, index: Any, device: Any, progress: Progress) -> None:
        """What :meth:`fit` does; ``progress`` is told about the stages and advanced by their loops."""
        self._refuse_surrogate(surrogate)

    def _refuse_surrogate(self, surrogate: Any) -> None:
        if surrogate is not None:
            raise SurrogateError(
                f"expected no surrogate for {type(self).__name__}, which is optimised against no network, got "
                f"{type(surrogate).__name__}: leave it out."
            )

    def _gather(
        self, dataset: Any, device: torch.device | str | None = None
    ) -> tuple[UInt8[Tensor, "n c h w"], Int[Tensor, " n"]]:
        """The images and true labels of ``dataset`` to fit to, checked, on ``device`` or where the images are."""
        if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise HardwareError(
                f"expected a GPU that torch can use for device={str(device)!r}, got none: leave the device out to fit "
                f"{type(self).__name__} on the CPU, or install a build of torch for this GPU."
            )
        data = gather(dataset, channels=None)
        self.check_labels(data.targets)
        images = data.images.to(device)
        return images, data.targets.to(images.device)

    @property
    def fitted(self) -> bool:
        """Is this poison ready for use? One that learns from no dataset always is."""
        return not self.needs_fit

    def relabel(self, labels: Labels) -> Labels:
        """The labels that poisoned samples carry: the true ones, unless a dirty-label backdoor says otherwise."""
        return labels

    def eligible(self, labels: Labels, noise: KeyedNoise | None = None) -> Bool[Tensor, " b"]:
        """Which samples this poison can be applied to; the others pass through unchanged.

        ``noise`` tells the samples apart, as in :meth:`perturb`; without it the answer is by the labels alone.
        """
        return torch.ones_like(labels, dtype=torch.bool)

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor arguments that make an equal poison (its fit excepted)."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def check_labels(self, labels: Tensor) -> None:
        """Raise :class:`~puretransforms.errors.LabelError` unless all labels lie in ``0 .. num_classes - 1``."""
        fix = f"pass {type(self).__name__}(num_classes=...) for the number of classes of the dataset"
        check_labels(labels, labels.numel(), self.num_classes, fix)

    @torch.no_grad()
    def forward(self, images: Any, labels: Any = None, index: Any = None) -> tuple[Any, Any]:
        """Poison images of the given true labels; see the class."""
        if labels is None:
            images, labels = _pair(images)
        x, restore, shape = open_images(images)
        y = integers_for(labels, shape, x.device, "labels")
        self.check_labels(y)
        ids = content_ids(x) if index is None else integers_for(index, shape, x.device, "index")
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
        chosen = self.eligible(labels, noise)
        if not bool(chosen.all()):
            out = torch.where(chosen[:, None, None, None], out, x)
        return out, torch.where(chosen, self.relabel(labels), labels)

    def _settle(self, poisoned: Tensor, clean: Tensor) -> Tensor:
        linf = self.epsilon if self.norm == "linf" else None
        return settle(poisoned.to(clean.dtype), clean, self.quantize, linf)

    def _table(self, make: Any, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """``make(channels, height, width)`` for the shape of ``x``: a per-dataset table, computed once per shape."""
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


def open_image(image: Any) -> tuple[Tensor, Restore]:
    """The colour channels ``[C, H, W]`` of one image in their own dtype, and the way back for ``[1, C, H, W]``."""
    _refuse_palette(image)
    pixels, rewrap = unwrap(image)
    return pixels[0], rewrap


def _refuse_palette(image: Any) -> None:
    if isinstance(image, PIL.Image.Image) and image.mode == "P":
        raise NoImageError(
            "expected a PIL image of mode RGB, L, RGBA or LA, got mode P, whose palette cannot hold a poison: "
            'convert it first with image.convert("RGB").'
        )


def open_images(images: Any) -> tuple[Tensor, Restore, torch.Size]:
    """The float batch of ``images``, the way back, and their leading shape."""
    _refuse_palette(images)
    if isinstance(images, PIL.Image.Image):
        return *to_batch(images), torch.Size()
    if not isinstance(images, Tensor):
        raise NoImageError(
            f"expected a PIL image or a tensor [..., C, H, W] first, got {type(images).__name__}: "
            "convert arrays with torch.from_numpy (CHW) or v2.ToImage() (HWC), and give the label second."
        )
    return *to_batch(images), images.shape[:-3]


def integers_for(value: Any, shape: torch.Size, device: torch.device, name: str) -> Tensor:
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
    number = as_int(value)
    if number is None:
        raise LabelError(
            f"expected {name} as an int or an integer tensor, got {type(value).__name__}: use torch.as_tensor({name})."
        )
    if len(shape):
        raise LabelError(f"expected {name} of shape {list(shape)}, got one int: pass an integer tensor.")
    return torch.tensor([number], device=device)

"""Labelled images: finding labels in a sample or a dataset, holding both in memory, and numbering classes.

The number of a class is the dataset's own, always: its targets, its ``class_to_idx``, its ``ClassLabel``.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from warnings import warn

import numpy as np
import torch
from torch.utils._pytree import tree_flatten
from torch.utils.data import Dataset, Subset

from ..errors import CorruptImageError, LabelError, LeftOutWarning, NoImageError
from ..functional.shapes import Int, Tensor, UInt8
from .codec import decode
from .images import is_plain_image, is_typed_image, round_to_uint8, to_unit, unwrap
from .open_source import open_source
from .sources.base import Source, read_image
from .sources.huggingface import is_hugging_face
from .sources.map_style import known_classes

LABEL_KEYS = ("label", "labels", "target", "targets")


class LabelledImages(Dataset):
    """Images and labels held in memory; sample ``i`` is ``(uint8 [C, H, W], int)``.

    Args:
        images: uint8 ``[N, C, H, W]``.
        targets: int64 ``[N]``.
        classes: names of the classes in label order, if known.
    """

    def __init__(
        self, images: UInt8[Tensor, "n c h w"], targets: Int[Tensor, " n"], classes: list[str] | None = None
    ) -> None:
        self.images = images
        self.targets = targets
        self.classes = classes

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.targets[index])


# --- labels of one sample ---------------------------------------------------------------------------------------------


def labels_in(sample: Any) -> Int[Tensor, " n"] | None:
    """The labels of a sample, flat; ``None`` where it holds nothing but images.

    They are found in ``(images, labels)``, in either order, or under ``"label"``, ``"labels"``, ``"target"`` or
    ``"targets"`` of a mapping.

    Raises:
        LabelError: it holds more than images, but no labels where they are looked for.
    """
    if isinstance(sample, Mapping):
        key = next((key for key in LABEL_KEYS if key in sample), None)
        if key is not None:
            return integers(sample[key])
    elif isinstance(sample, tuple | list) and len(sample) == 2:
        bare = [part for part in sample if not any(map(_is_image, tree_flatten(part)[0]))]
        if len(bare) == 1:
            return integers(bare[0])
    if all(map(_is_image, tree_flatten(sample)[0])):
        return None
    raise LabelError(
        f"expected (images, labels), or labels under one of {', '.join(map(repr, LABEL_KEYS))}, got a "
        f"{type(sample).__name__} of something else: rename them, or pass the images alone to purify without labels."
    )


def integers(labels: Any) -> Int[Tensor, " n"]:
    """Every leaf of ``labels`` in order, flat, as int64.

    Raises:
        LabelError: no integers.
    """
    leaves = tree_flatten(labels)[0]
    try:
        tensors = [torch.as_tensor(leaf).reshape(-1) for leaf in leaves]
    except (TypeError, ValueError, RuntimeError):
        tensors = []
    if not tensors or any(t.is_floating_point() or t.is_complex() or t.dtype == torch.bool for t in tensors):
        raise LabelError(
            f"expected an integer label for each image, got {type(labels).__name__}: pass class indices, not one-hot "
            "rows or probabilities; without labels pass the images alone."
        )
    return torch.cat(tensors).to(torch.int64)


def check_labels(
    labels: Tensor, count: int, num_classes: int, fix: str = "fit with the number of classes of the data"
) -> Int[Tensor, " n"]:
    """``labels`` as int64 ``[count]``, if they are integers in ``0 .. num_classes - 1``.

    Raises:
        LabelError: another number of labels, no integers, or one out of range; that message ends with ``fix``.
    """
    if labels.shape != (count,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise LabelError(
            f"expected one integer label for each of {count} images, got {labels.numel()} ({labels.dtype} "
            f"{list(labels.shape)}): pass class indices, not one-hot rows or probabilities."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise LabelError(f"expected labels from 0 to {num_classes - 1}, got {low if low < 0 else high}: {fix}.")
    return labels.to(torch.int64)


def _is_image(leaf: Any) -> bool:
    return is_typed_image(leaf) or is_plain_image(leaf)


# --- a whole dataset --------------------------------------------------------------------------------------------------


def labels_of(dataset: Dataset | Sequence[Any]) -> Int[Tensor, " n"]:
    """The int64 labels ``[N]`` of a map-style dataset, from its table of targets or else sample by sample.

    Raises:
        LabelError: samples that are no ``(image, integer)`` pairs.
    """
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices)]
    table: Any = None
    count = len(dataset)  # type: ignore[arg-type]
    if getattr(dataset, "target_transform", None) is None:
        table = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if table is None or len(table) != count:
        table = [pair_of(dataset[i])[1] for i in range(count)]
    try:
        labels = torch.as_tensor(np.asarray(table))
    except (TypeError, ValueError):
        labels = torch.empty(0)
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype == torch.bool or not len(labels):
        raise LabelError(
            f"expected one integer label for each of {count} samples, got {labels.dtype} labels of shape "
            f"{list(labels.shape)}: give the dataset as (image, int) pairs."
        )
    return labels.to(torch.int64)


def pair_of(sample: Any) -> tuple[Any, Any]:
    """``(image, label)`` of a sample.

    Raises:
        LabelError: it is no such pair.
    """
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[0], sample[1]
    got = f"a {type(sample).__name__}" + (f" of {len(sample)}" if hasattr(sample, "__len__") else "")
    raise LabelError(f"expected samples (image, label), got {got}: wrap the dataset so that it yields such pairs.")


def class_names(dataset: Any) -> list[str] | None:
    """The names of the classes in label order, where the dataset knows them."""
    return known_classes(dataset) or None


def gather(source: Any, channels: int | None = 3) -> LabelledImages:
    """Every image of ``source`` in memory, at 8 bits, with its label.

    Args:
        source: a pair ``(images, labels)`` of tensors, a :class:`LabelledImages`, a map-style dataset of
            ``(image, label)``, a folder of class folders, tar shards, a Hugging Face dataset, or a
            :class:`~puretransforms.data.sources.base.Source`. Files that cannot be decoded are left
            out, with a :class:`~puretransforms.errors.LeftOutWarning`.
        channels: 3 turns grey images into three equal channels; ``None`` leaves the channels as they are.

    Raises:
        NoImageError: no image, or images of several sizes.
        LabelError: an image without an integer label.
        SourceError: no such folder or dataset.
    """
    if isinstance(source, LabelledImages):
        images = source.images if channels is None else colour(source.images)
        return LabelledImages(images, source.targets, source.classes)
    if isinstance(source, tuple | list) and len(source) == 2 and isinstance(source[0], Tensor):
        return _stacked([source], None, channels)
    if isinstance(source, Source | str) or not hasattr(source, "__getitem__") or is_hugging_face(source):
        return _decoded(open_source(source), channels)
    return _stacked((pair_of(source[i]) for i in range(len(source))), class_names(source), channels)


def _stacked(samples: Any, classes: list[str] | None, channels: int | None = 3) -> LabelledImages:
    """Of ``(image, label)``, or of ``(image, label, name)`` where a message can name the sample."""
    pixels, labels = [], []
    for place, (image, label, *name) in enumerate(samples):
        x, _ = unwrap(image)
        x = x if x.dtype == torch.uint8 else round_to_uint8(to_unit(x))
        pixels.append(x if channels is None else colour(x))
        labels.append(integers(label))
        if pixels[-1].shape[1:] != pixels[0].shape[1:]:
            raise NoImageError(
                f"expected images of one size, got {list(pixels[-1].shape[1:])} after {list(pixels[0].shape[1:])} in "
                f"{name[0] if name else f'sample {place}'}: resize or crop them first."
            )
    if not pixels:
        raise NoImageError("expected images of one size, got none: give a dataset that holds some.")
    images, flat = torch.cat(pixels).contiguous(), torch.cat(labels)
    return LabelledImages(images, check_labels(flat, len(images), int(flat.max()) + 1), classes)


def _decoded(source: Source, channels: int | None = 3) -> LabelledImages:
    numbers = source.class_to_idx()
    samples, left_out = [], []
    for entry in source.entries:
        if entry.kind == "image":
            try:
                image = decode(read_image(source, entry))
            except (CorruptImageError, OSError):
                left_out.append(entry.path)
                continue
            pixels = torch.frombuffer(bytearray(image.pixels), dtype=torch.uint8).view(image.shape)
            samples.append((pixels.permute(2, 0, 1), numbers[entry.label], entry.path))
        elif entry.kind == "skipped":
            left_out.append(entry.path)
    if left_out:
        text = f"{len(left_out)} file(s) cannot be read or decoded and are left out, first {left_out[0]}."
        warn(text, LeftOutWarning, stacklevel=4)
    return _stacked(samples, names_by_number(numbers), channels)


def names_by_number(class_to_idx: Mapping[str, int]) -> list[str]:
    """The class names in label order; a number without a class has its number for a name."""
    names = {number: name for name, number in class_to_idx.items()}
    return [names.get(number, str(number)) for number in range(max(names, default=-1) + 1)]


def colour(x: Tensor) -> Tensor:
    """One channel as three; three stay. ``x``: ``[B, C, H, W]``.

    Raises:
        NoImageError: another number of channels.
    """
    if x.shape[1] not in (1, 3):
        raise NoImageError(
            f"expected 3 channels (or 1), got {x.shape[1]}: split alpha and other extra channels off first."
        )
    return x.expand(-1, 3, -1, -1)

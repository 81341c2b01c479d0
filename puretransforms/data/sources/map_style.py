"""Map-style datasets, torchvision's above all: raw images without their transforms, targets and order as they are."""

import copy
import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2 import functional as F

from ...errors import NoImageError, SourceError
from ...functional.shapes import Tensor
from .base import Entry, Source, kind_of, spread

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TARGETS = ("targets", "labels", "_labels", "y")
_SAMPLES = ("samples", "_samples", "imgs")
_TRANSFORMS = ("transform", "target_transform", "transforms")


class ImageDataset(Source):
    """``dataset[i] -> (image, target)`` as a source, in its order.

    Transforms of the dataset are left out: what is purified is the stored image, and augmentation comes later. Files
    are read as they are where the dataset lists them (``samples``); any other image is taken as if it were stored in a
    lossless file. Class folders keep the order of ``classes``, so that ``ImageFolder`` gives every image its target.

    Args:
        dataset: of torchvision, or like it; a ``Subset`` of one; a ``PoisonedDataset``.

    Raises:
        SourceError: no length, no image in it, or samples that are no ``(image, target)``.
    """

    def __init__(self, dataset: Any) -> None:
        name = type(dataset).__qualname__
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise SourceError(
                f"expected a map-style dataset with a length, got {name}: save it as a folder or as tar shards."
            )
        if len(dataset) == 0:
            raise SourceError(f"expected at least one image, got an empty {name}.")
        self.root = f"{type(dataset).__module__}.{name}"
        self.original = dataset
        self.dataset = without_transforms(dataset)
        self.files = _files(self.dataset)
        self.base = os.path.realpath(os.path.commonpath(map(os.path.dirname, self.files))) if self.files else ""
        self.targets = _targets(self.dataset)
        self.classes = known_classes(self.dataset)
        self.fingerprint = _fingerprint(self.dataset, self.targets, listed=bool(self.files))
        folders = _folder_names(self.classes, self.targets)
        self.folders = sorted(set(folders.values()))
        self.entries = [self._entry(i, folders) for i in range(len(dataset))]

    def _entry(self, i: int, folders: dict[int, str]) -> Entry:
        target = self.targets[i] if self.targets else None
        label = "" if target is None else self.classes[target] if self.classes else str(target)
        folder = "" if target is None else f"{folders[target]}/"
        suffix, size = ".png", 0
        if self.files:
            suffix, size = os.path.splitext(self.files[i])[1], os.path.getsize(self.files[i])  # noqa: PTH122, PTH202
        return Entry(f"{folder}{i:08d}{suffix}", "image", size, "", label, (i,))

    def class_to_idx(self) -> dict[str, int]:
        """The targets of the dataset, by the name of their class (or by the target written out)."""
        if self.classes:
            return {name: number for number, name in enumerate(self.classes)}
        return {str(target): target for target in sorted(set(self.targets))} or {"": 0}

    def read(self, entry: Entry) -> bytes:
        """The file, or the image in a lossless file."""
        i = entry.where[0]
        return Path(self.files[i]).read_bytes() if self.files else _lossless(self.dataset[i], self.root)


class PurifiedDataset(Dataset):
    """A dataset with its images replaced: same order, same targets, same transforms.

    Args:
        dataset: the dataset as it was.
        kept: the places of its samples that are still there, ascending.
        images: for each of them a PNG file, as bytes or as a path.

    Attributes:
        targets: of the samples, where the dataset has any that are integers.
        classes: its class names, if it has any.
    """

    def __init__(self, dataset: Any, kept: Sequence[int], images: Sequence[bytes | str]) -> None:
        self.dataset = dataset
        self.kept = list(kept)
        self.images = list(images)
        self.classes = known_classes(dataset)
        known = _targets(without_transforms(dataset))
        self.targets = [known[i] for i in self.kept] if known else None

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        stored = self.images[i]
        with PIL.Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored) as file:
            file.load()
            image: Any = file
        target: Any = self.targets[i] if self.targets else without_transforms(self.dataset)[self.kept[i]][1]
        holder = self.dataset
        while isinstance(holder, Subset):
            holder = holder.dataset
        both, alone, label = (getattr(holder, name, None) for name in ("transforms", *_TRANSFORMS[:2]))
        if both is not None:
            return both(image, target)
        return alone(image) if alone else image, label(target) if label else target


def rebuilt(dataset: Any, kept: Sequence[int], images: Sequence[bytes]) -> Any:
    """``dataset`` with purified ``images``, in memory: of its own type where it holds its pixels in ``data``."""
    pixels: Any = getattr(dataset, "data", None)
    if _is_pixels(pixels) and len(kept) == len(dataset) == len(pixels):
        purified = np.stack([_like(np.asarray(PIL.Image.open(io.BytesIO(png))), pixels.shape[1:]) for png in images])
        dataset = copy.copy(dataset)
        dataset.data = torch.from_numpy(purified) if isinstance(pixels, Tensor) else purified
        return dataset
    return PurifiedDataset(dataset, kept, images)


def _is_pixels(data: Any) -> bool:
    kind = data.dtype if isinstance(data, np.ndarray | Tensor) else None
    return kind in (np.uint8, torch.uint8) and data.ndim in (3, 4)


def _like(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """``[H, W]`` or ``[H, W, 3]`` in the layout of ``shape``, which may be ``[3, H, W]``."""
    return image if image.shape == tuple(shape) else np.moveaxis(np.atleast_3d(image), 2, 0).reshape(shape)


def without_transforms(dataset: Any) -> Any:
    """The stored images of a map-style dataset: a shallow copy without its own transforms, also in nested subsets."""
    dataset = copy.copy(dataset)
    for name in _TRANSFORMS:
        if getattr(dataset, name, None) is not None:
            setattr(dataset, name, None)
    if isinstance(dataset, Subset):
        dataset.dataset = without_transforms(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        dataset.datasets = [without_transforms(part) for part in dataset.datasets]
    return dataset


def _files(dataset: Any) -> list[str]:
    if isinstance(dataset, Subset):
        inner = _files(dataset.dataset)
        return [inner[i] for i in dataset.indices] if inner else []
    samples: Any = next((getattr(dataset, name) for name in _SAMPLES if getattr(dataset, name, None)), [])
    if getattr(dataset, "loader", default_loader) is not default_loader or type(dataset).__name__ == "PoisonedDataset":
        return []
    paths = [os.fspath(pair[0]) for pair in samples if isinstance(pair, tuple) and isinstance(pair[0], str | Path)]
    whole = len(paths) == len(dataset) and all(kind_of(path) == "image" for path in paths)
    return paths if whole else []


def _targets(dataset: Any) -> list[int]:
    """The target of every sample, where they are integers; else nothing. The last resort is to read every sample."""
    if isinstance(dataset, Subset):
        inner = _targets(dataset.dataset)
        return [inner[i] for i in dataset.indices] if inner else []
    found = next((getattr(dataset, name) for name in _TARGETS if getattr(dataset, name, None) is not None), None)
    if found is None:
        samples: Any = next((getattr(dataset, name) for name in _SAMPLES if getattr(dataset, name, None)), None)
        found = [pair[1] for pair in samples] if samples else [_pair(dataset[i])[1] for i in range(len(dataset))]
    found = found.tolist() if isinstance(found, np.ndarray | Tensor) else list(found)
    found = [int(t) if isinstance(t, np.integer | Tensor) and np.ndim(t) == 0 else t for t in found]
    return found if len(found) == len(dataset) and all(type(target) is int for target in found) else []


def known_classes(dataset: Any) -> list[str]:
    """The names of the classes in label order; nothing where the dataset knows none."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    found = getattr(dataset, "classes", None) or []
    return [name if isinstance(name, str) else ", ".join(map(str, name)) for name in found]


def _folder_names(classes: list[str], targets: list[int]) -> dict[int, str]:
    """A folder for each target, such that ``ImageFolder``, which sorts by name, counts the classes the same way."""
    numbers = range(len(classes)) if classes else sorted(set(targets))
    if targets and not set(targets) <= set(numbers):
        raise SourceError(
            f"expected targets from 0 to {len(classes) - 1}, got {min(targets)} to {max(targets)}: correct its "
            "'classes'."
        )
    if not targets:
        return {}
    if classes and classes == sorted(set(classes)) and all(re.fullmatch(r"[\w -][\w .-]*", name) for name in classes):
        return dict(enumerate(classes))
    digits = len(str(max(numbers)))
    slugs = [re.sub(r"\W+", "-", name).strip("-") for name in classes]
    return {i: f"{i:0{digits}d}-{slugs[i]}" if classes else f"{i:0{digits}d}" for i in numbers}


def _fingerprint(dataset: Any, targets: list[int], listed: bool) -> str:
    """Of the targets, and of the pixels: all in ``data``, or some samples; files are ``listed`` with their sizes."""
    digest, data = hashlib.sha256(repr(targets).encode()), getattr(dataset, "data", None)
    if _is_pixels(data):
        digest.update(np.ascontiguousarray(np.asarray(data)).data)
    elif not listed:
        for i in spread(len(dataset)):
            try:
                digest.update(_lossless(dataset[i], f"sample {i}"))
            except Exception as error:  # a damaged sample is put aside later, by name
                digest.update(type(error).__name__.encode())
    return digest.hexdigest()


def _pair(sample: Any) -> tuple[Any, Any]:
    if isinstance(sample, tuple | list) and len(sample) >= 2:
        return sample[0], sample[1] if len(sample) == 2 else tuple(sample[1:])
    raise SourceError(
        f"expected samples (image, target), got {type(sample).__name__}: wrap the dataset so that it gives both."
    )


def _lossless(sample: Any, where: str) -> bytes:
    """The image of a sample in a file that keeps every value: PNG, or TIFF where PNG lacks the mode."""
    image = _pair(sample)[0]
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3:
        image = F.to_pil_image(image)
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = PIL.Image.fromarray(image)
    if not isinstance(image, PIL.Image.Image):
        raise NoImageError(
            f"expected raw images (PIL, or uint8 [C, H, W]) from {where}, got {_describe(image)}: leave tensors and "
            "normalisation to its 'transform', which is set aside while cleaning."
        )
    out = io.BytesIO()
    if image.mode in _PNG_MODES:
        image.save(out, "PNG", compress_level=1)
    else:
        image.save(out, "TIFF")
    return out.getvalue()


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

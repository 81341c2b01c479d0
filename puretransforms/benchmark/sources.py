"""The data of a benchmark in memory: digits, an archive, or folders."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch

from ..data.digits import load_digits
from ..data.open_source import open_source
from ..data.samples import LabelledImages, gather
from ..errors import SourceError

_NAMED = ("hf:", "torchvision:")
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_data(source: str | Path | None) -> tuple[LabelledImages, LabelledImages]:
    """``(train, test)`` in memory.

    Args:
        source: ``None`` for the digits of scikit-learn; a folder with ``train`` and ``test`` in it, each with a folder
            of images per class; an ``.npz`` with uint8 ``x_train, x_test [N, H, W, 3]`` and integers
            ``y_train, y_test [N]``; or a name, ``hf:NAME`` or ``torchvision:CLASS:ROOT``, of which the splits ``train``
            and ``test`` are read.

    Raises:
        SourceError: none of these.
        MissingExtraError: a package for this kind of source is not installed.
    """
    if source is None:
        return load_digits()
    path = Path(source)
    if str(source).startswith(_NAMED):
        if "#" in str(source):
            raise SourceError(f"expected a name without a split, since train and test are both read, got {source!r}.")
        train, test = gather(f"{source}#train"), gather(f"{source}#test")
    elif path.is_dir():
        train, test = _folder(path / "train"), _folder(path / "test")
    else:
        return _load_npz(path)
    if train.classes != test.classes:
        raise SourceError(f"expected the same classes in train and test, got {train.classes} and {test.classes}.")
    return train, test


def _folder(path: Path) -> LabelledImages:
    """A folder of images for each class, and nothing that would leave a class out or make another one."""
    source = open_source(str(path))
    held = {entry.label for entry in source.entries if entry.kind == "image"}
    odd = {folder for folder in source.folders if "/" not in folder} - held
    odd |= {entry.path for entry in source.entries if "/" not in entry.path and entry.kind != "other"}
    if odd:
        names = ", ".join(sorted(odd)[:3])
        raise SourceError(
            f"expected a folder of images for each class in {path}, got {names} (empty, in no class, or a link that "
            "leads outside): remove or fill it."
        )
    return gather(source)


def part_of(data: LabelledImages, size: int | None) -> LabelledImages:
    """A random part, the same at every call, in the order of the whole; all of it for ``None``."""
    if size is None or size == len(data):
        return data
    if not 0 < size <= len(data):
        raise SourceError(f"expected at least {size} images, got {len(data)}: give more data, or ask for fewer.")
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:size].sort().values
    return LabelledImages(data.images[rows], data.targets[rows], data.classes)


def fingerprint(*parts: LabelledImages) -> str:
    """Sixteen hexadecimal digits that say which images and labels these are."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(tuple(part.images.shape)).encode())
        digest.update(part.images.contiguous().numpy().data)
        digest.update(part.targets.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _load_npz(path: Path) -> tuple[LabelledImages, LabelledImages]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            x_train, y_train, x_test, y_test = (archive[name] for name in _ARRAYS)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"expected a folder with train and test in it, or an .npz with {', '.join(_ARRAYS)}, got {path}: {error}."
        ) from error
    return _labelled(path, x_train, y_train), _labelled(path, x_test, y_test)


def _labelled(path: Path, x: np.ndarray, y: np.ndarray) -> LabelledImages:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise SourceError(
            f"expected uint8 images [N, H, W, 3] and an integer label for each in {path}, got {x.dtype} "
            f"{list(x.shape)} and {y.dtype} {list(y.shape)}."
        )
    images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(images, torch.from_numpy(y.astype(np.int64)))

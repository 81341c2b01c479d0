"""From whatever holds images to a source; datasets also by name, as ``hf:NAME#SPLIT``, ``torchvision:CLASS:ROOT``."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..errors import MissingExtraError, SourceError
from ..storage.remote import is_remote
from .sources.base import Source
from .sources.folder import RemoteFolder, list_folder
from .sources.huggingface import HuggingFaceDataset, is_hugging_face
from .sources.map_style import ImageDataset
from .sources.webdataset import WebDatasetShards

_HF, _TORCHVISION = "hf:", "torchvision:"


def open_source(
    source: Any, image_key: str | None = None, label_key: str | None = None, options: Mapping[str, Any] | None = None
) -> Source:
    """List ``source``.

    Args:
        source: a folder or its URL; tar shards (a name that ends in ``.tar``, with ``{000..099}`` or ``*``, or a list
            of such names); a dataset of torchvision or of Hugging Face, or a name that :func:`named` takes; a
            :class:`Source`.
        image_key: see :class:`WebDatasetShards` and :class:`HuggingFaceDataset`; for nothing else.
        label_key: likewise.
        options: for fsspec, where ``source`` is a URL.

    Raises:
        SourceError: it is none of these, or holds no image.
        MissingExtraError: a package for this kind of source is not installed.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str):
        source = named(source)
    if is_hugging_face(source):
        return HuggingFaceDataset(source, image_key, label_key)
    if _names_shards(source):
        return WebDatasetShards(source, image_key, label_key or "cls", options)
    if image_key or label_key:
        raise SourceError(
            f"expected image_key and label_key only for tar shards and Hugging Face datasets, got them for "
            f"{type(source).__name__}: leave them out."
        )
    if is_remote(source):
        return RemoteFolder(source, options)
    if isinstance(source, str | os.PathLike):
        return list_folder(source)
    if isinstance(source, Dataset) or (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return ImageDataset(source)
    raise SourceError(
        f"expected a folder, tar shards, or a dataset of torchvision or Hugging Face, got {type(source).__name__}."
    )


def _names_shards(source: Any) -> bool:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source).endswith(".tar")
    names = isinstance(source, list | tuple) and len(source) > 0
    return names and all(isinstance(name, str | os.PathLike) and os.fspath(name).endswith(".tar") for name in source)


def named(text: str) -> Any:
    """The dataset that ``text`` names, or ``text`` itself where it is a path, a URL or a pattern of shards.

    ``hf:cifar10#test`` is what ``datasets.load_dataset`` gives for that name (a folder that ``save_to_disk`` wrote will
    do too); without a split, ``train``; ``hf:cifar10@REVISION#test`` pins a commit, branch or tag.
    ``torchvision:CIFAR10:data#test`` is ``torchvision.datasets.CIFAR10("data", train=False)``, which must have been
    downloaded; ``#train``, the default, and the splits of its own are as good.

    Raises:
        SourceError: no such dataset, split or folder.
        MissingExtraError: ``datasets`` is not installed.
    """
    if text.startswith(_TORCHVISION):
        return _torchvision(*_name_and_split(text.removeprefix(_TORCHVISION)))
    if text.startswith(_HF) and not text.startswith("hf://"):
        return _hugging_face(*_name_and_split(text.removeprefix(_HF)))
    return text


def _name_and_split(text: str) -> tuple[str, str]:
    name, _, split = text.partition("#")
    return name, split or "train"


def _hugging_face(name: str, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("expected datasets for a source 'hf:...': pip install 'puretransforms[hf]'.") from error
    try:
        if Path(name, "dataset_dict.json").exists():
            return datasets.load_from_disk(name)[split]
        if Path(name, "state.json").exists():
            return datasets.load_from_disk(name)
        repo, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
        return datasets.load_dataset(repo, split=split, revision=revision or None)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"expected a dataset of Hugging Face as hf:NAME#SPLIT, got {name!r} with split {split!r}: {error}"
        ) from error


def _torchvision(text: str, split: str) -> Any:
    import torchvision.datasets

    name, _, root = text.partition(":")
    cls = getattr(torchvision.datasets, name, None)
    if not isinstance(cls, type) or not root:
        raise SourceError(
            f"expected a dataset of torchvision as torchvision:CLASS:ROOT#SPLIT, got {text!r}: name it as in "
            "torchvision:CIFAR10:data#train."
        )
    known = inspect.signature(cls).parameters
    options: dict[str, Any] = {}
    if "train" in known:
        if split not in ("train", "test"):
            raise SourceError(f"expected the split train or test of {name}, got {split!r}.")
        options["train"] = split == "train"
    elif "split" in known:
        options["split"] = split
    elif split != "train":
        raise SourceError(f"expected no split of {name}, which has none, got {split!r}.")
    try:
        return cls(root, **options)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise SourceError(f"expected {name} to be in {root!r} (nothing is downloaded here), got: {error}") from error

"""Data sets by a word, for the command line: ``hf:NAME#SPLIT`` and ``torchvision:CLASS:ROOT#SPLIT``."""

import inspect
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, SourceError

_HF, _TORCHVISION = "hf:", "torchvision:"


def named(text: str) -> Any:
    """The data set that ``text`` names, or ``text`` itself where it is a path, a URL or a pattern of shards.

    ``hf:cifar10#test`` is what ``datasets.load_dataset`` gives for that name (a folder that ``save_to_disk`` wrote will
    do too); without a split, ``train``; ``hf:cifar10@REVISION#test`` pins a commit, branch or tag.
    ``torchvision:CIFAR10:data#test`` is ``torchvision.datasets.CIFAR10("data", train=False)``, which must have been
    downloaded; ``#train``, the default, and the splits of its own are as good.

    Raises:
        SourceError: no such data set, split or folder.
        MissingExtraError: ``datasets`` is not installed.
    """
    if text.startswith(_TORCHVISION):
        return _torchvision(*_split(text.removeprefix(_TORCHVISION)))
    if text.startswith(_HF) and not text.startswith("hf://"):
        return _hugging_face(*_split(text.removeprefix(_HF)))
    return text


def _split(text: str) -> tuple[str, str]:
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
            f"expected a data set of Hugging Face as hf:NAME#SPLIT, got {name!r} with split {split!r}: {error}"
        ) from error


def _torchvision(text: str, split: str) -> Any:
    import torchvision.datasets

    name, _, root = text.partition(":")
    cls = getattr(torchvision.datasets, name, None)
    if not isinstance(cls, type) or not root:
        raise SourceError(
            f"expected a data set of torchvision as torchvision:CLASS:ROOT#SPLIT, got {text!r}: name it as in "
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

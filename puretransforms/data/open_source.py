"""From whatever holds images to a source."""

import os
from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from ..errors import SourceError
from ..storage.remote import is_remote
from .sources.base import Source
from .sources.folder import RemoteFolder, list_folder
from .sources.huggingface import HuggingFaceDataset, is_hugging_face
from .sources.map_style import ImageDataset
from .sources.webdataset import WebDatasetShards


def open_source(
    source: Any,
    image_key: str | None = None,
    label_key: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """List ``source``.

    Args:
        source: a folder or its URL; tar shards (a name that ends in ``.tar``, with ``{000..099}`` or ``*``, or a list
            of such names); a data set of torchvision or of Hugging Face; a :class:`Source`.
        image_key, label_key: see :class:`WebDatasetShards` and :class:`HuggingFaceDataset`; for nothing else.
        options: for fsspec, where ``source`` is a URL.

    Raises:
        SourceError: it is none of these, or holds no image.
    """
    if isinstance(source, Source):
        return source
    if is_hugging_face(source):
        return HuggingFaceDataset(source, image_key, label_key)
    if _names_shards(source):
        return WebDatasetShards(source, image_key, label_key or "cls", options)
    if image_key or label_key:
        raise SourceError(
            f"expected image_key and label_key only for tar shards and Hugging Face data sets, got them for "
            f"{type(source).__name__}: leave them out."
        )
    if is_remote(source):
        return RemoteFolder(source, options)
    if isinstance(source, str | os.PathLike):
        return list_folder(source)
    if isinstance(source, Dataset) or (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return ImageDataset(source)
    raise SourceError(
        f"expected a folder, tar shards, or a data set of torchvision or Hugging Face, got {type(source).__name__}."
    )


def _names_shards(source: Any) -> bool:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source).endswith(".tar")
    names = isinstance(source, list | tuple) and len(source) > 0
    return names and all(isinstance(name, str | os.PathLike) and os.fspath(name).endswith(".tar") for name in source)

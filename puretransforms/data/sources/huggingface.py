"""Hugging Face ``datasets``: the stored bytes of an image column, and the same table with purified images.

Formats and transforms of the dataset are set aside: under ``with_format("torch")`` an image feature would turn into
nested lists, and a ``with_transform`` would be purified instead of the images.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import SourceError
from .base import Entry, Source, spread

_ROWS = 1000


def is_hugging_face(source: Any) -> bool:
    """Is ``source`` an object of the package ``datasets``?"""
    return type(source).__module__.partition(".")[0] == "datasets"


class HuggingFaceDataset(Source):
    """One split as a source; a unit becomes a Parquet file with the same features.

    Args:
        dataset: a ``datasets.Dataset``.
        image_key: the image column; default: the only one with the feature ``Image``.
        label_key: the column of the class; default: the only one with the feature ``ClassLabel``.

    Raises:
        SourceError: several splits, a stream, no image column, or several and no ``image_key``.
    """

    def __init__(self, dataset: Any, image_key: str | None = None, label_key: str | None = None) -> None:
        import datasets

        if isinstance(dataset, Mapping):
            raise SourceError(
                f"expected one split, got a DatasetDict with {', '.join(dataset)}: clean them one by one, as in "
                f"clean(ds[{next(iter(dataset), 'train')!r}], ...)."
            )
        if not isinstance(dataset, datasets.Dataset):
            raise SourceError(
                f"expected a datasets.Dataset, got {type(dataset).__name__}: load it without streaming=True."
            )
        plain = dataset.with_format(None)
        self.image_key = _column(plain.features, datasets.Image, image_key, "image_key", required=True)
        self.label_key = _column(plain.features, datasets.ClassLabel, label_key, "label_key", required=False)
        self.split = str(dataset.split or "train")
        self.root = f"datasets.Dataset with {len(plain)} rows, image column {self.image_key!r}"
        self.folders = []
        self.features = plain.features
        stored = plain.cast_column(self.image_key, datasets.Image(decode=False))
        self._arrow = stored.with_format("arrow")
        self._images = stored.select_columns([self.image_key])
        self.fingerprint = _fingerprint(self._arrow, plain.features)
        self.entries = list(self._list(stored))
        if not any(entry.kind == "image" for entry in self.entries):
            raise SourceError(f"expected images in the column {self.image_key!r}, got none in {len(plain)} rows.")

    def _list(self, stored: Any) -> Iterator[Entry]:
        columns = [self.image_key] + ([self.label_key] if self.label_key else [])
        names = getattr(self.features.get(self.label_key), "int2str", str)
        row = 0
        for batch in stored.select_columns(columns).iter(_ROWS):
            labels = batch[self.label_key] if self.label_key else [None] * len(batch[self.image_key])
            for image, label in zip(batch[self.image_key], labels, strict=True):
                name = "" if label is None or label == -1 else names(label)
                yield _entry(row, image, name)
                row += 1

    def class_to_idx(self) -> dict[str, int]:
        """The numbers of the ``ClassLabel``; of a plain integer column its values."""
        names = getattr(self.features.get(self.label_key), "names", None)
        return {name: number for number, name in enumerate(names)} if names else super().class_to_idx()

    def read(self, entry: Entry) -> bytes:
        """The stored bytes, or the file that the row names."""
        if entry.kind != "image":
            return b""
        image = self._images[entry.where[0]][self.image_key]
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()

    def table(self, start: int, images: list[bytes | None], lost: set[int]) -> Any:
        """The rows from ``start`` as a ``pyarrow.Table`` with ``images`` (PNG) in place of theirs.

        ``None`` among ``images`` keeps what the row holds; the rows ``lost``, counted from ``start``, get no image.
        """
        import pyarrow
        from datasets.table import embed_table_storage

        table = self._arrow[start : start + len(images)]
        place = table.column_names.index(self.image_key)
        before = table.column(place).to_pylist()
        column = [None if i in lost else _image(before[i], png) for i, png in enumerate(images)]
        kind = table.schema.field(place).type
        table = table.set_column(place, self.image_key, pyarrow.array(column, kind))
        table = table.cast(self.features.arrow_schema)
        return embed_table_storage(table)  # audio and further images, which are only named by a path


def _entry(row: int, image: Any, label: str) -> Entry:
    path = f"{row:08d}"
    if image is None or (image["bytes"] is None and image["path"] is None):
        return Entry(path, "other", 0, "the row has no image", label, (row,))
    if image["bytes"] is not None:
        size = len(image["bytes"])
    elif os.path.isfile(image["path"]):  # noqa: PTH113
        size = os.path.getsize(image["path"])  # noqa: PTH202
    else:
        raise SourceError(
            f"expected the image of row {row} in the dataset or in a local file, got {image['path']!r}: store the "
            "images first, for example with dataset.map or load_dataset."
        )
    return Entry(path, "image", size, "", label, (row,))


def _fingerprint(table: Any, features: Any) -> str:
    """Of the features, and of some rows with all their columns."""
    digest = hashlib.sha256(repr(features).encode())
    for i in spread(len(table)):
        digest.update(repr(table[i : i + 1].to_pylist()).encode())
    return digest.hexdigest()


def _image(before: Any, png: bytes | None) -> Any:
    if png is None:
        return before
    name = (before or {}).get("path")
    return {"bytes": png, "path": f"{Path(name).stem}.png" if name else None}


def _column(features: Any, kind: type, wanted: str | None, argument: str, *, required: bool) -> str | None:
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if wanted is not None:
        if wanted not in features or (required and wanted not in found):
            raise SourceError(
                f"expected {argument} to name one of {', '.join(found) or 'no column'}, got {wanted!r}: columns of "
                "another feature become images by dataset.cast_column(name, datasets.Image())."
            )
        return wanted
    if len(found) == 1:
        return found[0]
    if required:
        raise SourceError(
            f"expected one column with the feature Image, got {', '.join(found) or 'none'} among "
            f"{', '.join(features)}: name it with {argument}=..., or make it one with "
            "dataset.cast_column(name, datasets.Image())."
        )
    return None


def from_parquet(files: list[Any], source: HuggingFaceDataset) -> Any:
    """The ``datasets.Dataset`` that lies in Parquet files (streams, which are closed), in memory."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    tables = []
    for file in files:
        with file:
            tables.append(pyarrow.parquet.read_table(file))
    info = datasets.DatasetInfo(features=source.features)
    table = datasets.table.InMemoryTable(pyarrow.concat_tables(tables))
    return datasets.Dataset(table, info=info, split=datasets.NamedSplit(source.split))

"""A folder or a map-style dataset to a folder of PNG files, with a folder for each class."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from torchvision.datasets import ImageFolder

from ...data.sources.base import Source
from ...data.sources.map_style import ImageDataset, PurifiedDataset, rebuilt
from ...poisons.export import RECORD_NAME
from ..manifest import MANIFEST, OURS, Row, read_rows
from .base import Writer

_RENAMED = (*OURS, RECORD_NAME)  # top-level files of a source that would speak of other files in the output
_LONGEST_NAME = 255  # bytes, on every common file system


class FolderWriter(Writer):
    """Of a folder, local or remote: the same tree, in which every image is a PNG file."""

    def targets(self, cuts: list[tuple[int, int]]) -> list[tuple[str, str | None]]:
        return [(path, None) for path in output_paths(self.source)]

    def load(self, *, in_memory: bool = False) -> Any:
        """An ``ImageFolder``."""
        if self.layout.store.remote:
            raise ValueError(f"expected a local folder to load, got {self.layout.store.root!r}: read it with fsspec.")
        return ImageFolder(self.layout.store.root)


class DatasetWriter(FolderWriter):
    """Of a map-style dataset: class folders such that ``ImageFolder`` gives every image its target."""

    loads_into_memory = True
    source: ImageDataset

    def load(self, *, in_memory: bool = False) -> Any:
        """A dataset with the same targets and transforms, in the same order."""
        store, original = self.layout.store, self.source.original
        with store.open(MANIFEST) as lines:
            rows: list[Row] = [row for row in read_rows(lines) if row["status"] == "purified"]
        places = [int(os.path.splitext(row["path"].rpartition("/")[2])[0]) for row in rows]  # noqa: PTH122
        if in_memory:
            return rebuilt(original, places, [store.read(row["out"]) for row in rows])
        return PurifiedDataset(original, places, [store.path(row["out"]) for row in rows])


def output_paths(listing: Source) -> list[str]:
    """The relative output path of each entry, in the order of the listing; no two are equal.

    An image ``a/b.jpg`` becomes ``a/b.png``. Where several files want one name (``b.jpg`` and ``b.bmp``, and on
    file systems that ignore case ``b.jpg`` and ``B.png``), each image of them keeps its whole name: ``b.jpg.png``.
    Other files keep their names, except that a top-level file named like one of ours (a manifest of an earlier
    cleaning) becomes ``manifest.source.jsonl``, and so does the record of a poisoned dataset, which describes the
    images as they were: ``poison.source.json``.
    """
    natural = [_with_png(entry.path) if entry.kind == "image" else entry.path for entry in listing.entries]
    keys = [_key(path) for path in natural]
    claims = Counter(keys)
    claims.update(map(_key, [*listing.folders, *_RENAMED]))
    paths = []
    for entry, path, key in zip(listing.entries, natural, keys, strict=True):
        if claims[key] > 1 and (entry.kind == "image" or path in _RENAMED):
            path = next(name for name in _alternatives(path, entry.path) if _key(name) not in claims)
            claims[_key(path)] = 1
        paths.append(path)
    return paths


def _key(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name.casefold()


def _with_png(path: str) -> str:
    return os.path.splitext(path)[0] + ".png"  # noqa: PTH122 (Path would normalise odd names)


def _alternatives(path: str, source: str) -> Iterator[str]:
    if path in _RENAMED:
        base, suffix = PurePosixPath(source).stem + ".source", PurePosixPath(source).suffix
    else:
        base, suffix = source, ".png"
    yield _shorten(base, suffix)
    number = 2
    while True:
        yield _shorten(base, f".{number}{suffix}")
        number += 1


def _shorten(base: str, suffix: str) -> str:
    """``base + suffix``, with the end of an over-long name replaced by its hash."""
    folder, slash, name = base.rpartition("/")
    raw = os.fsencode(name)
    if len(raw) + len(suffix) > _LONGEST_NAME:
        mark = hashlib.sha256(raw).hexdigest()[:16].encode()
        name = os.fsdecode(raw[: _LONGEST_NAME - len(suffix) - len(mark) - 1] + b"-" + mark)
    return f"{folder}{slash}{name}{suffix}"

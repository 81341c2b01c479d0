"""What a call of ``clean`` gives back."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder

from ..data.sources.base import Source
from ..data.sources.huggingface import HuggingFaceDataset, from_parquet
from ..data.sources.map_style import ImageDataset, PurifiedDataset, rebuilt
from ..data.sources.webdataset import WebDatasetShards
from ..storage.store import Store
from .manifest import Row, read_rows
from .names import MANIFEST
from .suspects import write_suspects
from .verify import VerifyResult, verify


@dataclass(frozen=True, slots=True)
class CleanResult:
    """What a call of :func:`clean` did.

    Attributes:
        out: the output folder, or its URL; ``None`` where the result is in memory.
        manifest: its ``manifest.jsonl`` (there when ``complete``).
        report: its ``report.html``, or ``None`` if there is none.
        counts: number of source files by status (``purified``, ``copied``, ``quarantined``, ``skipped``), as far as
            they are done.
        seconds: duration of this call.
        images_per_second: files that this call dealt with, over ``seconds``.
        complete: ``False`` while units of other ranks are open.
        dataset: the purified data set where no output was named, else ``None``; see :meth:`load`.
    """

    out: Path | str | None
    manifest: Path | str | None
    report: Path | str | None
    counts: dict[str, int]
    seconds: float
    images_per_second: float
    complete: bool
    dataset: Any = field(default=None, repr=False)
    source: Source | None = field(default=None, repr=False)
    store: Store | None = field(default=None, repr=False)

    def verify(self) -> VerifyResult:
        """Re-read everything: see :func:`puretransforms.cleaning.verify.verify`."""
        if self.store is None:
            raise ValueError("expected an output to read again, got a result in memory: name an output folder.")
        return verify(self.store.root, options=getattr(self.store, "options", None))

    def load(self) -> Any:
        """The purified images as what they were before: an ``ImageFolder``, a data set with the same targets and
        transforms in the same order, a ``datasets.Dataset`` with the same features, or the list of shards.
        """
        if self.dataset is not None:
            return self.dataset
        if not self.complete or self.source is None or self.store is None:
            raise ValueError("expected a finished output to load, got one with open units: run its other ranks first.")
        return load(self.store, self.source, in_memory=False)

    def suspects(self, path: str | os.PathLike[str]) -> int:
        """Write every purified image to a CSV file, the most changed first: see :mod:`.suspects`; how many."""
        if self.store is None or not self.complete:
            raise ValueError("expected a finished output with a manifest, got none: finish the run first.")
        with self.store.open(MANIFEST) as lines:
            return write_suspects(read_rows(lines), path)


def load(store: Store, source: Source, *, in_memory: bool) -> Any:
    """The data set that stands in ``store``; see :meth:`CleanResult.load`."""
    if isinstance(source, WebDatasetShards):
        return [store.path(name) for name in source.names]
    if isinstance(source, HuggingFaceDataset):
        with store.open(MANIFEST) as lines:
            files = [row["out"] for row in read_rows(lines) if row["status"] == "packed"]
        return from_parquet([store.open(name) for name in files], source)
    if not isinstance(source, ImageDataset):
        if store.remote:
            raise ValueError(f"expected a local folder to load, got {store.root!r}: read it with fsspec.")
        return ImageFolder(store.root)
    with store.open(MANIFEST) as lines:
        rows: list[Row] = [row for row in read_rows(lines) if row["status"] == "purified"]
    places = [int(os.path.splitext(row["path"].rpartition("/")[2])[0]) for row in rows]  # noqa: PTH122
    if in_memory:
        return rebuilt(source.original, places, [store.read(row["out"]) for row in rows])
    return PurifiedDataset(source.original, places, [store.path(row["out"]) for row in rows])

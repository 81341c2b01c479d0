"""From a source to units and back: which entries are finished together, in which file they end, how one is read again.

Files stay files. A tar shard becomes a tar shard of the same name in which the image members alone are new, everything
else being copied with its headers, byte for byte. Rows of a Hugging Face data set become Parquet.
"""

import copy
import hashlib
import io
import tarfile
from io import IOBase
from typing import Any

from ..data.sources.base import Source
from ..data.sources.huggingface import HuggingFaceDataset
from ..data.sources.webdataset import Span, WebDatasetShards
from .manifest import Layout, Row, new_row, to_line
from .names import output_paths
from .units import Finished, Staging, Task, Unit

_BLOCK = 1 << 20


def plan(source: Source, unit_size: int) -> list[Unit]:
    """Cut the source into units and say where every entry goes; a function of the listing alone."""
    starts = source.starts(unit_size)
    ends = [*starts[1:], len(source.entries)]
    cuts = list(zip(starts, ends, strict=True))
    if isinstance(source, WebDatasetShards):
        shards = (source.names[entry.where[0]] for entry in source.entries)
        targets = list(zip(shards, source.members, strict=True))
    elif isinstance(source, HuggingFaceDataset):
        names = [f"data/{source.split}-{i:05d}-of-{len(cuts):05d}.parquet" for i in range(len(cuts))]
        targets = [
            (name, str(row)) for name, (start, end) in zip(names, cuts, strict=True) for row in range(end - start)
        ]
    else:
        targets = [(path, None) for path in output_paths(source)]
    return [
        Unit(number, [Task(i - start, source.entries[i], *targets[i]) for i in range(start, end)])
        for number, (start, end) in enumerate(cuts)
    ]


def folders(source: Source) -> list[str]:
    """The folders to make in the output."""
    return ["", "data"] if source.packed == "parquet" else ["", *source.folders]


def staging(source: Source, layout: Layout, number: int) -> Staging:
    """The kind of staging that the units of ``source`` need."""
    kinds = {"tar": TarStaging, "parquet": ParquetStaging}
    return kinds.get(source.packed or "", Staging)(layout, number)


class _Container(Staging):
    """A unit that becomes one file."""

    def copy(self, place: int, original: Any) -> tuple[str, bytes]:
        """Nothing is staged: what stays as it is comes from the source when the container is written."""
        data = original.read()
        return hashlib.sha256(data).hexdigest(), data[:16]

    def deliver(self, source: Source, tasks: list[Task], finished: list[Finished]) -> list[bytes]:
        path, name = f"{self.prefix}container", tasks[0].out
        before = self.build(path, source, tasks, finished)
        with open(path, "rb") as file:  # noqa: PTH123
            after = hashlib.file_digest(file, "sha256").hexdigest()
        self.layout.store.publish({path: name})
        row = new_row(name, "", self.number) | {"out": name, "status": "packed"}
        return [to_line(row | {"sha256_in": before, "sha256_out": after})]

    def build(self, path: str, source: Any, tasks: list[Task], finished: list[Finished]) -> str | None:
        """Write the container to ``path``; the sha256 of the one that it replaces, if there is one."""
        raise NotImplementedError(f"{type(self).__name__} must define build(path, source, tasks, finished).")


class ParquetStaging(_Container):
    """Rows of a table. A row whose image is damaged stays, without its image, so that rows keep their numbers."""

    def build(self, path: str, source: Any, tasks: list[Task], finished: list[Finished]) -> str | None:
        """One row group with the features of the data set in its schema."""
        import pyarrow.parquet

        images = [self.staged(task.place) for task in tasks]
        lost = {done.place for done in finished if done.aside}
        table = source.table(tasks[0].entry.where[0], images, lost)
        pyarrow.parquet.write_table(table, path)
        return None


class TarStaging(_Container):
    """A shard. A sample whose image is damaged is left out as a whole, and its image put aside."""

    def build(self, path: str, source: Any, tasks: list[Task], finished: list[Finished]) -> str | None:
        """The same members in the same order; only the images, and their headers, are new."""
        lost = {done.place for done in finished if done.aside}
        number = tasks[0].entry.where[0]
        with source.open_shard(number) as original:
            before = hashlib.file_digest(original, "sha256").hexdigest()
        with source.open_shard(number) as original, open(path, "wb") as out:  # noqa: PTH123
            for task in tasks:
                span = Span(*task.entry.where)
                if task.place in lost:
                    _copy(original, out, span.sample - original.tell())
                    original.seek(span.sample_end)
                elif (png := self.staged(task.place)) is not None:
                    _copy(original, out, span.header - original.tell())
                    out.write(_header(original, span, task.member or "", len(png)))
                    out.write(png + b"\0" * (-len(png) % tarfile.BLOCKSIZE))
                    original.seek(span.end)
            _copy(original, out, None)
        return before


def _copy(original: IOBase, out: IOBase, size: int | None) -> None:
    while size is None or size > 0:
        block = original.read(_BLOCK if size is None else min(_BLOCK, size))
        if not block:
            return
        out.write(block)
        size = None if size is None else size - len(block)


def _header(original: IOBase, span: Span, name: str, size: int) -> bytes:
    """The header of an image member with another name and size; owner, mode and time stay."""
    original.seek(span.header)
    header = io.BytesIO(original.read(span.data - span.header))
    with tarfile.open(fileobj=header, mode="r:") as tar:
        info = copy.copy(tar.next())
    info.name, info.size = name, size
    kept = {key: value for key, value in info.pax_headers.items() if key not in ("path", "size")}
    info.pax_headers = kept
    return info.tobuf(tarfile.PAX_FORMAT if kept else tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def read_back(layout: Layout, source: Source, row: Row) -> bytes:
    """The purified image of a manifest row, as a PNG file."""
    if source.packed is None:
        return layout.store.read(row["out"])
    with layout.store.open(row["out"]) as file:
        if source.packed == "tar":
            with tarfile.open(fileobj=file, mode="r:") as tar:
                return tar.extractfile(row["member"]).read()
        import pyarrow.parquet

        column = pyarrow.parquet.read_table(file, columns=[source.image_key]).column(0)
        return column[int(row["member"])].as_py()["bytes"]

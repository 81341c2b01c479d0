"""Shards to shards: the same tar file, in which the image members alone are new.

Everything else is copied with its headers, byte for byte. A sample whose image is damaged, or a suspect, is left out
as a whole, and its image put aside.
"""

import copy
import hashlib
import io
import tarfile
from io import BufferedIOBase, IOBase
from typing import IO, cast

from ...data.sources.webdataset import Span, WebDatasetShards
from ..manifest import Row
from .base import ContainerWriter, Unit

_BLOCK = 1 << 20


class TarWriter(ContainerWriter):
    """Of :class:`~puretransforms.data.sources.webdataset.WebDatasetShards`."""

    source: WebDatasetShards

    def targets(self, cuts: list[tuple[int, int]]) -> list[tuple[str, str | None]]:
        shards = (self.source.names[entry.where[0]] for entry in self.source.entries)
        return list(zip(shards, self.source.members, strict=True))

    def build(self, path: str, unit: Unit, lost: set[int]) -> str | None:
        """The same members in the same order; only the images, and their headers, are new."""
        number = unit.tasks[0].entry.where[0]
        with self.source.open_shard(number) as original:
            before = hashlib.file_digest(cast(BufferedIOBase, original), "sha256").hexdigest()
        with self.source.open_shard(number) as original, open(path, "wb") as out:  # noqa: PTH123
            for task in unit.tasks:
                span = Span(*task.entry.where)
                if task.place in lost:
                    _copy(original, out, span.sample - original.tell())
                    original.seek(span.sample_end)
                elif (png := self.staged(unit.number, task.place)) is not None:
                    _copy(original, out, span.header - original.tell())
                    out.write(_header(original, span, task.member or "", len(png)))
                    out.write(png + b"\0" * (-len(png) % tarfile.BLOCKSIZE))
                    original.seek(span.end)
            _copy(original, out, None)
        return before

    def read_back(self, row: Row) -> bytes:
        with self.layout.store.open(row["out"]) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            return cast(IO[bytes], tar.extractfile(row["member"])).read()

    def load(self, *, in_memory: bool = False) -> list[str]:
        """Paths or URLs of the shards."""
        return [self.layout.store.path(name) for name in self.source.names]


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
        info = copy.copy(cast(tarfile.TarInfo, tar.next()))
    info.name, info.size = name, size
    kept = {key: value for key, value in info.pax_headers.items() if key not in ("path", "size")}
    info.pax_headers = kept
    return info.tobuf(tarfile.PAX_FORMAT if kept else tarfile.GNU_FORMAT, "utf-8", "surrogateescape")

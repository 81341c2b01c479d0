"""What a source of images is: a listing in a fixed order, and the bytes of each entry.

A folder, a data set of torchvision or Hugging Face and WebDataset shards differ in nothing else, so that units,
manifest and engines are the same for all of them.
"""

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from io import IOBase
from typing import Literal

from PIL import Image

from ...errors import CorruptImageError, SourceError

IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)

_FILE_BYTES_PER_PIXEL = 8  # no image file needs more (16-bit RGBA, stored plainly)
Kind = Literal["image", "other", "skipped"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, row or sample of the source.

    Attributes:
        path: its name, unique in the source, ``/`` between folders; bytes that are not UTF-8 as surrogate escapes.
        kind: ``"image"``, ``"other"`` (passed on as it is), ``"skipped"`` (not to be read).
        size: bytes; 0 where ``kind`` is ``"skipped"``.
        reason: why it is skipped, or what is odd about it, else ``""``.
        label: the name of its class, ``""`` if it has none.
        where: how the source finds it: nothing in a folder, the row of a table, offsets in a shard.
    """

    path: str
    kind: Kind
    size: int
    reason: str = ""
    label: str = ""
    where: tuple[int, ...] = ()


def spread(count: int, most: int = 1000) -> list[int]:
    """``most`` of the first ``count`` places, evenly spread, the last among them; all if there are fewer.

    A source without file sizes is told from another by these samples: to read all would cost as much as to clean them.
    """
    return [(i + 1) * count // min(count, most) - 1 for i in range(min(count, most))]


class Source:
    """The base of all sources. A copy goes to every worker process, so nothing open may be kept.

    Attributes:
        root: where it lies, or what it is, for messages.
        base: the folder or URL of its files, where nothing may be written; ``""`` if it has none.
        entries: everything in it, in order.
        folders: folders to mirror in the output.
        fingerprint: what decides the content beside names and sizes of the entries.
    """

    root: str
    base: str = ""
    entries: list[Entry]
    folders: list[str]
    fingerprint: str = ""

    def read(self, entry: Entry) -> bytes:
        """The bytes of ``entry``.

        Raises:
            OSError: it cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read(entry).")

    def open(self, entry: Entry) -> IOBase:
        """The bytes of ``entry`` as a stream, for what may be large."""
        return io.BytesIO(self.read(entry))

    def class_to_idx(self) -> dict[str, int]:
        """The number of each class name among the images: the source's own numbers where it has any.

        Names that are numbers themselves (``"7"``, ``"10"``) count as those; other names are numbered in alphabetical
        order, as ``ImageFolder`` does. Images without a class have the name ``""``.
        """
        names = sorted({entry.label for entry in self.entries if entry.kind == "image"})
        if names and all(name.isdecimal() for name in names) and not self.folders:
            return {name: int(name) for name in names}
        return {name: number for number, name in enumerate(names)}

    def digest(self) -> str:
        """sha256 of the listing: names, sizes and kinds, and what else decides the content."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(os.fsencode(entry.path) + b"\0%d %s\n" % (entry.size, entry.kind.encode()))
        digest.update(self.fingerprint.encode())
        return digest.hexdigest()

    def starts(self, unit_size: int) -> list[int]:
        """The places in ``entries`` where units begin."""
        return list(range(0, len(self.entries), unit_size))


def kind_of(name: str) -> Kind:
    """``"image"`` or ``"other"``, by the suffix."""
    return "image" if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES else "other"  # noqa: PTH122


def top_folder(path: str) -> str:
    """The class folder: the first part of the path, ``""`` for a file at the top."""
    head, slash, _ = path.partition("/")
    return head if slash else ""


def require_images(entries: Iterable[Entry], where: str) -> None:
    """Raise :class:`SourceError` unless an image is among ``entries``."""
    found = 0
    for found, entry in enumerate(entries, 1):  # noqa: B007
        if entry.kind == "image":
            return
    raise SourceError(
        f"expected at least one image below {where!r}, found {found} file(s) and none with an image suffix: give the "
        f"folder that holds the class folders ({', '.join(sorted(IMAGE_SUFFIXES))}), or name tar shards by a pattern "
        "such as 'shards/{000..099}.tar'."
    )


def read_image(source: Source, entry: Entry) -> bytes:
    """The bytes of an image file; refuses with :class:`CorruptImageError` what is larger than any image allowed."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and entry.size > limit * _FILE_BYTES_PER_PIXEL:
        raise CorruptImageError(
            f"an image file of {entry.size} bytes, more than {_FILE_BYTES_PER_PIXEL} per allowed pixel"
        )
    return source.read(entry)

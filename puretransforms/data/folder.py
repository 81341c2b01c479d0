"""A folder of images as torchvision's ``ImageFolder`` lays it out: the sorted listing of everything in it.

Nothing is left out: what is no image is listed too, and what cannot be read is listed with the reason.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import SourceError

IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)

Kind = Literal["image", "other", "skipped"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or link of the source.

    Attributes:
        path: relative to the source, ``/`` between folders; bytes that are not UTF-8 stand as surrogate escapes.
        kind: ``"image"`` (by its suffix), ``"other"`` (any other file), ``"skipped"`` (not to be read).
        size: bytes; 0 where ``kind`` is ``"skipped"``.
        reason: why it is skipped, else ``""``.
    """

    path: str
    kind: Kind
    size: int
    reason: str = ""

    @property
    def label(self) -> str:
        """The class folder: the first part of the path, ``""`` for a file at the top."""
        head, slash, _ = self.path.partition("/")
        return head if slash else ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A source folder: every entry and every folder below ``root``, each sorted by relative path."""

    root: str
    entries: list[Entry]
    folders: list[str]


def list_folder(source: str | os.PathLike[str]) -> Listing:
    """List everything below ``source``.

    A link is read through if it points into the source; otherwise it is listed as ``"skipped"``. So that the listing
    always ends, a folder link is not followed when it points at a folder around itself or stands below another one.

    Raises:
        SourceError: ``source`` is missing, no folder, holds no image, or a folder in it cannot be listed.
    """
    root = os.path.realpath(source)
    if not Path(root).is_dir():
        raise SourceError(f"expected a folder of images, got {os.fspath(source)!r}: no such folder.")
    entries: list[Entry] = []
    folders: list[str] = []
    waiting = [("", False)]
    while waiting:
        folder, linked = waiting.pop()
        for item in _items(root, folder):
            path = f"{folder}/{item.name}" if folder else item.name
            why_not = _refuse_link(root, item, linked) if item.is_symlink() else ""
            if why_not:
                entries.append(Entry(path, "skipped", 0, why_not))
            elif item.is_dir():
                folders.append(path)
                waiting.append((path, linked or item.is_symlink()))
            elif item.is_file():
                entries.append(Entry(path, _kind(item.name), item.stat().st_size))
            else:
                entries.append(Entry(path, "skipped", 0, "neither file nor folder (a pipe, socket or device)"))
    if not any(entry.kind == "image" for entry in entries):
        raise SourceError(
            f"expected at least one image below {os.fspath(source)!r}, found {len(entries)} file(s) and none with an "
            f"image suffix: give the folder that holds the class folders ({', '.join(sorted(IMAGE_SUFFIXES))})."
        )
    return Listing(root, sorted(entries, key=lambda entry: entry.path), sorted(folders))


def _items(root: str, folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(os.path.join(root, folder)) as items:  # noqa: PTH118 (Path is slow, and normalises names)
            yield from items
    except OSError as error:
        where = folder or root
        raise SourceError(
            f"expected to list the folder {where!r}, got {error.strerror}: fix its permissions."
        ) from error


def _kind(name: str) -> Kind:
    return "image" if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES else "other"  # noqa: PTH122


def _refuse_link(root: str, item: os.DirEntry[str], below_link: bool) -> str:
    target = os.path.realpath(item.path)
    if not is_within(target, root):
        return "a link to outside the source"
    if not Path(target).exists():
        return "a link to nothing"
    if Path(target).is_dir():
        if is_within(os.path.realpath(os.path.dirname(item.path)), target):  # noqa: PTH120
            return "a link to a folder around it"
        if below_link:
            return "a folder link below another folder link"
    return ""


def is_within(path: str, folder: str) -> bool:
    """Is real path ``path`` the real path ``folder``, or below it?"""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)

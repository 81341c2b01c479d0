"""A folder of images as torchvision's ``ImageFolder`` lays it out: the sorted listing of everything in it.

Nothing is left out: what is no image is listed too, and what cannot be read is listed with the reason.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import IOBase
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder

from ...errors import SourceError
from ...storage.remote import file_system, retried
from .base import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from .base import Entry, Source, kind_of, require_images, top_folder

_BLOCK = 1 << 20
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True, slots=True)
class Listing(Source):
    """A source folder: every entry and every folder below ``root``, each sorted by relative path."""

    root: str
    entries: list[Entry]
    folders: list[str]

    @property
    def base(self) -> str:
        """The folder itself."""
        return self.root

    def read(self, entry: Entry) -> bytes:
        """One read if the file still has its size. Twice as fast as ``Path.read_bytes``."""
        return read_file(self._path(entry), entry.size)

    def open(self, entry: Entry) -> IOBase:
        """The open file."""
        return open(self._path(entry), "rb", buffering=0)  # noqa: PTH123

    def _path(self, entry: Entry) -> str:
        return f"{self.root.rstrip(os.sep)}{os.sep}{entry.path}"


def read_file(path: str, size: int) -> bytes:
    """The whole file, one read if it still has ``size`` bytes."""
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        data = os.read(descriptor, size + 1)
        if len(data) != size:
            while more := os.read(descriptor, _BLOCK):
                data += more
        return data
    finally:
        os.close(descriptor)


def list_folder(source: str | os.PathLike[str]) -> Listing:
    """List everything below ``source``.

    A link is read through if it points into the source; otherwise it is listed as ``"skipped"``. So that the listing
    always ends, a folder link is not followed when it points at a folder around itself or stands below another one.

    Raises:
        SourceError: ``source`` is missing, no folder, holds no image, or a folder in it cannot be listed.
    """
    root = os.path.realpath(source)
    if not Path(root).is_dir():
        what = "a file. Give the folder that holds the class folders, or a .tar shard" if Path(root).exists() else ""
        raise SourceError(f"expected a folder of images, got {os.fspath(source)!r}: {what or 'no such folder'}.")
    entries: list[Entry] = []
    folders: list[str] = []
    waiting = [("", False)]
    while waiting:
        folder, linked = waiting.pop()
        for item in _items(root, folder):
            path = f"{folder}/{item.name}" if folder else item.name
            why_not = _refuse_link(root, item, linked) if item.is_symlink() else ""
            if why_not:
                entries.append(Entry(path, "skipped", 0, why_not, top_folder(path)))
            elif item.is_dir():
                folders.append(path)
                waiting.append((path, linked or item.is_symlink()))
            elif item.is_file():
                entries.append(Entry(path, kind_of(item.name), item.stat().st_size, "", top_folder(path)))
            else:
                why_not = "neither file nor folder (a pipe, socket or device)"
                entries.append(Entry(path, "skipped", 0, why_not, top_folder(path)))
    require_images(entries, os.fspath(source))
    return Listing(root, sorted(entries, key=lambda entry: entry.path), sorted(folders))


def image_folder(path: str) -> ImageFolder:
    """Torchvision's dataset of a folder of class folders.

    Raises:
        SourceError: no such folder, no class folder in it, or one without an image.
    """
    if not Path(path).is_dir():
        raise SourceError(f"expected a folder with a folder of images for each class, got {path!r}: no such folder.")
    if not any(item.is_dir() for item in Path(path).iterdir()):
        raise SourceError(
            f"expected a folder with a folder of images for each class, got {path!r}, which holds no folder: move each "
            "image into the folder of its class."
        )
    try:
        return ImageFolder(path)
    except FileNotFoundError as error:
        said = str(error).partition(" Supported")[0]  # "Found no valid file for the classes a, b."
        raise SourceError(f"expected images in every class folder of {path!r}, got: {said} Remove those.") from error


def _items(root: str, folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(os.path.join(root, folder)) as items:  # noqa: PTH118 (Path is slow, and normalises names)
            yield from items
    except OSError as error:
        where = folder or root
        raise SourceError(
            f"expected to list the folder {where!r}, got {error.strerror}: fix its permissions."
        ) from error


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


class RemoteFolder(Source):
    """Every object below ``url``, sorted by path, with the class folders of an ``ImageFolder``.

    Raises:
        SourceError: nothing there, no image, or a name that leads out of the folder (``..``).
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.root = self.base = url.rstrip("/")
        self.options = dict(options or {})
        files, top = file_system(self.root, self.options)
        found = retried(f"list {self.root}", files.find, top, detail=True, withdirs=False)
        prefix = top.rstrip("/") + "/"
        paths = {path.removeprefix(prefix): info for path, info in found.items() if path.startswith(prefix)}
        if not paths:
            raise SourceError(f"expected images below {url!r}, found nothing: check the address.")
        for path in paths:
            if not {"", ".", ".."}.isdisjoint(path.split("/")):
                raise SourceError(
                    f"expected names below {url!r} that are paths in a folder, got {path!r}: rename it, since its "
                    "purified image would lie elsewhere."
                )
        self.entries = [
            Entry(path, kind_of(path), int(paths[path]["size"] or 0), "", top_folder(path)) for path in sorted(paths)
        ]
        self.folders = sorted({os.path.dirname(path) for path in paths} - {""})  # noqa: PTH120
        require_images(self.entries, url)

    def read(self, entry: Entry) -> bytes:
        """One request."""
        files, top = file_system(self.root, self.options)
        address = f"{top.rstrip('/')}/{entry.path}"
        return retried(f"read {self.root}/{entry.path}", files.cat_file, address)

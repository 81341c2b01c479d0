"""Where output goes: a folder, or an object store. Under a final name stands the whole file, or nothing.

Both offer the same few verbs, on names relative to their root with ``/`` between folders.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import IOBase
from pathlib import Path
from typing import Any

from ..errors import StoreError
from .atomic import flush, replace_file
from .remote import file_system, is_remote, retried


class LocalStore:
    """A folder. Files are brought to the disk first and renamed then, all of a call together."""

    remote = False

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)

    def path(self, name: str) -> str:
        """The path of ``name``."""
        return f"{self.root}{os.sep}{name}"

    def exists(self, name: str) -> bool:
        """Is there a file or folder ``name``?"""
        return os.path.exists(self.path(name))  # noqa: PTH110

    def read(self, name: str) -> bytes:
        """The whole file; ``FileNotFoundError`` if there is none."""
        return Path(self.path(name)).read_bytes()

    def open(self, name: str) -> IOBase:
        """The file as a stream that can seek."""
        return open(self.path(name), "rb")  # noqa: PTH123

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in ``folder``; nothing if there is no such folder."""
        path = self.path(folder)
        return os.listdir(path) if os.path.isdir(path) else []  # noqa: PTH112, PTH208

    def files(self) -> Iterator[str]:
        """Everything below that is no real folder."""
        for top, folders, names in os.walk(self.root):
            below = os.path.relpath(top, self.root)
            prefix = "" if below == "." else f"{below}{os.sep}"
            yield from (f"{prefix}{name}" for name in names)
            yield from (f"{prefix}{name}" for name in folders if os.path.islink(f"{top}{os.sep}{name}"))  # noqa: PTH114

    def make(self, folder: str) -> None:
        """Make a folder, and those around it."""
        os.makedirs(self.path(folder), exist_ok=True)  # noqa: PTH103

    def put(self, name: str, data: bytes, scratch: Path) -> None:
        """Write ``data`` durably; ``scratch`` lies on the same file system."""
        replace_file(self.path(name), data, scratch)

    def publish(self, staged: Mapping[str, str]) -> None:
        """Give files, ``{path: name}``, their names, durably; their folders are there."""
        if not staged:
            return
        flush(self.root, staged)
        paths = {temporary: self.path(name) for temporary, name in staged.items()}
        for temporary, path in paths.items():
            os.replace(temporary, path)  # noqa: PTH105
        flush(self.root, {os.path.dirname(path) for path in paths.values()})  # noqa: PTH120

    def remove(self, folder: str) -> None:
        """Remove a folder with all that is in it, if it is there."""
        shutil.rmtree(self.path(folder), ignore_errors=True)


class RemoteStore:
    """A place in an object store, by its URL. An upload appears as a whole when it ends; each is tried again."""

    remote = True

    def __init__(self, root: str, options: Mapping[str, Any] | None = None) -> None:
        self.root = root.rstrip("/")
        self.options = dict(options or {})

    def path(self, name: str) -> str:
        """The URL of ``name``."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Is there an object ``name``?"""
        return self._call("exists", name)

    def read(self, name: str) -> bytes:
        """The whole object; ``FileNotFoundError`` if there is none."""
        try:
            return self._call("cat_file", name)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise FileNotFoundError(2, "no such object", self.path(name)) from error
            raise

    def open(self, name: str) -> IOBase:
        """The object as a stream that can seek."""
        return self._call("open", name, mode="rb")

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in ``folder``."""
        try:
            found = self._call("ls", folder, detail=False, refresh=True)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return []
            raise
        return [path.rstrip("/").rpartition("/")[2] for path in found]

    def files(self) -> Iterator[str]:
        """Every object below."""
        _, top = file_system(self.root, self.options)
        prefix = top.rstrip("/") + "/"
        yield from (path.removeprefix(prefix) for path in self._call("find", ""))

    def make(self, folder: str) -> None:
        """Nothing: an object store has no folders."""

    def put(self, name: str, data: bytes, scratch: Path) -> None:
        """Write ``data``."""
        self._call("pipe_file", name, data)  # by place: its name differs from store to store

    def publish(self, staged: Mapping[str, str]) -> None:
        """Upload files, ``{path: name}``."""
        files, top = file_system(self.root, self.options)
        for path, name in staged.items():
            retried(f"write {self.path(name)}", files.put_file, path, f"{top.rstrip('/')}/{name}")

    def remove(self, folder: str) -> None:
        """Remove everything below ``folder``: one request for each object, so that each is tried again by itself."""
        files, _ = file_system(self.root, self.options)
        for path in self._call("find", folder):
            with suppress(StoreError):  # another process may be removing it too; what is left does no harm
                retried(f"remove {path}", files.rm_file, path)

    def _call(self, verb: str, name: str, *args: Any, **options: Any) -> Any:
        files, top = file_system(self.root, self.options)
        address = f"{top.rstrip('/')}/{name}".rstrip("/")
        return retried(f"{verb} {self.path(name)}", getattr(files, verb), address, *args, **options)


Store = LocalStore | RemoteStore


def open_store(root: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Store:
    """The store at a path or URL."""
    return RemoteStore(str(root), options) if is_remote(root) else LocalStore(root)

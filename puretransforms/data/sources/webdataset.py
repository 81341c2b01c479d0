"""WebDataset shards: tar files in which consecutive members with the same name up to the first dot are one sample.

Of every sample one member is the image. The listing keeps the offsets, so that any thread or process can read any
image by itself, and so that everything else can be copied byte for byte, headers and padding included.
"""

import glob
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import IOBase
from itertools import groupby, product
from typing import Any

from ...errors import SourceError
from ...storage.remote import file_system, is_remote, retried
from .base import IMAGE_SUFFIXES, Entry, Source, require_images

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # as webdataset splits names
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_BLOCK = 512
_LONGEST_LABEL = 1024


@dataclass(frozen=True, slots=True)
class Span:
    """Where an image lies in its shard, in bytes: ``Entry.where`` spelled out.

    Attributes:
        shard: its number.
        sample, header, data, end: beginnings of the sample, of the image's header(s), of its bytes; end of its padding.
        sample_end: end of the last member of the sample.
    """

    shard: int
    sample: int
    header: int
    data: int
    end: int
    sample_end: int


class WebDatasetShards(Source):
    """Tar shards as a source; every shard is a unit.

    ``members`` holds for each entry the name that its image has in the output: that of the source with ``.png``.

    Args:
        shards: a path or URL with ``{000..099}`` or ``*``, or a list of paths or URLs.
        image_key: the extension of the image member (``"jpg"``, or several: ``"jpg;png"``); default: the one member
            whose whole extension is that of an image, so that ``seg.png`` is none.
        label_key: the extension of the member that holds the class as text; else the folder in the key is the class.
        options: for fsspec.

    Raises:
        SourceError: no such shard, two of one name, no readable tar, no image, or two images in one sample.
    """

    def __init__(
        self,
        shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        image_key: str | None = None,
        label_key: str | None = "cls",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        named = [shards] if isinstance(shards, str | os.PathLike) else list(shards)
        self.options = dict(options or {})
        self.root = os.fspath(named[0]) if named else ""
        self.shards = [path for name in named for path in _expand(os.fspath(name), self.options)]
        self.names = [path.rpartition("/" if is_remote(path) else os.sep)[2] for path in self.shards]
        doubled = sorted(name for name in set(self.names) if self.names.count(name) > 1)
        if doubled:
            raise SourceError(f"expected shards of different names, got {doubled[0]!r} twice: clean them one by one.")
        self.base = os.path.dirname(self.shards[0]) if self.shards else ""  # noqa: PTH120
        self.extensions = set(image_key.lower().split(";")) if image_key else None
        self.label_key = label_key
        self.folders, self.entries, self._starts = [], [], []
        self.members: list[str] = []
        for number in range(len(self.shards)):
            self._starts.append(len(self.entries))
            self.entries.extend(self._index(number))
        require_images(self.entries, self.root)

    def read(self, entry: Entry) -> bytes:
        """One read, or one request for a range."""
        span = Span(*entry.where)
        path = self.shards[span.shard]
        if is_remote(path):
            files, address = file_system(path, self.options)
            return retried(f"read {path}", files.cat_file, address, span.data, span.data + entry.size)
        with open(path, "rb", buffering=0) as shard:  # noqa: PTH123
            shard.seek(span.data)
            return shard.read(entry.size)

    def open_shard(self, number: int) -> IOBase:
        """A whole shard as a stream."""
        path = self.shards[number]
        if not is_remote(path):
            return open(path, "rb")  # noqa: PTH123
        files, address = file_system(path, self.options)
        return retried(f"open {path}", files.open, address, "rb")

    def starts(self, unit_size: int) -> list[int]:
        """Every shard that holds anything begins a unit, whatever ``unit_size`` is."""
        return sorted(set(self._starts) - {len(self.entries)})

    def _index(self, number: int) -> Iterator[Entry]:
        path = self.shards[number]
        try:
            with self.open_shard(number) as file, tarfile.open(fileobj=file, mode="r:") as shard:
                for key, members in groupby(shard, key=_key):
                    yield from self._sample(number, key, list(members), shard)
        except tarfile.TarError as error:
            raise SourceError(
                f"expected an uncompressed, whole tar file, got {path!r}: {error}. Unpack compressed shards, and make "
                "damaged ones again."
            ) from error

    def _sample(self, number: int, key: str, members: list[tarfile.TarInfo], shard: tarfile.TarFile) -> Iterator[Entry]:
        first, last = members[0], members[-1]
        if any(".." in member.name.split("/") or member.name.startswith("/") for member in members):
            raise SourceError(
                f"expected names inside the shard {self.shards[number]!r}, got {first.name!r}: make it without "
                "'..' and leading slashes."
            )
        images = [member for member in members if key and member.isreg() and self._is_image(member.name)]
        if len(images) > 1:
            raise SourceError(
                f"expected one image in the sample {key!r} of {self.shards[number]!r}, got "
                f"{', '.join(member.name for member in images)}: name it, as in image_key='jpg'."
            )
        if not images:
            where = (number, first.offset, first.offset, first.offset_data, _end(first), _end(last))
            self.members.append(first.name)
            yield Entry(f"{self.names[number]}/{first.name}", "other", first.size, "", "", where)
            return
        image = images[0]
        where = (number, first.offset, image.offset, image.offset_data, _end(image), _end(last))
        label = self._label(key, members, shard)
        self.members.append(_png_name(image.name, {member.name for member in members}))
        yield Entry(f"{self.names[number]}/{image.name}", "image", image.size, "", label, where)

    def _is_image(self, name: str) -> bool:
        extension = _split(name)[1].lower()
        return extension in self.extensions if self.extensions else f".{extension}" in IMAGE_SUFFIXES

    def _label(self, key: str, members: list[tarfile.TarInfo], shard: tarfile.TarFile) -> str:
        for member in members:
            if _split(member.name)[1] == self.label_key and member.size <= _LONGEST_LABEL:
                file = shard.extractfile(member)
                return file.read().decode("utf-8", "replace").strip() if file else ""
        return os.path.dirname(key)  # noqa: PTH120


def _split(name: str) -> tuple[str, str]:
    """``(key, extension)``: the name up to the first dot of its last part, and what follows; no key without a dot."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match else ("", "")


def _png_name(name: str, taken: set[str]) -> str:
    """``a.jpg`` becomes ``a.png``, or ``a.jpg.png`` where the sample has an ``a.png`` beside its image."""
    png = os.path.splitext(name)[0] + ".png"  # noqa: PTH122
    return png if name == png or png not in taken else f"{name}.png"


def _key(member: tarfile.TarInfo) -> str:
    return _split(member.name)[0]


def _end(member: tarfile.TarInfo) -> int:
    size = member.size if member.isreg() else 0
    return member.offset_data + -(-size // _BLOCK) * _BLOCK


def _expand(pattern: str, options: Mapping[str, Any]) -> list[str]:
    """The shards that a pattern names, in order; every one must be there."""
    found: list[str] = []
    for path in _braces(pattern):
        if "*" in path or "?" in path:
            found += sorted(_glob(path, options))
        else:
            found.append(path)
    missing = [path for path in found if not is_remote(path) and not os.path.isfile(path)]  # noqa: PTH113
    if missing or not found:
        raise SourceError(
            f"expected tar shards {pattern!r}, got no file {(missing or [pattern])[0]!r}: check the name."
        )
    return [path if is_remote(path) else os.path.realpath(path) for path in found]


def _glob(path: str, options: Mapping[str, Any]) -> Iterable[str]:
    if not is_remote(path):
        return glob.glob(path)  # noqa: PTH207
    files, address = file_system(path, options)
    scheme = path.partition("://")[0]
    return [f"{scheme}://{name.lstrip('/')}" for name in retried(f"list {path}", files.glob, address)]


def _braces(pattern: str) -> list[str]:
    parts: list[list[str]] = []
    place = 0
    for match in _RANGE.finditer(pattern):
        parts.append([pattern[place : match.start()]])
        if match[3] is not None:
            parts.append(match[3].split(","))
        else:
            parts.append([str(i).zfill(len(match[1])) for i in range(int(match[1]), int(match[2]) + 1)])
        place = match.end()
    return ["".join(pieces) for pieces in product(*parts, [pattern[place:]])]

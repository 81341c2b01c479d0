"""A unit: about a thousand consecutive files of the listing, finished as a whole or not at all."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..data.folder import Entry
from .durable import copy_file, flush, put_durably, write_durably, write_file
from .manifest import Layout


@dataclass(frozen=True, slots=True)
class Task:
    """One file of a unit: its place in the unit, its entry, and where it goes (relative to the output folder)."""

    place: int
    entry: Entry
    out: str


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive files of the listing."""

    number: int
    tasks: list[Task]


@dataclass(frozen=True, slots=True)
class Finished:
    """A file that is dealt with: its place in the unit, its manifest row, and whether an output file is staged."""

    place: int
    line: bytes
    staged: bool

    @property
    def area(self) -> int:
        """Pixels that it holds in memory: none."""
        return 0


def split(entries: list[Entry], outs: list[str], unit_size: int) -> list[Unit]:
    """Cut the listing into units of ``unit_size`` files, the last one shorter."""
    starts = range(0, len(entries), unit_size)
    return [
        Unit(number, [Task(i - start, entries[i], outs[i]) for i in range(start, min(start + unit_size, len(entries)))])
        for number, start in enumerate(starts)
    ]


class Staging:
    """Where the files of one unit wait, each under its place as a name, until all of them are on the disk.

    :meth:`commit` then gives them their names, and the done-mark comes last. So a killed run leaves whole files and
    no others under final names; a unit without a mark is done again and writes the same bytes. Nothing but names:
    codec processes get a copy.
    """

    def __init__(self, layout: Layout, number: int) -> None:
        self.layout = layout
        self.number = number
        self.folder = layout.state / f"unit-{number:06d}"
        self.prefix = f"{self.folder}{os.sep}"

    def begin(self) -> None:
        """Make the folder, empty."""
        shutil.rmtree(self.folder, ignore_errors=True)  # of a killed run
        self.folder.mkdir(parents=True)

    def write(self, place: int, data: bytes) -> None:
        """Stage the bytes of one output file."""
        write_file(f"{self.prefix}{place}", data)

    def copy(self, place: int, source: str) -> tuple[str, bytes]:
        """Stage a byte-for-byte copy; returns ``(sha256, first bytes)``."""
        return copy_file(source, f"{self.prefix}{place}")

    def quarantine(self, place: int, source: str, path: str) -> str:
        """Copy a damaged image into the quarantine, durably and at once (they are few); returns its sha256."""
        target = os.fspath(self.layout.quarantine / path)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        temporary = f"{os.path.dirname(target)}{os.sep}.{self.number}-{place}.tmp"  # noqa: PTH120
        digest, _ = copy_file(source, temporary)
        put_durably(temporary, target)
        return digest

    def commit(self, tasks: list[Task], finished: list[Finished]) -> None:
        """Bring the staged files to the disk, give them their final names, and set the done-mark.

        ``finished``: one for each of ``tasks``, which are those of the whole unit, in order.
        """
        if [done.place for done in finished] != [task.place for task in tasks]:
            raise AssertionError(f"unit {self.number} has {len(tasks)} files and {len(finished)} results")
        root = f"{self.layout.out}{os.sep}"
        names = {f"{self.prefix}{done.place}": root + tasks[done.place].out for done in finished if done.staged}
        flush(root, names)
        for temporary, path in names.items():
            os.replace(temporary, path)  # noqa: PTH105
        flush(root, {os.path.dirname(path) for path in names.values()})  # noqa: PTH120
        write_durably(self.layout.mark(self.number), b"".join(done.line for done in finished), self.layout.state)
        self.folder.rmdir()

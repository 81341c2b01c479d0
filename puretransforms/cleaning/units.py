"""A unit: about a thousand consecutive entries of the source, finished as a whole or not at all."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.sources.base import Entry, Source
from ..storage.atomic import copy_stream, write_file
from .manifest import Layout


@dataclass(frozen=True, slots=True)
class Task:
    """One entry of a unit.

    Attributes:
        place: its number in the unit.
        entry: the entry.
        out: the file that it goes to, relative to the output.
        member: its place in that file, where the file is a container.
    """

    place: int
    entry: Entry
    out: str
    member: str | None = None

    @property
    def target(self) -> dict[str, Any]:
        """What the manifest says about where it went."""
        return {"out": self.out} if self.member is None else {"out": self.out, "member": self.member}


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive entries of the source."""

    number: int
    tasks: list[Task]


@dataclass(frozen=True, slots=True)
class Finished:
    """An entry that is dealt with: its place in the unit, its manifest row, and what is staged for it.

    Attributes:
        place: the number in the unit.
        line: the manifest row.
        staged: there is something to write to the output.
        aside: there is something to put into the quarantine.
    """

    place: int
    line: bytes
    staged: bool
    aside: bool = False

    @property
    def area(self) -> int:
        """Pixels that it holds in memory: none."""
        return 0


class Staging:
    """Where the files of one unit wait, each under its place as a name, until all of them are on the disk.

    :meth:`commit` then gives them their names, and the done-mark comes last. So a killed run leaves whole files and
    no others under final names; a unit without a mark is done again and writes the same bytes. Nothing but names:
    codec processes get a copy.
    """

    def __init__(self, layout: Layout, number: int) -> None:
        self.layout = layout
        self.number = number
        self.folder = layout.scratch / f"unit-{number:06d}"
        self.prefix = f"{self.folder}{os.sep}"

    def begin(self) -> None:
        """Make the folder, empty."""
        shutil.rmtree(self.folder, ignore_errors=True)  # of a killed run
        self.folder.mkdir(parents=True)

    def write(self, place: int, data: bytes) -> None:
        """Stage the bytes of one output file."""
        write_file(f"{self.prefix}{place}", data)

    def copy(self, place: int, original: Any) -> tuple[str, bytes]:
        """Stage a byte-for-byte copy of a stream; returns ``(sha256, first bytes)``."""
        return copy_stream(original, f"{self.prefix}{place}")

    def put_aside(self, place: int, original: Any) -> str:
        """Stage a damaged image for the quarantine; returns its sha256."""
        return copy_stream(original, f"{self.prefix}{place}.bad")[0]

    def commit(self, source: Source, tasks: list[Task], finished: list[Finished]) -> None:
        """Bring the staged files to the disk, give them their final names, and set the done-mark.

        ``finished``: one for each of ``tasks``, which are those of the whole unit, in order.
        """
        if [done.place for done in finished] != [task.place for task in tasks]:
            raise AssertionError(f"unit {self.number} has {len(tasks)} files and {len(finished)} results")
        bad = {f"{self.prefix}{done.place}.bad": tasks[done.place].entry.path for done in finished if done.aside}
        for path in bad.values():
            self.layout.aside.make(os.path.dirname(path))  # noqa: PTH120
        self.layout.aside.publish(bad)
        lines = [done.line for done in finished] + self.deliver(source, tasks, finished)
        self.layout.store.put(self.layout.mark(self.number), b"".join(lines), self.layout.scratch)
        shutil.rmtree(self.folder)

    def deliver(self, source: Source, tasks: list[Task], finished: list[Finished]) -> list[bytes]:
        """Give the staged files their names; the manifest rows of whatever else that makes."""
        self.layout.store.publish(
            {f"{self.prefix}{done.place}": tasks[done.place].out for done in finished if done.staged}
        )
        return []

    def staged(self, place: int) -> bytes | None:
        """What is staged for ``place``, if anything."""
        path = Path(f"{self.prefix}{place}")
        return path.read_bytes() if path.exists() else None

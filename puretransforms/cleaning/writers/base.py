"""What every writer shares: units of work, files that wait under scratch names, and their commit.

A unit is about a thousand consecutive entries of the source, finished as a whole or not at all.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.sources.base import Entry, Source
from ...storage.atomic import copy_stream, write_file
from ..manifest import Layout, Row, new_row, to_line


@dataclass(frozen=True, slots=True)
class Task:
    """One entry of a unit.

    Attributes:
        place: its number in the unit.
        entry: the entry.
        out: the file that it goes to, relative to the output.
        member: its place in that file, where the file is a container.
        suspect: why the image is to be put aside unpurified, else ``""``.
    """

    place: int
    entry: Entry
    out: str
    member: str | None = None
    suspect: str = ""

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


class Writer:
    """Where the images of one source go: planned, staged, committed, read back and loaded.

    The files of a unit wait in the scratch folder, each under its place as a name, until all of them are on the disk;
    :meth:`commit` gives them their names, and the done-mark comes last. So a killed run leaves whole files and no
    others under final names; a unit without a mark is done again and writes the same bytes. Every codec process has
    a copy, so nothing open may be kept.

    Args:
        source: the images.
        layout: the output.

    Attributes:
        suspects: by path, the images to put aside unpurified, and which detectors say so; to be set before the plan.
    """

    loads_into_memory: bool = False  # can load(in_memory=True) give back what needs the output no more?

    def __init__(self, source: Source, layout: Layout) -> None:
        self.source = source
        self.layout = layout
        self.suspects: Mapping[str, Sequence[str]] = {}

    # --- plan --------------------------------------------------------------------------------------------------------

    def plan(self, unit_size: int) -> list[Unit]:
        """Cut the source into units and say where every entry goes; a function of the listing alone."""
        entries, starts = self.source.entries, self.source.starts(unit_size)
        cuts = list(zip(starts, [*starts[1:], len(entries)], strict=True))
        targets = self.targets(cuts)
        return [
            Unit(number, [self._task(i - start, entries[i], *targets[i]) for i in range(start, end)])
            for number, (start, end) in enumerate(cuts)
        ]

    def _task(self, place: int, entry: Entry, out: str, member: str | None) -> Task:
        named = self.suspects.get(entry.path)
        return Task(place, entry, out, member, f"carries a trigger: {', '.join(named)}" if named else "")

    def targets(self, cuts: list[tuple[int, int]]) -> list[tuple[str, str | None]]:
        """``(file, place in it)`` for each entry of the source; ``cuts`` are the units as ``(start, end)``."""
        raise NotImplementedError(f"{type(self).__name__} must define targets(cuts).")

    @property
    def folders(self) -> list[str]:
        """The folders to make in the output."""
        return ["", *self.source.folders]

    # --- stage -------------------------------------------------------------------------------------------------------

    def begin(self, number: int) -> None:
        """Make the scratch folder of a unit, empty."""
        folder = self._folder(number)
        shutil.rmtree(folder, ignore_errors=True)  # of a killed run
        folder.mkdir(parents=True)

    def write(self, number: int, place: int, data: bytes) -> None:
        """Stage the bytes of one output file."""
        write_file(self.scratch(number, place), data)

    def copy(self, number: int, place: int, original: Any) -> tuple[str, bytes]:
        """Stage a byte-for-byte copy of a stream; returns ``(sha256, first bytes)``."""
        return copy_stream(original, self.scratch(number, place))

    def put_aside(self, number: int, place: int, original: Any) -> str:
        """Stage an original for the quarantine; returns its sha256."""
        return copy_stream(original, self.scratch(number, f"{place}.bad"))[0]

    def scratch(self, number: int, name: int | str) -> str:
        """The path of a staged file of a unit."""
        return f"{self.layout.scratch}{os.sep}unit-{number:06d}{os.sep}{name}"

    def _folder(self, number: int) -> Path:
        return self.layout.scratch / f"unit-{number:06d}"

    # --- commit ------------------------------------------------------------------------------------------------------

    def commit(self, unit: Unit, finished: list[Finished]) -> None:
        """Bring the staged files to the disk, give them their final names, and set the done-mark.

        ``finished``: one for each task of the unit, in order.
        """
        tasks, number = unit.tasks, unit.number
        if [done.place for done in finished] != [task.place for task in tasks]:
            raise AssertionError(f"unit {number} has {len(tasks)} files and {len(finished)} results")
        bad = {self.scratch(number, f"{d.place}.bad"): tasks[d.place].entry.path for d in finished if d.aside}
        for path in bad.values():
            self.layout.aside.make(os.path.dirname(path))  # noqa: PTH120
        self.layout.aside.publish(bad)
        lines = [done.line for done in finished] + self.deliver(unit, finished)
        self.layout.store.put(self.layout.mark(number), b"".join(lines), self.layout.scratch)
        shutil.rmtree(self._folder(number))

    def deliver(self, unit: Unit, finished: list[Finished]) -> list[bytes]:
        """Give the staged files their names; the manifest rows of whatever else that makes."""
        staged = {self.scratch(unit.number, d.place): unit.tasks[d.place].out for d in finished if d.staged}
        self.layout.store.publish(staged)
        return []

    # --- read back ---------------------------------------------------------------------------------------------------

    def read_back(self, row: Row) -> bytes:
        """The purified image of a manifest row, as a PNG file."""
        return self.layout.store.read(row["out"])

    def load(self, *, in_memory: bool = False) -> Any:
        """The finished output as what the source was: see :meth:`CleanResult.load`."""
        raise NotImplementedError(f"{type(self).__name__} must define load().")


class ContainerWriter(Writer):
    """A writer whose units become one file each."""

    def copy(self, number: int, place: int, original: Any) -> tuple[str, bytes]:
        """Nothing is staged: what stays as it is comes from the source when the container is written."""
        data = original.read()
        return hashlib.sha256(data).hexdigest(), data[:16]

    def deliver(self, unit: Unit, finished: list[Finished]) -> list[bytes]:
        """Build the container; its own manifest row."""
        path, name = self.scratch(unit.number, "container"), unit.tasks[0].out
        before = self.build(path, unit, {done.place for done in finished if done.aside})
        with open(path, "rb") as file:  # noqa: PTH123
            after = hashlib.file_digest(file, "sha256").hexdigest()
        self.layout.store.publish({path: name})
        row = new_row(name, "", unit.number) | {"out": name, "status": "packed"}
        return [to_line(row | {"sha256_in": before, "sha256_out": after})]

    def build(self, path: str, unit: Unit, lost: set[int]) -> str | None:
        """Write the container to ``path``; the sha256 of the one that it replaces, if there is one.

        ``lost``: the places whose images are put aside.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build(path, unit, lost).")

    def staged(self, number: int, place: int) -> bytes | None:
        """What is staged for ``place``, if anything."""
        path = Path(self.scratch(number, place))
        return path.read_bytes() if path.exists() else None

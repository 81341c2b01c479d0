"""The end of a run: done-marks become the manifest and the report, and what :func:`clean` gives back of it."""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from ..data.sources.base import Source
from ..storage.atomic import scratch_name
from .manifest import MANIFEST, REPORT, RUN, STATE, Row, read_rows
from .report import render
from .summary import Summary
from .verify import VerifyResult, verify
from .writers.base import Writer

COLUMNS = ("rank", "path", "label", "mean_abs", "psnr", "z_class", "z_all")
_TO_SIGMA = 1.4826  # of a normal distribution: standard deviation over median absolute deviation


@dataclass(frozen=True, slots=True)
class CleanResult:
    """What a call of :func:`clean` did.

    Attributes:
        out: the output folder, or its URL.
        manifest: its ``manifest.jsonl`` (there when ``complete``).
        report: its ``report.html``, or ``None`` if there is none.
        counts: number of source files by status (``purified``, ``copied``, ``quarantined``, ``skipped``), as far as
            they are done.
        seconds: duration of this call.
        images_per_second: files that this call dealt with, over ``seconds``.
        complete: ``False`` while units of other ranks are open.
        unchanged: purified images that came out as they went in: all of them where no purifier was chosen.
        scan: what the scan of ``"auto"`` said (``headline``, ``sentence``, ``reasons``, ``misses``, ``purifier``,
            ``dropped``), as in ``run.json``; ``None`` without one.
    """

    out: Path | str
    manifest: Path | str
    report: Path | str | None
    counts: dict[str, int]
    seconds: float
    images_per_second: float
    complete: bool
    unchanged: int
    scan: Mapping[str, Any] | None = field(repr=False)
    writer: Writer = field(repr=False)

    def _repr_html_(self) -> str:
        """What a notebook shows: what was done, and where it lies."""
        done = ", ".join(f"{number:,} {status}" for status, number in self.counts.items() if number) or "nothing done"
        lines = [f"<b>{done}</b>, in {self.seconds:.1f} s ({self.images_per_second:,.0f} images/s)"]
        lines += [f"scan: {escape(self.scan['sentence'])}"] if self.scan else []
        lines += [f"images in {escape(str(self.out))}"]
        lines += [f"report in {escape(str(self.report))}"] if self.report else []
        return f"<p>{'<br>'.join(lines)}</p>"

    @property
    def source(self) -> Source:
        """What was cleaned, listed; as a source of another call it need not be listed again."""
        return self.writer.source

    def verify(self) -> VerifyResult:
        """Re-read everything: see :func:`puretransforms.cleaning.verify.verify`."""
        store = self.writer.layout.store
        return verify(store.root, options=getattr(store, "options", None))

    def load(self) -> Any:
        """The purified images as what they were before: an ``ImageFolder``, a dataset with the same targets and
        transforms in the same order, a ``datasets.Dataset`` with the same features, or the list of shards.
        """
        if not self.complete:
            raise ValueError("expected a finished output to load, got one with open units: run its other ranks first.")
        return self.writer.load()

    def suspects(self, path: str | os.PathLike[str]) -> int:
        """Write every purified image to a CSV file, the most changed first: see :func:`write_suspects`; how many."""
        if not self.complete:
            raise ValueError("expected a finished output with a manifest, got none: finish the run first.")
        with self.writer.layout.store.open(MANIFEST) as lines:
            return write_suspects(read_rows(lines), path)


def conclude(writer: Writer, units: int, report: bool) -> tuple[bool, Summary]:
    """If all ``units`` carry their marks, write report and manifest and remove the marks; ``(complete, summary)``.

    May run in several processes at once, and again after a kill: each writes the same bytes under a name of its own
    and renames. The manifest, whose presence says that all is done, comes after the report and before the marks go.
    """
    layout = writer.layout
    try:
        done = layout.done()
        if layout.finished:
            return True, _settle(writer, report)
        if len(done) < units:
            marks = (layout.store.read(layout.mark(unit)).splitlines() for unit in sorted(done))
            return False, Summary.of(row for lines in marks for row in read_rows(lines))
        return True, _merge(writer, units, report)
    except FileNotFoundError:
        if not layout.finished:
            raise
        return True, _settle(writer, report)  # another process has just finished and taken the marks away


def _merge(writer: Writer, units: int, report: bool) -> Summary:
    layout = writer.layout
    merged = scratch_name(layout.scratch / MANIFEST, layout.scratch)
    with open(merged, "wb") as rows:  # noqa: PTH123
        for unit in range(units):
            rows.write(layout.store.read(layout.mark(unit)))
    with open(merged, "rb") as lines:  # noqa: PTH123
        summary = Summary.of(read_rows(lines))
    if report:
        _write_report(writer, summary)
    layout.store.publish({os.fspath(merged): MANIFEST})
    layout.store.remove(STATE)
    return summary


def _settle(writer: Writer, report: bool) -> Summary:
    """What may be left to do once the manifest stands: a report that was not wanted before, and marks to remove."""
    layout = writer.layout
    with layout.store.open(MANIFEST) as lines:
        summary = Summary.of(read_rows(lines))
    if report and not layout.store.exists(REPORT):
        layout.store.make(STATE)
        _write_report(writer, summary)
    layout.store.remove(STATE)
    return summary


def _write_report(writer: Writer, summary: Summary) -> None:
    layout = writer.layout
    run = json.loads(layout.store.read(RUN))
    layout.store.put(REPORT, render(summary, run, layout, writer.source), layout.scratch)


def write_suspects(rows: Iterable[Row], path: str | os.PathLike[str]) -> int:
    """Write the purified images to the CSV file ``path``, the most changed first; returns their number.

    Where to look first for poison; a large change is a hint, not a proof.

    Columns: ``rank`` from 1; ``path``, ``label``, ``mean_abs`` (0 to 255), ``psnr`` (dB, empty where nothing changed)
    as in the manifest; ``z_class`` and ``z_all``, how far ``mean_abs`` lies above the median of the class and of all
    images, in robust standard deviations (1.4826 times the median absolute deviation; Leys et al., J. Exp. Soc.
    Psychol. 2013), empty where half of them are equal.
    """
    images = [(r["mean_abs"], r["path"], r["label"], r["psnr"]) for r in rows if r["status"] == "purified"]
    images.sort(key=lambda image: (-image[0], image[1]))
    by_class: dict[str, list[float]] = defaultdict(list)
    for level, _, label, _ in images:
        by_class[label].append(level)
    scales = {label: _scale(levels) for label, levels in by_class.items()}
    whole = _scale([image[0] for image in images])
    with Path(path).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for rank, (level, name, label, psnr) in enumerate(images, 1):
            table.writerow((rank, name, label, level, psnr, _z(level, scales[label]), _z(level, whole)))
    return len(images)


def _scale(levels: list[float]) -> tuple[float, float]:
    middle = median(levels) if levels else 0.0
    return middle, _TO_SIGMA * (median(abs(level - middle) for level in levels) if levels else 0.0)


def _z(level: float, scale: tuple[float, float]) -> float | None:
    return round((level - scale[0]) / scale[1], 2) if scale[1] else None

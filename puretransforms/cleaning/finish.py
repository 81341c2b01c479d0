"""The end of a run: done-marks become the manifest and the report."""

import json
import os

from ..data.sources.base import Source
from ..storage.atomic import scratch_name
from .manifest import Layout, read_rows
from .names import MANIFEST, REPORT, RUN, STATE
from .report import render
from .summary import Summary


def conclude(layout: Layout, units: int, source: Source, report: bool) -> tuple[bool, Summary]:
    """If all ``units`` carry their marks, write report and manifest and remove the marks; ``(complete, summary)``.

    May run in several processes at once, and again after a kill: each writes the same bytes under a name of its own
    and renames. The manifest, whose presence says that all is done, comes after the report and before the marks go.
    """
    try:
        done = layout.done()
        if layout.finished:
            return True, _settle(layout, source, report)
        if len(done) < units:
            marks = (layout.store.read(layout.mark(unit)).splitlines() for unit in sorted(done))
            return False, Summary.of(row for lines in marks for row in read_rows(lines))
        return True, _merge(layout, units, source, report)
    except FileNotFoundError:
        if not layout.finished:
            raise
        return True, _settle(layout, source, report)  # another process has just finished and taken the marks away


def _merge(layout: Layout, units: int, source: Source, report: bool) -> Summary:
    merged = scratch_name(layout.scratch / MANIFEST, layout.scratch)
    with open(merged, "wb") as rows:  # noqa: PTH123
        for unit in range(units):
            rows.write(layout.store.read(layout.mark(unit)))
    with open(merged, "rb") as lines:  # noqa: PTH123
        summary = Summary.of(read_rows(lines))
    if report:
        _write_report(layout, source, summary)
    layout.store.publish({os.fspath(merged): MANIFEST})
    layout.store.remove(STATE)
    return summary


def _settle(layout: Layout, source: Source, report: bool) -> Summary:
    """What may be left to do once the manifest stands: a report that was not wanted before, and marks to remove."""
    with layout.store.open(MANIFEST) as lines:
        summary = Summary.of(read_rows(lines))
    if report and not layout.store.exists(REPORT):
        layout.store.make(STATE)
        _write_report(layout, source, summary)
    layout.store.remove(STATE)
    return summary


def _write_report(layout: Layout, source: Source, summary: Summary) -> None:
    run = json.loads(layout.store.read(RUN))
    layout.store.put(REPORT, render(summary, run, layout, source), layout.scratch)

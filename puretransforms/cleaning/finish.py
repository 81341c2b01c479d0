"""The end of a run: done-marks become the manifest and the report."""

import json
import os
import shutil

from .durable import put_durably, scratch_name, write_durably
from .manifest import Layout, read_rows
from .report import render
from .summary import Summary


def conclude(layout: Layout, units: int, root: str, report: bool) -> tuple[bool, Summary]:
    """If all ``units`` carry their marks, write report and manifest and remove the marks; ``(complete, summary)``.

    May run in several processes at once, and again after a kill: each writes the same bytes under a name of its own
    and renames. The manifest, whose presence says that all is done, comes after the report and before the marks go.
    """
    try:
        done = layout.done()
        if layout.manifest.exists():
            return True, _settle(layout, root, report)
        if len(done) < units:
            return False, Summary.of(row for unit in sorted(done) for row in read_rows(layout.mark(unit)))
        return True, _merge(layout, units, root, report)
    except FileNotFoundError:
        if not layout.manifest.exists():
            raise
        return True, _settle(layout, root, report)  # another process has just finished and taken the marks away


def _merge(layout: Layout, units: int, root: str, report: bool) -> Summary:
    merged = scratch_name(layout.manifest, layout.state)
    with open(merged, "wb") as rows:  # noqa: PTH123
        for unit in range(units):
            rows.write(layout.mark(unit).read_bytes())
    with open(merged, "rb") as lines:  # noqa: PTH123
        summary = Summary.of(map(json.loads, lines))
    if report:
        _write_report(layout, root, summary)
    put_durably(merged, os.fspath(layout.manifest))
    shutil.rmtree(layout.state, ignore_errors=True)
    return summary


def _settle(layout: Layout, root: str, report: bool) -> Summary:
    """What may be left to do once the manifest stands: a report that was not wanted before, and marks to remove."""
    summary = Summary.of(read_rows(layout.manifest))
    if report and not layout.report.exists():
        layout.state.mkdir(exist_ok=True)
        _write_report(layout, root, summary)
    shutil.rmtree(layout.state, ignore_errors=True)
    return summary


def _write_report(layout: Layout, root: str, summary: Summary) -> None:
    run = json.loads(layout.run.read_bytes())
    write_durably(layout.report, render(summary, run, layout, root), layout.state)

"""The end of a run: done-marks become the manifest and the report."""

import json
import os
import shutil
from collections.abc import Callable

from .durable import put_durably, write_durably
from .manifest import Layout, read_rows
from .report import render
from .summary import Summary


def finish(layout: Layout, units: int, root: str, report: bool) -> Summary:
    """Write report and manifest from the done-marks of ``units`` units, then remove the marks.

    May run in several processes at once, and again after a kill: each writes the same bytes under a temporary name,
    and the manifest, whose presence says that all is done, comes after the report and before the marks go.
    """

    def merge() -> Summary:
        merged = layout.state / f"merged.{os.getpid()}.tmp"
        with merged.open("wb") as rows:
            for number in range(units):
                rows.write(layout.mark(number).read_bytes())
        summary = Summary.of(read_rows(merged))
        if report:
            _write_report(layout, root, summary)
        put_durably(os.fspath(merged), os.fspath(layout.manifest))
        return summary

    summary = _unless_finished(layout, merge)
    return settle(layout, root, report, summary)


def settle(layout: Layout, root: str, report: bool, summary: Summary | None = None) -> Summary:
    """What is left to do once the manifest stands: a missing report, and marks to remove."""
    summary = summary or Summary.of(read_rows(layout.manifest))
    if report and not layout.report.exists():
        layout.state.mkdir(exist_ok=True)
        _write_report(layout, root, summary)
    shutil.rmtree(layout.state, ignore_errors=True)
    return summary


def _write_report(layout: Layout, root: str, summary: Summary) -> None:
    run = json.loads(layout.run.read_bytes())
    write_durably(layout.report, render(summary, run, layout, root), layout.state)


def _unless_finished(layout: Layout, merge: Callable[[], Summary]) -> Summary | None:
    try:
        return merge()
    except FileNotFoundError:
        if not layout.manifest.exists():
            raise
        return None  # another process has just finished and taken the marks away

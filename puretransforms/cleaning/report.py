"""The report of a finished run: one HTML file, without scripts and without links to other files."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data.codec import Decoded, decode
from ..data.sources.base import Entry, Source
from ..errors import MissingExtraError
from ..reporting.pages import chart_uri, page, picture_uri
from ..reporting.plots import histogram_svg
from .manifest import Layout, Row
from .summary import LEVEL, Summary
from .writers import writer_for

_PICTURES = 12  # of the most changed images


def render(summary: Summary, run: dict[str, Any], layout: Layout, source: Source) -> bytes:
    """The report as HTML; the pictures of the sample are read from the source and from the output.

    Without matplotlib (extra ``report``) it has no chart, and says so. What ``run`` holds under ``"scan"`` comes
    first.
    """
    entries = {entry.path: entry for entry in source.entries}
    changed = sorted(summary.most_changed, key=lambda item: (-item[0], item[1]))
    chart, no_chart = _chart(summary)
    return page(
        "cleaning",
        headline=_headline(summary),
        scan=run.get("scan"),
        facts=_facts(run),
        counts=sorted(summary.counts.items()),
        sample=[_figure(row, layout, source, entries) for row in summary.sample()],
        chart=chart,
        no_chart=no_chart,
        classes=list(_classes(summary)),
        most_changed=[_figure(row, layout, source, entries) for _, _, row in changed[:_PICTURES]],
        listed=[(path, row["label"], level, _decibel(row["psnr"])) for level, path, row in changed],
        aside=summary.aside,
        left=summary.counts["quarantined"] + summary.counts["skipped"] - len(summary.aside),
    )


def _headline(summary: Summary) -> str:
    """In one line what happened to the images."""
    words = [f"{summary.counts['purified']} images purified"]
    if summary.unchanged:
        words.append(f"{summary.unchanged} of them unchanged")
    suspects = summary.notes["suspects"]
    if suspects:
        words.append(f"{suspects} suspects put aside")
    if summary.counts["quarantined"] > suspects:
        words.append(f"{summary.counts['quarantined'] - suspects} damaged put aside")
    if summary.counts["skipped"]:
        words.append(f"{summary.counts['skipped']} not read")
    return ", ".join(words)


def _chart(summary: Summary) -> tuple[str, str]:
    """``(chart, "")``, or why there is none."""
    if not summary.levels:
        return "", ""
    try:
        return chart_uri(histogram_svg(summary.levels, LEVEL, "mean change (levels of 0 to 255)")), ""
    except MissingExtraError as error:
        return "", str(error)


def _facts(run: dict[str, Any]) -> dict[str, Any]:
    purifier, source = run["purifier"], run["source"]
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    weights = {"weights sha256": purifier["weights_sha256"]} if purifier["weights_sha256"] else {}
    source_line = f"{source['images']} images among {source['files']} files, {source['bytes']} bytes"
    return {"purifier": purifier["repr"], **weights, "seed": run["seed"], "source": source_line, "versions": versions}


def _classes(summary: Summary) -> Iterator[dict[str, Any]]:
    means = {label: change.mean_abs / change.images for label, change in summary.classes.items()}
    highest = max(means.values(), default=0) or 1
    for label in sorted(means, key=lambda label: (-means[label], label)):
        change = summary.classes[label]
        yield {
            "name": label or "(top folder)",
            "images": change.images,
            "unchanged": change.images - change.changed,
            "mean": means[label],
            "width": f"{8 * means[label] / highest:.2f}",
            "psnr": _decibel(change.psnr / change.changed if change.changed else None),
        }


def _figure(row: Row, layout: Layout, source: Source, entries: dict[str, Entry]) -> dict[str, Any]:
    before, after = decode(source.read(entries[row["path"]])), decode(writer_for(source, layout).read_back(row))
    x, y = _pixels(before), _pixels(after)
    tenfold = np.minimum(np.abs(x.astype(np.int16) - y) * 10, 255).astype(np.uint8)
    shown = (("before", x), ("after", y), ("10x difference", tenfold))
    return {
        "pictures": [(alt, picture_uri(array)) for alt, array in shown],
        "path": row["path"],
        "change": row["mean_abs"],
        "psnr": _decibel(row["psnr"]),
    }


def _pixels(image: Decoded) -> np.ndarray:
    return np.frombuffer(image.pixels, np.uint8).reshape(image.shape)


def _decibel(psnr: float | None) -> str:
    return "∞" if psnr is None else f"{psnr:.2f}"

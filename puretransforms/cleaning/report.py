"""The report of a finished run: one HTML file without scripts, that links to the files beside it alone."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data.codec import Decoded, decode
from ..data.sources.base import Entry, Source
from ..errors import MissingExtraError, RegistryError
from ..registry import find, list_purifiers
from ..registry import summary as first_line
from ..reporting.pages import chart_uri, page, picture_uri, signed
from ..reporting.plots import histogram_svg
from .manifest import MANIFEST, RUN, Layout, Row
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
        purifier=_purifier(run["purifier"]),
        change=_change(summary),
        facts=_facts(run),
        parts=_parts(summary),
        sample=[_figure(row, layout, source, entries) for row in summary.sample()],
        chart=chart,
        no_chart=no_chart,
        classes=list(_classes(summary)),
        most_changed=[_figure(row, layout, source, entries) for _, _, row in changed[:_PICTURES]],
        listed=[(path, row["label"], level, _decibel(row["psnr"])) for level, path, row in changed],
        changed=summary.counts["purified"] > summary.unchanged,
        aside=summary.aside,
        suspects=[_aside(row, source, entries) for row in summary.aside if "suspect" in row][:_PICTURES],
        left=summary.counts["quarantined"] + summary.counts["skipped"] - len(summary.aside),
        files=[(MANIFEST, "every file, with its hashes and its change"), (RUN, "what made this folder")],
    )


def _headline(summary: Summary) -> str:
    """In one line what happened to the images."""
    purified, unchanged = summary.counts["purified"], summary.unchanged
    words = [f"{purified:,} images purified"]
    if unchanged:
        words = (
            [f"{purified:,} images kept as they are"] if unchanged == purified else [*words, f"{unchanged:,} unchanged"]
        )
    suspects = summary.notes["suspects"]
    if suspects:
        words.append(f"{suspects:,} suspects put aside")
    if summary.counts["quarantined"] > suspects:
        words.append(f"{summary.counts['quarantined'] - suspects:,} damaged put aside")
    if summary.counts["skipped"]:
        words.append(f"{summary.counts['skipped']:,} not read")
    return ", ".join(words)


def _purifier(purifier: dict[str, Any]) -> dict[str, Any]:
    """Its name, what it does in a sentence (nothing where it is none of the registered), and its options."""
    sentence = ""
    for name in list_purifiers():
        try:
            cls = find(name, "purifier")
        except RegistryError:  # of another package, and broken
            continue
        if f"{cls.__module__}.{cls.__qualname__}" == purifier["class"]:
            sentence = first_line(name, "purifier").replace("`", "")
    options = re.fullmatch(r"\w+\(([^()]*)\)", purifier["repr"])
    return {
        "name": purifier["class"].rpartition(".")[2],
        "sentence": sentence,
        "options": "" if options is None else options[1].replace("=", " = "),
        "steps": purifier["repr"] if options is None else "",
    }


def _change(summary: Summary) -> str:
    """How much the images changed, in a sentence."""
    changes = summary.classes.values()
    images, changed = sum(c.images for c in changes), sum(c.changed for c in changes)
    if not images:
        return ""
    if not changed:
        return "No pixel changed."
    psnr = sum(c.psnr for c in changes) / changed
    seen = "plain to see" if psnr < 25 else "seen beside the original" if psnr < 40 else "hard to see"
    level = sum(c.mean_abs for c in changes) / images
    return f"Pixels changed by {level:.2f} of 255 levels on average, which is {seen}; the mean PSNR is {psnr:.1f} dB."


_KINDS = {
    "purified": ("purified", "purified"),
    "unchanged": ("same", "purified, but came out as they went in"),
    "copied": ("copied", "copied byte for byte, no images"),
    "quarantined": ("aside", "put aside in the quarantine folder"),
    "skipped": ("skipped", "links or devices, not read"),
}


def _parts(summary: Summary) -> list[dict[str, Any]]:
    """The files by what became of them: colour, words, number, and share of the bar in percent."""
    counts = {**summary.counts, "purified": summary.counts["purified"] - summary.unchanged}
    counts["unchanged"] = summary.unchanged
    total = sum(counts.values()) or 1
    return [
        {"colour": colour, "words": words, "number": counts[kind], "share": f"{100 * counts[kind] / total:.2f}"}
        for kind, (colour, words) in _KINDS.items()
        if counts.get(kind)
    ]


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
    source_line = f"{source['images']:,} images among {source['files']:,} files, {source['bytes'] / 1e6:,.1f} MB"
    return {**weights, "seed": run["seed"], "source": source_line, "versions": versions}


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
            "width": f"{100 * means[label] / highest:.1f}",
            "psnr": _decibel(change.psnr / change.changed if change.changed else None),
        }


def _figure(row: Row, layout: Layout, source: Source, entries: dict[str, Entry]) -> dict[str, Any]:
    before, after = decode(source.read(entries[row["path"]])), decode(writer_for(source, layout).read_back(row))
    x, y = _pixels(before), _pixels(after)
    change, factor = signed(y.astype(np.float32) - x)
    shown = (("before", x), ("after", y), (f"difference x{factor:g}", change))
    return {
        "pictures": [(alt, picture_uri(array)) for alt, array in shown],
        "path": row["path"],
        "change": row["mean_abs"],
        "psnr": _decibel(row["psnr"]),
    }


def _aside(row: Row, source: Source, entries: dict[str, Entry]) -> tuple[str, str]:
    return row["path"], picture_uri(_pixels(decode(source.read(entries[row["path"]]))))


def _pixels(image: Decoded) -> np.ndarray:
    return np.frombuffer(image.pixels, np.uint8).reshape(image.shape)


def _decibel(psnr: float | None) -> str:
    return "∞" if psnr is None else f"{psnr:.2f}"

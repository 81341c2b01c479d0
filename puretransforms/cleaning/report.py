"""The report of a finished run: one HTML file, without scripts and without links to other files."""

import html
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..data.codec import Decoded, decode
from ..data.sources.base import Entry, Source
from .manifest import Layout, Row
from .packing import read_back
from .page import STYLE, code, data_uri, table, text
from .plot import histogram
from .summary import Summary

_PICTURES = 12  # of the most changed images


def render(summary: Summary, run: dict[str, Any], layout: Layout, source: Source) -> bytes:
    """The report as HTML; the pictures of the sample are read from the source and from the output."""
    entries = {entry.path: entry for entry in source.entries}
    counts = summary.counts
    changed = sorted(summary.most_changed, key=lambda item: (-item[0], item[1]))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>puretransforms: cleaning report</title>",
        f"<style>{STYLE}</style><h1>Cleaning report</h1>",
        table(("", ""), [(name, f"<pre>{html.escape(str(value))}</pre>") for name, value in _facts(run).items()]),
        "<h2>Files</h2>",
        table(("status", "#files"), sorted((text(status), str(n)) for status, n in counts.items())),
        "<h2>Before, after, and ten times the difference</h2><div class=grid>",
        *(_figure(row, layout, source, entries) for row in summary.sample()),
        "</div><h2>What changed most</h2>",
        "<p>Where to look first; a large change is a hint, no proof of poison. Change is the mean absolute difference "
        "in levels of 0 to 255.</p>",
        histogram(summary.levels),
        "<h3>Classes</h3><p>The most changed first; PSNR is the mean over the images that changed.</p>",
        table(("class", "#images", "#unchanged", "#mean change", "", "#PSNR (dB)"), _classes(summary)),
        "<h3>Images</h3><div class=grid>",
        *(_figure(row, layout, source, entries) for _, _, row in changed[:_PICTURES]),
        "</div>",
        table(
            ("image", "class", "#mean change", "#PSNR (dB)"),
            [(code(path), text(row["label"]), f"{level:.2f}", _decibel(row["psnr"])) for level, path, row in changed],
        ),
    ]
    if summary.aside:
        left = counts["quarantined"] + counts["skipped"] - len(summary.aside)
        parts += [
            "<h2>Put aside</h2><p>Quarantined images lie unchanged in the quarantine folder beside this one; skipped "
            "entries were not read.</p>",
            table(
                ("file", "status", "reason"),
                [(code(r["path"]), text(r["status"]), text(r["reason"])) for r in summary.aside],
            ),
            f"<p>And {left} more: see manifest.jsonl.</p>" if left else "",
        ]
    return "\n".join(parts).encode("utf-8", "backslashreplace")


def _facts(run: dict[str, Any]) -> dict[str, str]:
    purifier, source = run["purifier"], run["source"]
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    weights = {"weights sha256": purifier["weights_sha256"]} if purifier["weights_sha256"] else {}
    source_line = f"{source['images']} images among {source['files']} files, {source['bytes']} bytes"
    return {"purifier": purifier["repr"], **weights, "seed": run["seed"], "source": source_line, "versions": versions}


def _classes(summary: Summary) -> Iterator[tuple[str, ...]]:
    means = {label: change.mean_abs / change.images for label, change in summary.classes.items()}
    highest = max(means.values(), default=0) or 1
    for label in sorted(means, key=lambda label: (-means[label], label)):
        change = summary.classes[label]
        psnr = change.psnr / change.changed if change.changed else None
        unchanged = str(change.images - change.changed)
        mean = f"{means[label]:.3f}"
        bar = f'<div class=bar style="width:{8 * means[label] / highest:.2f}rem"></div>'
        yield text(label or "(top folder)"), str(change.images), unchanged, mean, bar, _decibel(psnr)


def _figure(row: Row, layout: Layout, source: Source, entries: dict[str, Entry]) -> str:
    before, after = decode(source.read(entries[row["path"]])), decode(read_back(layout, source, row))
    x, y = _pixels(before), _pixels(after)
    tenfold = np.minimum(np.abs(x.astype(np.int16) - y) * 10, 255).astype(np.uint8)
    pictures = "".join(
        f'<img alt="{alt}" src="{data_uri(array)}">'
        for alt, array in (("before", x), ("after", y), ("10x difference", tenfold))
    )
    caption = f"{code(row['path'])}<br>mean change {row['mean_abs']:.2f}, PSNR {_decibel(row['psnr'])} dB"
    return f"<figure><div class=three>{pictures}</div><figcaption>{caption}</figcaption></figure>"


def _pixels(image: Decoded) -> np.ndarray:
    return np.frombuffer(image.pixels, np.uint8).reshape(image.shape)


def _decibel(psnr: float | None) -> str:
    return "&infin;" if psnr is None else f"{psnr:.2f}"

"""The files that a scan leaves: ``scan.json``, ``suspects.csv`` and ``scan.html`` with pictures."""

import csv
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..cleaning.page import STYLE, code, data_uri, table, text
from .detectors.energy import NAME as ENERGY
from .finding import Finding
from .verdict import KINDS

if TYPE_CHECKING:
    from .scan import ScanResult

COLUMNS = ("path", "label", "detectors", "score over threshold", "energy rank in class")
_PICTURES, _LISTED = 12, 20


def write(result: "ScanResult", out: Path) -> Path:
    """Write the three files into the folder ``out`` (made if need be); returns the path of ``scan.html``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "scan.json").write_text(json.dumps(as_json(result), indent=1), encoding="utf-8")
    with (out / "suspects.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows(suspects(result))
    report = out / "scan.html"
    report.write_bytes(render(result).encode("utf-8", "backslashreplace"))
    return report


def suspects(result: "ScanResult") -> list[tuple[str, str, str, float, float | str]]:
    """Rows of ``suspects.csv``: the images that the detectors with an alarm name, the most suspicious first.

    The energy rank is the share of its class that an image outranks, empty where it was not ranked.
    """
    found: dict[int, list[tuple[float, str]]] = {}
    for finding in result.findings:
        for i in finding.suspects:
            found.setdefault(i, []).append((float(finding.images[i]) / finding.image_threshold, finding.name))
    sample = result.sample
    ranks = next((f.images for f in result.findings if f.name == ENERGY and f.images is not None), None)
    rows = [
        (
            sample.names[i],
            sample.classes[int(sample.labels[i])],
            "; ".join(n for _, n in named),
            round(max(named)[0], 3),
            "" if ranks is None or ranks[i].isnan() else round(float(ranks[i]), 3),
        )
        for i, named in found.items()
    ]
    return sorted(rows, key=lambda row: (-row[3], row[0]))


def as_json(result: "ScanResult") -> dict[str, Any]:
    """Everything but the pictures, as plain data."""
    verdict, sample = result.verdict, result.sample
    return {
        "verdict": verdict.kind,
        "confidence": verdict.confidence,
        "alarms": verdict.alarms,
        "words": verdict.words,
        "advice": {"chain": verdict.advice.chain, "words": verdict.advice.words},
        "images": {"looked_at": len(sample), "total": sample.total, "left_out": dict(sample.left_out)},
        "sizes": {"smallest": sample.sizes[0], "largest": sample.sizes[1], "corners_only": sample.tiled},
        "findings": [_plain(finding) for finding in result.findings],
    }


def _plain(f: Finding) -> dict[str, Any]:
    figures = {"score": f.score, "low": f.low, "high": f.high, "threshold": f.threshold}
    figures = {key: value if np.isfinite(value) else None for key, value in figures.items()}
    rest = {"classes": f.classes, "suspects": len(f.suspects), "evidence": f.evidence, "untested": f.untested}
    return {"name": f.name, "question": f.question, "alarm": f.alarm, **figures, **rest}


def render(result: "ScanResult") -> str:
    """The report: one HTML file without scripts and without links to other files."""
    verdict, sample = result.verdict, result.sample
    named = suspects(result)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>puretransforms: scan report</title>",
        f"<style>{STYLE}</style><h1>Scan report: {html.escape(verdict.kind)} ({html.escape(verdict.confidence)})</h1>",
        f"<p>{html.escape(verdict.words)}</p><p><b>Advice:</b> {html.escape(verdict.advice.words)}.</p>",
        table(("", ""), list(_facts(result))),
        "<h2>Detectors</h2>",
        table(
            ("detector", "question", "#score", "#95 % interval", "#alarm above", "result"), map(_row, result.findings)
        ),
    ]
    for finding in (f for f in result.findings if f.alarm):
        parts += [
            f"<h2>{html.escape(finding.name)}</h2>",
            table(("class", "#score"), [(text(n), f"{s:.4f}") for n, s in _worst(finding)]),
            f"<pre>{html.escape(json.dumps(finding.evidence, indent=1))[:4000]}</pre>",
            _pictures(result, finding),
        ]
    parts += [
        f"<h2>Suspects</h2><p>{len(named)} of {len(sample)} images that were looked at; all in suspects.csv.</p>",
        table(
            ("image", "class", "detectors", "#over threshold", "#energy rank in class"),
            [_suspect(row) for row in named[:_LISTED]],
        ),
        "<h2>Verdicts that a scan can give</h2>",
        table(("", ""), [(html.escape(kind), html.escape(words)) for kind, words in KINDS.items()]),
    ]
    return "\n".join(parts)


def _facts(result: "ScanResult") -> Any:
    sample = result.sample
    total = "unknown" if sample.total is None else sample.total
    yield "images looked at", f"{len(sample)} of {total}, {len(sample.classes)} classes"
    yield (
        "sizes",
        f"{sample.sizes[0]} to {sample.sizes[1]}" + (" (patterns: four corners only)" if sample.tiled else ""),
    )
    for reason, number in sample.left_out.items():
        yield "left out", f"{number}: {text(reason)}"


def _row(f: Finding) -> tuple[str, ...]:
    if f.untested:
        return html.escape(f.name), html.escape(f.question), "", "", "", f"not tested: {html.escape(f.untested)}"
    state = "<b>alarm</b>" if f.alarm else "evidence only" if f.silent else "no alarm"
    span, threshold = f"{f.low:.4f} to {f.high:.4f}", "" if f.silent else f"{f.threshold:.4f}"
    return html.escape(f.name), html.escape(f.question), f"{f.score:.4f}", span, threshold, state


def _worst(f: Finding) -> list[tuple[str, float]]:
    return sorted(f.classes.items(), key=lambda item: (-item[1], item[0]))[:_LISTED]


def _suspect(row: tuple[str, str, str, float, float | str]) -> tuple[str, ...]:
    return code(row[0]), text(row[1]), html.escape(row[2]), f"{row[3]:.2f}", str(row[4])


def _pictures(result: "ScanResult", finding: Finding) -> str:
    """Suspects (else images of the worst class), their residual at eight times its contrast, and the class mean."""
    sample = result.sample
    rows = finding.suspects[:_PICTURES]
    if not rows:
        worst = sample.classes.index(_worst(finding)[0][0]) if _worst(finding)[0][0] in sample.classes else 0
        rows = sample.members(worst)[:_PICTURES].tolist()
    index = torch.tensor(rows)
    x, r = sample.images(index), sample.residuals(index)
    figures = []
    for i, row in enumerate(rows):
        same = sample.members(int(sample.labels[row]))[:500]
        mean = sample.whitened(same).mean(0)
        shown = (x[i], r[i] * 8 + 0.5, mean * 2 + 0.5) if i == 0 else (x[i], r[i] * 8 + 0.5)
        pictures = "".join(f'<img alt="" src="{data_uri(_bytes(picture))}">' for picture in shown)
        caption = "image, residual" + (", mean residual of its class" if i == 0 else "")
        figures.append(
            f"<figure><div class=three>{pictures}</div><figcaption>{code(sample.names[row])}<br>{caption}</figcaption>"
            "</figure>"
        )
    return f"<div class=grid>{''.join(figures)}</div>"


def _bytes(x: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy())

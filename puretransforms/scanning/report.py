"""The files that a scan leaves: ``scan.html`` with pictures, ``scan.json``, ``suspects.csv`` and ``scores.csv``."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..reporting.pages import page, picture_uri, signed
from .detectors import Energy, Finding
from .verdict import KINDS

if TYPE_CHECKING:
    from .scan import ScanResult

COLUMNS = ("path", "label", "detectors", "score over threshold", "energy rank in class")
_PICTURES, _LISTED = 12, 20
_MARK = (255, 0, 0)


def write(result: "ScanResult", out: Path) -> Path:
    """Write the four files into the folder ``out`` (made if need be); returns the path of ``scan.html``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "scan.json").write_text(json.dumps(as_json(result), indent=1), encoding="utf-8")
    _write_csv(out / "suspects.csv", COLUMNS, suspects(result))
    scores = result.scores
    _write_csv(out / "scores.csv", list(scores[0]), ([_cell(value) for value in row.values()] for row in scores))
    report = out / "scan.html"
    report.write_bytes(render(result))
    return report


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        out = csv.writer(file)
        out.writerow(head)
        out.writerows(rows)


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def suspects(result: "ScanResult") -> list[tuple[str, str, str, float, float | str]]:
    """Rows of ``suspects.csv``: the images that the detectors with an alarm name, the most suspicious first.

    The energy rank is the share of its class that an image outranks, empty where it was not ranked.
    """
    found: dict[int, list[tuple[float, str]]] = {}
    for finding in result.findings:
        for i in finding.suspects:
            score = float(cast(torch.Tensor, finding.images)[i])
            found.setdefault(i, []).append((score / finding.image_threshold, finding.name))
    sample = result.sample
    ranks = next((f.images for f in result.findings if isinstance(f.detector, Energy) and f.images is not None), None)
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
        "headline": verdict.headline,
        "confidence": verdict.confidence,
        "insufficient": result.insufficient,
        "alarms": verdict.alarms,
        "sentence": verdict.sentence,
        "reasons": verdict.reasons,
        "known_misses": verdict.misses,
        "measured": verdict.measured,
        "advice": {"chain": verdict.advice.chain, "lines": verdict.advice.lines},
        "images": {"looked_at": len(sample), "total": sample.total, "left_out": dict(sample.left_out)},
        "sizes": {"smallest": sample.sizes[0], "largest": sample.sizes[1], "corners_only": sample.tiled},
        "findings": [_plain(finding) for finding in result.findings],
    }


def _plain(f: Finding) -> dict[str, Any]:
    measured = {"score": f.score, "low": f.low, "high": f.high, "threshold": f.threshold}
    figures = {key: value if np.isfinite(value) else None for key, value in measured.items()}
    rest = {"classes": dict(f.classes), "suspects": len(f.suspects), "evidence": dict(f.evidence)}
    return {"name": f.name, "question": f.question, "alarm": f.alarm, **figures, **rest, "untested": f.untested}


def render(result: "ScanResult") -> bytes:
    """The report: one HTML file without scripts, that links to the files beside it alone."""
    return page(
        "scan",
        verdict=result.verdict,
        insufficient=result.insufficient,
        facts=list(_facts(result)),
        findings=[_shown(finding) for finding in result.findings],
        alarms=[
            {"name": f.name, "classes": _worst(f), "figures": list(_figures(result, f))}
            for f in result.findings
            if f.alarm
        ],
        suspects=suspects(result),
        listed=_LISTED,
        looked_at=len(result.sample),
        kinds=KINDS,
    )


def _facts(result: "ScanResult") -> Iterator[tuple[str, str]]:
    sample = result.sample
    total = "unknown" if sample.total is None else sample.total
    yield "images looked at", f"{len(sample)} of {total}, {len(sample.classes)} classes"
    corners = " (patterns: four corners only)" if sample.tiled else ""
    sizes = " to ".join(dict.fromkeys(f"{height} x {width}" for height, width in sample.sizes))
    yield "pixels", f"{sizes}{corners}"
    for reason, number in sample.left_out.items():
        yield "left out", f"{number}: {reason}"


def _shown(f: Finding) -> dict[str, Any]:
    """What a row of the table of detectors needs; the bar is as wide as the score is of twice the threshold, in %."""
    names = ("name", "question", "untested", "silent", "alarm", "score", "low", "high", "threshold")
    width = 0.0 if f.silent else min(max(50 * f.score / f.threshold, 0), 100)
    return {name: getattr(f, name) for name in names} | {"width": f"{width:.1f}"}


def _worst(f: Finding) -> list[tuple[str, float, str]]:
    """``(class, score, width of its bar in percent)``."""
    order = sorted(f.classes.items(), key=lambda item: (-item[1], item[0]))[:_LISTED]
    highest = max((score for _, score in order), default=0) or 1
    return [(name, score, f"{100 * max(score, 0) / abs(highest):.1f}") for name, score in order]


def _figures(result: "ScanResult", finding: Finding) -> Iterator[dict[str, Any]]:
    """Suspects (else images of the worst class), what detectors see of them, and the class mean of that."""
    sample = result.sample
    rows = finding.suspects[:_PICTURES]
    if not rows:
        first = _worst(finding)[0][0]
        rows = sample.members(sample.classes.index(first) if first in sample.classes else 0)[:_PICTURES].tolist()
    index = torch.tensor(rows)
    x, r = sample.images(index), sample.residuals(index)
    for i, row in enumerate(rows):
        name = sample.classes[int(sample.labels[row])]
        place = finding.detector.place(finding, name)
        residual, factor = signed(255 * _channels_last(r[i]))
        shown = [("patch outlined" if place else "image", _outlined(_bytes(x[i]), place))]
        shown.append((f"residual x{factor:g}", residual))
        if i == 0:
            mean = sample.whitened(sample.members(int(sample.labels[row]))[:500]).mean(0)
            shown.append(("class mean", _bytes(0.5 + 0.5 * mean / mean.abs().max().clamp(min=1e-6))))
        yield {
            "pictures": [(words, picture_uri(picture)) for words, picture in shown],
            "name": sample.names[row],
            "caption": name,
        }


def _outlined(pixels: np.ndarray, place: tuple[int, int, int] | None) -> np.ndarray:
    """A picture with a red line around ``(row, column, side)``, one pixel outside it."""
    if place is not None:
        row, column, side = place
        pixels = pixels.copy()
        box = pixels[max(row - 1, 0) : row + side + 1, max(column - 1, 0) : column + side + 1]
        inside = pixels[row : row + side, column : column + side].copy()
        box[:] = _MARK
        pixels[row : row + side, column : column + side] = inside
    return pixels


def _bytes(x: torch.Tensor) -> np.ndarray:
    return _channels_last(x.clamp(0, 1).mul(255).round().to(torch.uint8))


def _channels_last(x: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.permute(1, 2, 0).numpy())

"""Which images changed most: where to look first for poison. A large change is a hint, not a proof."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from .manifest import Row

COLUMNS = ("rank", "path", "label", "mean_abs", "psnr", "z_class", "z_all")
_TO_SIGMA = 1.4826  # of a normal distribution: standard deviation over median absolute deviation


def write_suspects(rows: Iterable[Row], path: str | os.PathLike[str]) -> int:
    """Write the purified images to the CSV file ``path``, the most changed first; returns their number.

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

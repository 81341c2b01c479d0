"""The results as cells, one for each poison under each purifier: Markdown for people, JSON for programs, two charts."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import cast

from ..errors import MissingExtraError
from ..reporting.plots import matrix_svg, scatter_svg
from ..reporting.tables import markdown as markdown_table
from .fidelity import Fidelity
from .gate import row_of
from .run import Result, spread


@dataclass(frozen=True)
class Cell:
    """One poison under one purifier over the seeds; accuracies and success in percent, spreads are sample deviations.

    ``success`` is the mean over seeds; ``success_worst`` the mean over seeds of the most successful class (by true
    class). The setups of a targeted attack stand in one cell: they and the seeds are its runs, and ``success`` is the
    share of runs in which the target was hit.
    """

    poison: str
    purifier: str
    setting: str
    kind: str
    seeds: int
    last: float
    last_std: float
    peak: float
    peak_std: float
    train: float
    success: float | None
    success_std: float | None
    success_worst: float | None
    seconds: float


def cells(results: Iterable[Result]) -> list[Cell]:
    """One cell for each poison, purifier and setting, in the order of first appearance."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((row_of(result.poison), result.purifier, result.setting), []).append(result)
    return [_cell(poison, group) for (poison, _, _), group in groups.items()]


def _cell(poison: str, group: Sequence[Result]) -> Cell:
    last, peak = [100 * r.test[-1] for r in group], [100 * max(r.test) for r in group]
    success = [100 * r.success[-1] for r in group if r.success]
    worst = [100 * max(r.success_by_class.values()) for r in group if r.success_by_class]
    first = group[0]
    return Cell(
        poison,
        first.purifier,
        first.setting,
        first.kind,
        len(group),
        mean(last),
        spread(last),
        mean(peak),
        spread(peak),
        mean(100 * r.train for r in group),
        mean(success) if success else None,
        spread(success) if success else None,
        mean(worst) if worst else None,
        mean(r.seconds for r in group),
    )


def write_report(out: str | Path, results: Iterable[Result], fidelity: Iterable[Fidelity], provenance: str = "") -> str:
    """Write ``report.md``, ``report.json``, ``accuracy.svg`` and ``fidelity.svg`` into ``out``; gives the Markdown.

    Without matplotlib (extra ``report``) the two charts are left out, and the Markdown says so.

    Args:
        out: a folder, made if need be.
        results: of any number of poisons, purifiers and seeds.
        fidelity: of the purifiers, where it was measured.
        provenance: a sentence on what the results were measured with.
    """
    out, table, measured = Path(out), cells(results), list(fidelity)
    out.mkdir(parents=True, exist_ok=True)
    values = {(cell.poison, cell.purifier): cell.last for cell in table}
    points = [
        (line.psnr_clean, values[line.poison, line.purifier], line.purifier, line.poison)
        for line in measured
        if line.psnr_clean is not None and (line.poison, line.purifier) in values
    ]
    text = markdown(table, measured, provenance)
    try:
        (out / "accuracy.svg").write_text(matrix_svg(values, "test accuracy in %, last epoch"))
        scatter = scatter_svg(points, "PSNR of purified clean images in dB", "test accuracy in %, last epoch")
        (out / "fidelity.svg").write_text(scatter)
    except MissingExtraError as error:
        text += f"\nNo charts: {error}\n"
    (out / "report.md").write_text(text)
    report = {
        "provenance": provenance,
        "cells": [asdict(cell) for cell in table],
        "fidelity": [asdict(line) for line in measured],
    }
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return text


def markdown(table: Sequence[Cell], fidelity: Sequence[Fidelity], provenance: str = "") -> str:
    """All tables that there is something to say in."""
    parts = [
        _matrix("Test accuracy, last epoch", table, lambda c: _number(c.last, c.last_std, c.seeds)),
        _matrix("Test accuracy, best epoch", table, lambda c: _number(c.peak, c.peak_std, c.seeds)),
    ]
    aimed = [cell for cell in table if cell.success is not None]
    if aimed:
        parts.append(
            _matrix(
                "Attack success", aimed, lambda c: _number(cast(float, c.success), cast(float, c.success_std), c.seeds)
            )
        )
        worst = [cell for cell in aimed if cell.success_worst is not None]
        parts.append(_matrix("Attack success, class where it is highest", worst, lambda c: f"{c.success_worst:.1f}"))
    if fidelity:
        parts.append(_fidelity_table(fidelity))
    most = max((cell.seeds for cell in table), default=0)
    note = f"Percent; mean and sample standard deviation over at most {most} runs, one run where none is given."
    return "\n\n".join([" ".join(filter(None, [note, provenance])), *parts]) + "\n"


def _matrix(title: str, table: Sequence[Cell], write: Callable[[Cell], str]) -> str:
    columns = list(dict.fromkeys(cell.purifier for cell in table))
    found = {(cell.poison, cell.purifier): write(cell) for cell in table}
    poisons = dict.fromkeys(cell.poison for cell in table)
    rows = [[poison, *(found.get((poison, column), "") for column in columns)] for poison in poisons]
    return f"**{title}**\n\n{markdown_table(['poison', *columns], rows)}"


def _fidelity_table(fidelity: Sequence[Fidelity]) -> str:
    title = "**What the purifier does to the images** (dB; gain 1: the perturbation passes whole, 0: none of it does)"
    measures = ("PSNR x', x", "PSNR P(x'), x", "SSIM P(x'), x", "PSNR P(x), x", "SSIM P(x), x", "gain")
    rows = []
    for f in fidelity:
        gain = "" if f.gain is None else f"{f.gain:.3f}"
        numbers = _db(f.psnr_poisoned), _db(f.psnr), f"{f.ssim:.3f}", _db(f.psnr_clean), f"{f.ssim_clean:.3f}", gain
        rows.append((f.poison, f.purifier, *numbers))
    return f"{title}\n\n{markdown_table(('poison', 'purifier', *measures), rows)}"


def _db(value: float | None) -> str:
    return "∞" if value is None else f"{value:.2f}"


def _number(value: float, deviation: float, runs: int) -> str:
    return f"{value:.1f} ± {deviation:.1f}" if runs > 1 else f"{value:.1f}"

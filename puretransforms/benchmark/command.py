"""The command ``puretransforms bench``: words to a grid, the grid to a report."""

from dataclasses import replace
from pathlib import Path

import torch

from ..errors import BenchmarkError
from .cases import PRESETS, Preset
from .grid import FIDELITY, RESULTS, Say, load_fidelity, load_results, provenance, run_bench
from .report import write_report


def run_command(
    preset: str,
    out: Path,
    *,
    data: Path | None = None,
    poisons: str | None = None,
    purifiers: str | None = None,
    seeds: str | None = None,
    device: str | None = None,
    cache: Path | None = None,
    threads: int | None = None,
    say: Say = print,
) -> str:
    """Run the grid and write the report over everything in ``out``; returns its Markdown.

    Args:
        poisons, purifiers: names with commas between them; ``None`` for the preset's.
        seeds: ``"3"`` for the first three, ``"0,2"`` or ``"2,"`` for these.

    Raises:
        BenchmarkError: no such preset, or seeds that are no numbers.
    """
    grid = chosen_grid(preset, poisons, purifiers, seeds)
    if device is not None:
        grid = replace(grid, device=device)
    if threads is not None:
        torch.set_num_threads(threads)
    run_bench(grid, out, data=data, cache=cache, say=say)
    return write_report(out, load_results(out / RESULTS), load_fidelity(out / FIDELITY), provenance(out / RESULTS))


def chosen_grid(preset: str, poisons: str | None, purifiers: str | None, seeds: str | None) -> Preset:
    """A preset, with other rows, columns and seeds where they are given."""
    if preset not in PRESETS:
        raise BenchmarkError(f"expected a preset among {', '.join(PRESETS)}, got {preset!r}.")
    words = [None if text is None else [word for word in text.split(",") if word] for text in (poisons, purifiers)]
    return PRESETS[preset].with_grid(*words, None if seeds is None else _numbers(seeds))


def _numbers(seeds: str) -> list[int]:
    parts = [part for part in seeds.split(",") if part]
    if not parts or not all(part.isdecimal() for part in parts):
        raise BenchmarkError(f"expected seeds as a count (3) or as numbers with commas (0,2 or 2,), got {seeds!r}.")
    return [int(part) for part in parts] if "," in seeds else list(range(int(seeds)))

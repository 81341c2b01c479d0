"""The command ``puretransforms bench``: words to a grid, the grid to a report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import BenchmarkError
from .cases import PRESETS, Preset
from .cells import write_report
from .entries import RESULTS, load_entries, load_fidelity, load_results, provenance
from .gate import gate_markdown
from .grid import Progress, Say, keep_freed_memory, run_bench
from .leaderboard import build_leaderboard


def run_command(
    preset: str,
    out: Path,
    *,
    data: str | Path | None = None,
    poisons: str | None = None,
    purifiers: str | None = None,
    seeds: str | None = None,
    epochs: int | None = None,
    device: str | None = None,
    cache: Path | None = None,
    threads: int | None = None,
    say: Say = print,
    on_epoch: Callable[[Progress], object] | None = None,
) -> str:
    """Run the grid and write the report over everything in ``out``; returns its Markdown.

    Args:
        preset: a name of :data:`puretransforms.benchmark.cases.PRESETS`.
        out: folder of results, made if need be.
        data: see :func:`puretransforms.benchmark.sources.load_data`.
        poisons: as ``name:option=value``, with commas between them; ``None`` for the preset's.
        purifiers: likewise.
        seeds: ``"3"`` for the first three, ``"0,2"`` or ``"2,"`` for these.
        epochs: of the classifier; ``None`` for the preset's.
        device: where to purify and train; ``None`` for the preset's.
        cache: folder to keep poisoned and purified sets in; ``None`` keeps them in memory.
        threads: of the CPU; ``None`` for torch's own.
        say: told what is done, in lines of text.
        on_epoch: told after each epoch how far the run is; ``str(progress)`` says it in a line.

    Raises:
        BenchmarkError: no such preset, or seeds that are no numbers.
    """
    grid = chosen_grid(preset, poisons, purifiers, seeds, epochs)
    if device is not None:
        grid = replace(grid, device=device)
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        run_bench(grid, out, data=data, cache=cache, say=say, on_epoch=on_epoch)
    except KeyboardInterrupt:
        say(f"Stopped. What is finished is in {out / RESULTS}: the same command goes on with the next case.")
        raise
    return report(out)


def report(out: Path) -> str:
    """Write tables and page of what ``out/results`` holds; returns the Markdown, with the gate under the tables."""
    folder = out / RESULTS
    results = load_results(folder)
    text = write_report(out, results, load_fidelity(folder), provenance(load_entries(folder)))
    (out / "report.html").write_bytes(build_leaderboard(folder, "Benchmark report").html)
    gate = gate_markdown(results)
    if gate not in text:
        text = f"{text.rstrip()}\n\n{gate}\n"
        (out / "report.md").write_text(text, encoding="utf-8")
    return text


def chosen_grid(
    preset: str, poisons: str | None, purifiers: str | None, seeds: str | None, epochs: int | None = None
) -> Preset:
    """A preset, with other rows, columns, seeds and epochs where they are given."""
    if preset not in PRESETS:
        raise BenchmarkError(f"expected a preset among {', '.join(PRESETS)}, got {preset!r}.")
    rows, columns = (None if text is None else split_specs(text) for text in (poisons, purifiers))
    return PRESETS[preset].with_grid(rows, columns, None if seeds is None else _numbers(seeds), epochs)


def split_specs(text: str) -> list[str]:
    """The parts between commas; one inside brackets, braces or quotes belongs to the value of an option."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += 0 if quoted else (character in "[{(") - (character in "]})")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _numbers(seeds: str) -> list[int]:
    parts = [part for part in seeds.split(",") if part]
    if not parts or not all(part.isdecimal() for part in parts):
        raise BenchmarkError(f"expected seeds as a count (3) or as numbers with commas (0,2 or 2,), got {seeds!r}.")
    return [int(part) for part in parts] if "," in seeds else list(range(int(seeds)))

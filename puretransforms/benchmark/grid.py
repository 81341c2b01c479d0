"""Run a grid of cases, one JSON line each; what is finished is not run again."""

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ..errors import ManifestMismatchError
from .attacks import find_attack
from .cases import Case, Preset
from .defences import find_defence
from .fidelity import Fidelity
from .run import Bench, Result
from .sources import load_data, part_of
from .store import Store

RESULTS, FIDELITY = "results.jsonl", "fidelity.jsonl"
Say = Callable[[str], None]


def run_bench(
    preset: Preset,
    out: str | Path,
    *,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    say: Say = print,
) -> list[Result]:
    """Run every case of ``preset`` that ``out/results.jsonl`` does not hold yet.

    Several processes may share ``out`` and ``cache``: every line is appended by one write, and a case that two have run
    at the same time counts once.

    Args:
        preset: the grid (:data:`puretransforms.benchmark.cases.PRESETS`, :meth:`Preset.with_grid`).
        out: folder of results; made if it is not there.
        data: see :func:`puretransforms.benchmark.sources.load_data`.
        cache: folder to keep poisoned and purified sets in, between runs; ``None`` keeps them in memory.
        say: told each result as a line of text.

    Returns:
        The results of this preset's cases, old and new.

    Raises:
        ManifestMismatchError: ``out`` holds results of other data or of another classifier.
        SourceError, BenchmarkError: no such data; an unknown poison or purifier.
    """
    for case in preset.cases():
        find_attack(case.poison), find_defence(case.purifier)
    train, test = load_data(data)
    train, test = part_of(train, preset.train_size), part_of(test, preset.test_size)
    bench = Bench(train, test, device=preset.device, store=Store(Path(cache) if cache else None))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _mend(out / RESULTS), _mend(out / FIDELITY)
    about = {"data": bench.fingerprint, "setting": preset.setting.describe()}
    done = {result.case: result for result in load_results(out / RESULTS, about)}
    known = {(line.poison, line.purifier) for line in load_fidelity(out / FIDELITY)}
    for case in preset.cases():
        if (case.poison, case.purifier) not in known:
            known.add((case.poison, case.purifier))
            fidelity = bench.fidelity(case.poison, case.purifier)
            if fidelity is not None:
                _append(out / FIDELITY, asdict(fidelity))
        if case not in done:  # perhaps another process has finished it since
            done |= {result.case: result for result in load_results(out / RESULTS, about)}
        if case in done:
            continue
        result = bench.run(case, preset.setting)
        done[case] = result
        _append(out / RESULTS, asdict(result) | {"about": about | _environment(bench)})
        success = f", success {result.success[-1]:.1%}" if result.success else ""
        say(
            f"{case.poison} / {case.purifier}, seed {case.seed}: {result.test[-1]:.1%}{success}, {result.seconds:.0f} s"
        )
    return [done[case] for case in preset.cases()]


def load_results(path: Path, about: dict[str, Any] | None = None) -> list[Result]:
    """The results in a file, one for each case; with ``about``, all must be of that data and setting.

    Raises:
        ManifestMismatchError: a line is of other data or of another setting, or no result.
    """
    found: dict[Case, Result] = {}
    for number, line in enumerate(_lines(path), 1):
        for name, value in (about or {}).items():
            if line.get("about", {}).get(name) != value:
                raise ManifestMismatchError(
                    f"expected results with {name} {value} in {path}, got {line.get('about', {}).get(name)} in line "
                    f"{number}: choose another folder for the results."
                )
        try:
            result = Result(**{key: value for key, value in line.items() if key != "about"})
        except TypeError as error:
            raise ManifestMismatchError(f"expected a result in line {number} of {path}: {error}.") from error
        found.setdefault(result.case, result)
    return list(found.values())


def provenance(path: Path) -> str:
    """One sentence on what the results in a file were measured with."""
    lines = [line["about"] for line in _lines(path) if "about" in line]
    if not lines:
        return ""
    setting, first = lines[0]["setting"], lines[0]

    def all_of(name: str) -> str:
        return ", ".join(dict.fromkeys(str(line[name]) for line in lines))

    return (
        f"Setting {setting['name']}: {setting['network']} of width {setting['width']}, {setting['epochs']} epochs, "
        f"batches of {setting['batch_size']}; {first['train_images']:,} training and {first['test_images']:,} test "
        f"images (data {first['data']}). Measured on {all_of('device')}, {all_of('threads')} thread(s) a run, torch "
        f"{all_of('torch')}, {all_of('date')}."
    )


def load_fidelity(path: Path) -> list[Fidelity]:
    """The measurements of purifiers on images, the last of each pair of poison and purifier."""
    found = {(line["poison"], line["purifier"]): Fidelity(**line) for line in _lines(path)}
    return list(found.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def _mend(path: Path) -> None:
    """Cut off a last line that a kill left half written."""
    text = path.read_bytes() if path.exists() else b""
    if not text.endswith(b"\n") and text:
        with path.open("r+b") as file:
            file.truncate(text.rfind(b"\n") + 1)


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _environment(bench: Bench) -> dict[str, Any]:
    return {
        "train_images": len(bench.train),
        "test_images": len(bench.test),
        "device": torch.cuda.get_device_name() if bench.device.startswith("cuda") else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }

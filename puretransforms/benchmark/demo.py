"""The demonstration: digits poisoned, purified, and learned from; no download."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..cleaning.clean import clean
from ..data.digits import load_digits
from ..data.samples import LabelledImages, gather
from ..errors import SourceError
from ..poisons.availability.convolution import CUDA
from ..poisons.dataset import PoisonedDataset
from ..poisons.export import export
from ..train.settings import DIGITS_SETTING, ClassifierSetting
from ..transforms.coin import COINInterpolate
from .cells import Cell, cells
from .run import Result, run_case

RESULTS = "demo.json"
_MADE_HERE = ("clean", "poisoned", "purified", "purified.quarantine", "report.html", RESULTS)
_EXPLAINED = {
    "clean": "clean",
    "poisoned": "poisoned with CUDA",
    "purified": "poisoned, purified once: the folder that clean() wrote",
    "online": "poisoned, purified anew at every access",
}


def run_demo(
    out_dir: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    setting: ClassifierSetting = DIGITS_SETTING,
    train_size: int | None = None,
    console: Console | None = None,
) -> list[Cell]:
    """Poison scikit-learn's digits, purify the folder, train on each version, print the test accuracies.

    It shows the mechanism, not how good a purifier is: the grain of the images and the schedule were chosen, on these
    test digits, so that poison and cure both show. Measurements on real images are in docs/results.

    Leaves in ``out_dir``: ``clean/``, ``poisoned/`` and ``purified/`` (ImageFolder trees of PNG), ``report.html``
    (before and after, from ``clean``) and ``demo.json`` (all accuracies). An earlier demo there is replaced.

    Args:
        out_dir: new or empty, or that of an earlier demo.
        seeds: one training run of each version for each seed.
        setting: the classifier.
        train_size: use only the first so many training images.
        console: where to print; default: standard output.

    Returns:
        One row for each version, named by its ``poison``: ``clean``, ``poisoned``, ``purified``, ``online``.

    Raises:
        SourceError: ``out_dir`` holds something else.
        MissingExtraError: scikit-learn is not installed.
    """
    console = console or Console()
    out = _fresh(Path(out_dir))
    train, test = load_digits()
    train = LabelledImages(train.images[:train_size], train.targets[:train_size])
    with _one_thread():
        console.print(f"{len(train)} digits: writing them clean and poisoned, purifying the poisoned ones")
        versions = _write_versions(train, out)
        cases: list[tuple[str, LabelledImages, COINInterpolate | None]]
        cases = [(name, data, None) for name, data in versions.items()]
        cases.append(("online", versions["poisoned"], COINInterpolate()))
        runs = [(*case, seed) for case in cases for seed in seeds]
        results = []
        for name, data, transform, seed in track(runs, description="training", console=console):
            outcome = run_case(data, test, setting, seed=seed, transform=transform)
            about = (name, "none", setting.name, seed, "availability")
            results.append(Result(*about, **vars(outcome), success=[], success_by_class={}))
    (out / RESULTS).write_text(json.dumps([asdict(result) for result in results], indent=1))
    rows = cells(results)
    console.print(_table(rows, len(test)))
    for name in ("purified", "online"):
        console.print(recovery(rows, name), highlight=False)
    console.print(f"before and after: {out / 'report.html'}", soft_wrap=True)
    return rows


def _write_versions(train: LabelledImages, out: Path) -> dict[str, LabelledImages]:
    """Three trees of PNG, read back as anyone else would."""
    poison = CUDA(seed=0)
    export(PoisonedDataset(train, poison, rate=0.0), out / "clean")
    export(PoisonedDataset(train, poison), out / "poisoned")
    result = clean(out / "poisoned", out / "purified", COINInterpolate(), progress=False)
    page = cast(Path, result.report).read_bytes()
    (out / "report.html").write_bytes(page.replace(b' href="', b' href="purified/'))  # of files beside the first
    return {name: gather(str(out / name)) for name in ("clean", "poisoned", "purified")}


def _fresh(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / RESULTS).is_file():
        raise SourceError(f"expected a new or empty folder, or that of an earlier demo, got {out}: name another.")
    for name in _MADE_HERE:
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).write_text("[]")  # from here on this folder is a demo's
    return out


@contextmanager
def _one_thread() -> Iterator[None]:
    """The network is so small that a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _table(rows: list[Cell], tested: int) -> Table:
    title = f"Accuracy on {tested} clean test digits, mean of {rows[0].seeds} seed(s)"
    table = Table(title=title, title_justify="left")
    table.add_column("trained on")
    for heading in ("test %", "std", "best epoch %", "train %", "s"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = (row.last, row.last_std, row.peak, row.train, row.seconds)
        table.add_row(_EXPLAINED[row.poison], *(f"{number:.1f}" for number in numbers))
    return table


def recovery(rows: Iterable[Cell], purified: str, clean: str = "clean", poisoned: str = "poisoned") -> str:
    """One sentence: the share of the accuracy lost to the poison (last epoch) that purification wins back."""
    last = {row.poison: row.last for row in rows}
    lost, back = last[clean] - last[poisoned], last[purified] - last[poisoned]
    if lost <= 0:
        return f"{purified}: {back:+.1f} points; the poison cost nothing ({0 - lost:+.1f} points)"
    return f"{purified}: {back:+.1f} points, {back / lost:.0%} of the {lost:.1f} that the poison cost"

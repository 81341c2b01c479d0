"""Run a grid of cases, one JSON file each; what is finished is not run again."""

import ctypes
import platform
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import BenchmarkError, ManifestMismatchError
from .attacks import find_attack
from .cache import Cache
from .cases import PRESETS, Case, Preset
from .defences import canonical, find_defence
from .entries import RESULTS, Entry, circumstances, entry_name, load_entries, load_entry, save_entry
from .run import Bench, Result
from .sources import load_data, part_of

Say = Callable[[str], None]


def run_bench(
    preset: Preset,
    out: str | Path,
    *,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    say: Say = print,
    on_epoch: Callable[["Progress"], object] | None = None,
) -> list[Result]:
    """Run every case of ``preset`` that ``out/results`` does not hold yet.

    Several processes may share ``out`` and ``cache``: each file appears whole or not at all, and a case that two have
    run at the same time counts once. A run may be stopped at any moment, and the same call goes on.

    Args:
        preset: the grid (:data:`puretransforms.benchmark.cases.PRESETS`, :meth:`Preset.with_grid`).
        out: folder of results; made if it is not there.
        data: see :func:`puretransforms.benchmark.sources.load_data`.
        cache: folder to keep poisoned and purified sets in, between runs; ``None`` keeps them in memory.
        say: told what is done and each result, as lines of text.
        on_epoch: told after each epoch how far the run is.

    Returns:
        The results of this preset's cases, old and new.

    Raises:
        ManifestMismatchError: ``out`` holds results of other data or of another classifier.
        SourceError, BenchmarkError, RegistryError: no such data; an unknown poison or purifier.
    """
    cases = list(dict.fromkeys(replace(case, purifier=canonical(case.purifier)) for case in preset.cases()))
    for case in cases:
        find_attack(case.poison), find_defence(case.purifier)
    if data is None and not preset.digits:
        raise BenchmarkError(
            f"expected data for the preset {preset.name!r}: a folder with train and test in it, an .npz, or a name "
            "such as torchvision:CIFAR10:data."
        )
    train, test = load_data(data)
    bench = Bench(
        part_of(train, preset.train_size),
        part_of(test, preset.test_size),
        device=preset.device,
        cache=Cache(Path(cache) if cache else None),
    )
    folder = Path(out) / RESULTS
    about: dict[str, object] = {"data": bench.fingerprint, "setting": preset.setting.describe()}
    entries = {entry.result.case: entry for entry in load_entries(folder)}
    for case in cases:
        if case in entries:
            _check_alike(folder / entry_name(case), entries[case], about)
    progress = Progress(len(cases), sum(case in entries for case in cases), preset.setting.epochs)
    if progress.left:
        before = f", {progress.done} of them done before" if progress.done else ""
        say(
            f"{len(cases)} cases{before}. Each is written to {folder} as it ends: if this run is stopped, run the same "
            "command again, and it goes on with the next."
        )
    fidelity = {(e.result.poison, e.result.purifier): e.fidelity for e in entries.values()}
    for case in cases:
        path = folder / entry_name(case)
        if case not in entries and path.is_file():  # another process has finished it since
            entries[case] = load_entry(path)
            _check_alike(path, entries[case], about)
            progress.done += 1
        if case in entries:
            continue
        progress.begin(case)
        result = bench.run(case, preset.setting, None if on_epoch is None else progress.teller(on_epoch))
        pair = (case.poison, case.purifier)
        if pair not in fidelity:  # once: it does not depend on the training
            fidelity[pair] = bench.fidelity(*pair)
        sizes = {"train_images": len(bench.train), "test_images": len(bench.test)}
        made_by = {"command": command_of(case, preset, data)}
        entries[case] = Entry(result, fidelity[pair], made_by | about | sizes | circumstances(preset.device))
        save_entry(folder, entries[case])
        progress.end()
        success = f", success {result.success[-1]:.1%}" if result.success else ""
        say(
            f"{case.poison} / {case.purifier}, seed {case.seed}: {result.test[-1]:.1%}{success}, "
            f"{result.seconds:.0f} s{progress.rest()}"
        )
    return [entries[case].result for case in cases]


def command_of(case: Case, preset: Preset, data: str | Path | None) -> str:
    """The words for the shell that run one case again; of a path of data the name alone."""
    words = ["puretransforms", "bench", "--preset", preset.name]
    if data is not None:
        words += ["--data", Path(data).name if Path(data).exists() else str(data)]
    known = PRESETS.get(preset.name, preset)
    if preset.setting.epochs != known.setting.epochs:
        words += ["--epochs", str(preset.setting.epochs)]
    words += ["--poisons", case.poison, "--purifiers", case.purifier, "--seeds", f"{case.seed},", "--out", "bench"]
    return shlex.join(words)


class Progress:
    """How far a grid is, and how long it will still take at the pace so far.

    Attributes:
        case: what runs now.
        epoch, epochs: of its training; ``accuracy`` is that after the epoch, a fraction.
        done, total: cases.
    """

    def __init__(self, total: int, done: int, epochs: int) -> None:
        self.total, self.done, self.epochs = total, done, epochs
        self.case: Case | None = None
        self.epoch, self.accuracy = 0, 0.0
        self._ran = 0
        self._start = time.monotonic()

    @property
    def left(self) -> int:
        """Cases that are not finished."""
        return self.total - self.done

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the cases that this run has finished, or of its first case so far; ``None`` at its begin."""
        ran = self._ran + (self.epoch / self.epochs if self.case is not None else 0)
        if ran <= 0:
            return None
        return (time.monotonic() - self._start) / ran * (self.total - self.done - (ran - self._ran))

    def begin(self, case: Case) -> None:
        """A case starts."""
        self.case, self.epoch = case, 0

    def end(self) -> None:
        """It is finished."""
        self._ran, self.done = self._ran + 1, self.done + 1
        self.case, self.epoch = None, 0

    def rest(self) -> str:
        """Words on what is still to come; empty after the last case."""
        if not self.left:
            return ""
        return f" ({self.done} of {self.total}, about {duration(self.seconds_left or 0)} to go)"

    def teller(self, on_epoch: Callable[["Progress"], object]) -> Callable[[int, float], None]:
        """What a case calls after each epoch."""

        def tell(epoch: int, accuracy: float) -> None:
            self.epoch, self.accuracy = epoch, accuracy
            on_epoch(self)

        return tell

    def __str__(self) -> str:
        if self.case is None:
            return f"{self.done} of {self.total} cases"
        left = "" if self.seconds_left is None else f", about {duration(self.seconds_left)} to go"
        return (
            f"case {self.done + 1} of {self.total}, {self.case.poison} / {self.case.purifier}, seed {self.case.seed}: "
            f"epoch {self.epoch} of {self.epochs}, {self.accuracy:.1%}{left}"
        )


def duration(seconds: float) -> str:
    """``"40 s"``, ``"12 min"``, ``"3 h 20 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning them: fresh pages cost a third of a step; numbers stay."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _check_alike(path: Path, entry: Entry, about: dict[str, object]) -> None:
    for name, value in about.items():
        if entry.about[name] != value:
            raise ManifestMismatchError(
                f"expected results with {name} {value} in {path}, got {entry.about[name]}: choose another folder "
                "for the results."
            )

"""Results on disk: one JSON file for each case, which says all that is needed to check it or to run it again.

A folder of results and the leaderboard hold the same files.
"""

import hashlib
import json
import platform
import re
import subprocess  # nosec B404
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..errors import ManifestMismatchError
from ..storage.atomic import replace_file
from .cases import Case
from .fidelity import Fidelity
from .run import Result

RESULTS = "results"
TEMPLATE = "TEMPLATE.json"
_ABOUT = {
    "command": str,
    "data": str,
    "setting": dict,
    "train_images": int,
    "test_images": int,
    "code": str,
    "hardware": str,
    "threads": int,
    "torch": str,
    "date": str,
}


@dataclass(frozen=True)
class Entry:
    """One case and where it came from.

    Attributes:
        result: accuracies and success of the run.
        fidelity: what the purifier does to the images, measured without training; ``None`` if it changes none.
        about: ``command`` that ran it; hash of the ``data`` (training and test images with labels); ``setting``, the
            classifier and its schedule; ``train_images`` and ``test_images``, how many; version of the ``code``;
            ``hardware``, ``threads``, ``torch``, ``date``.
    """

    result: Result
    fidelity: Fidelity | None
    about: dict[str, Any]


def entry_name(case: Case) -> str:
    """The file name of a case: readable, and different for different cases."""
    parts = [re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in (case.setting, case.poison, case.purifier)]
    digest = hashlib.sha256(json.dumps(asdict(case), sort_keys=True).encode()).hexdigest()[:8]
    return f"{'--'.join(parts)}--{case.seed}--{digest}.json"


def save_entry(folder: Path, entry: Entry) -> Path:
    """Write one file, whole or not at all; the folder is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / entry_name(entry.result.case)
    replace_file(path, (json.dumps(asdict(entry), indent=1) + "\n").encode())
    return path


def load_entries(folder: str | Path) -> list[Entry]:
    """Every entry below ``folder``, sorted by victim, seed, poison and purifier; none if there is no such folder.

    The template is left out.

    Raises:
        ManifestMismatchError: a file that is no entry, or a case that stands in two files.
    """
    found: dict[Case, tuple[Path, Entry]] = {}
    for path in sorted(Path(folder).rglob("*.json")):
        if path.name == TEMPLATE:
            continue
        entry = load_entry(path)
        before = found.setdefault(entry.result.case, (path, entry))[0]
        if before != path:
            raise ManifestMismatchError(f"expected one file for each case, got {before} and {path}: remove one.")
    return [found[case][1] for case in sorted(found, key=_order)]


def load_entry(path: str | Path) -> Entry:
    """One entry.

    Raises:
        ManifestMismatchError: the file is no entry; the message says what is missing or wrong.
    """
    path = Path(path)
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(parts, dict) or set(parts) != {"result", "fidelity", "about"}:
            raise ValueError("it needs result, fidelity and about, and nothing else")
        result = _read(Result, parts["result"])
        fidelity = None if parts["fidelity"] is None else _read(Fidelity, parts["fidelity"])
        _check_about(parts["about"])
        _check_numbers(result)
    except (ValueError, TypeError) as error:
        raise ManifestMismatchError(
            f"expected a result of the benchmark in {path}, got another file: {error}."
        ) from error
    return Entry(result, fidelity, parts["about"])


def load_results(folder: str | Path) -> list[Result]:
    """The results of all entries."""
    return [entry.result for entry in load_entries(folder)]


def load_fidelity(folder: str | Path) -> list[Fidelity]:
    """The measurements of purifiers on images, one of each pair of poison and purifier."""
    lines = (entry.fidelity for entry in load_entries(folder) if entry.fidelity is not None)
    return list({(line.poison, line.purifier): line for line in lines}.values())


def provenance(entries: Iterable[Entry]) -> str:
    """One sentence on what the results were measured with."""
    about = [entry.about for entry in entries]
    if not about:
        return ""
    setting, first = about[0]["setting"], about[0]

    def all_of(name: str) -> str:
        return ", ".join(dict.fromkeys(str(one[name]) for one in about))

    return (
        f"Setting {setting['name']}: {setting['network']} of width {setting['width']}, {setting['epochs']} epochs, "
        f"batches of {setting['batch_size']}; {first['train_images']:,} training and {first['test_images']:,} test "
        f"images (data {first['data']}). Measured on {all_of('hardware')}, {all_of('threads')} thread(s) a run, torch "
        f"{all_of('torch')}, {all_of('date')}."
    )


def circumstances(device: str) -> dict[str, Any]:
    """What is running here and now: version of the code, hardware, threads, torch, date."""
    from .. import __version__

    return {
        "code": f"puretransforms {__version__}{_commit()}",
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _commit() -> str:
    """`` (abc1234)`` of a checkout, with ``+`` where it has been changed since; empty for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        words = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)  # nosec B603
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" ({done.stdout.strip()})"


def hardware(device: str) -> str:
    """The name of the GPU, or of the CPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _order(case: Case) -> tuple[Any, ...]:
    """By victim and seed; clean data and no purifier first."""
    return case.setting, case.seed, case.poison != "clean", case.poison, case.purifier != "none", case.purifier


def _read(cls: type, values: Any) -> Any:
    names = {field.name: field.default is MISSING for field in fields(cls)}
    missing = [name for name, needed in names.items() if needed and name not in values]
    strange = [name for name in values if name not in names]
    if missing or strange:
        raise ValueError(f"{cls.__name__.lower()} lacks {missing or 'nothing'} and has {strange or 'nothing'} too much")
    return cls(**values)


def _check_about(about: Any) -> None:
    wrong = [name for name, kind in _ABOUT.items() if not isinstance(about.get(name), kind) or about[name] == ""]
    if wrong:
        raise ValueError(f"about lacks {', '.join(wrong)}")


def _check_numbers(result: Result) -> None:
    if not result.test or not all(0 <= value <= 1 for value in [*result.test, *result.success, result.train]):
        raise ValueError("accuracies and success are fractions from 0 to 1, and there is at least one of test")

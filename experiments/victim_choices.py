"""How a victim should be trained on poisoned data: whitening, label smoothing, length; one JSON line for each cell.

A cell is ``poison/whitening/smoothing/epochs/seed``. The whitening filters are the ``stored`` ones of natural images,
or those of the training ``set`` as it is, poison and all. What the results hold is not run again, and the same command
goes on after a break. All cells, or some:

    python experiments/victim_choices.py cifar10.npz docs/results/victim-choices.jsonl
    python experiments/victim_choices.py part.npz OUT.jsonl published:path=published.npz/stored/0.2/80/0

(for a published set that holds a part of the data, see ``published_part.py``).
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from whitening_statistics import statistics

from puretransforms.benchmark.attacks import find_attack
from puretransforms.benchmark.entries import circumstances
from puretransforms.benchmark.grid import keep_freed_memory
from puretransforms.benchmark.sources import fingerprint, load_data
from puretransforms.data.samples import LabelledImages
from puretransforms.train.classifier import evaluate
from puretransforms.train.settings import QUARTER

WHITENING = ("stored", "set")
CELLS = [
    *(f"{poison}/{whitening}/0.2/8/0" for poison in ("clean", "ar") for whitening in WHITENING),
    *(f"{poison}/stored/0/8/0" for poison in ("clean", "ar", "classwise")),
    *(f"{poison}/stored/0.2/{epochs}/0" for epochs in (8, 16, 32) for poison in ("clean", "ar", "classwise")),
]


def main(data: str, out: str, *chosen: str) -> None:
    keep_freed_memory()
    train, test = load_data(data)
    about = {
        "data": fingerprint(train, test),
        "command": f"python {' '.join(['experiments/victim_choices.py', *chosen])}",
    }
    for cell in dict.fromkeys(chosen or CELLS):
        if cell in finished(Path(out)):
            print(f"{cell}: done before")
            continue
        line = {"cell": cell, **measure(cell, train, test), **about, **circumstances("cpu")}
        with Path(out).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def finished(out: Path) -> set[str]:
    return (
        {json.loads(line)["cell"] for line in out.read_text(encoding="utf-8").splitlines()} if out.exists() else set()
    )


def measure(cell: str, train: LabelledImages, test: LabelledImages, setting: Any = QUARTER) -> dict[str, Any]:
    poison, whitening, smoothing, epochs, seed = cell.rsplit("/", 4)
    if whitening not in WHITENING:
        raise SystemExit(f"expected a whitening of {', '.join(WHITENING)}, got {whitening!r} in {cell}.")
    attacked = find_attack(poison).run(train, test, int(train.targets.max()) + 1)
    setting = replace(setting, label_smoothing=float(smoothing), epochs=int(epochs))
    model, records = setting.train(attacked.images, attacked.targets, seed=int(seed))
    if whitening == "set":
        whiten(model, attacked.images)
    return {"setting": setting.describe(), **followed(cell, model, records, test)}


def whiten(model: torch.nn.Module, images: torch.Tensor) -> None:
    mean, std, _, half = statistics(images)
    model.whiten.mean.copy_(mean[:, None, None])
    model.whiten.std.copy_(std[:, None, None])
    model.whiten.filters.copy_(torch.cat([half, -half]))


def followed(cell: str, model: torch.nn.Module, records: Iterable[Any], test: LabelledImages) -> dict[str, Any]:
    accuracy, fit, seconds = [], [], 0.0
    for record in records:
        accuracy.append(round(evaluate(model, test.images, test.targets), 4))
        fit.append(round(record.accuracy, 4))
        seconds += record.seconds
        print(f"{cell}: epoch {record.epoch}, test {accuracy[-1]:.2%}", flush=True)
    return {"test": accuracy, "train": fit, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    if len(sys.argv) < 3 or "--help" in sys.argv:
        print(__doc__)
        sys.exit(0 if "--help" in sys.argv else 2)
    main(*sys.argv[1:])

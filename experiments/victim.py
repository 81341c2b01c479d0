"""Cells of the benchmark at full size: the fast victim on 50,000 original CIFAR-10 images, one JSON line each.

A cell is ``setting/poison/purifier/place/seed``, e.g. ``quarter/lsp/jpeg-10/once/0``, and may end in the number of
epochs if it is not that of the setting. Places: ``once`` (the stored set is purified), ``access`` (every batch, after
its augmentation), ``test`` (once, and the test images too). What the results file holds is not run again, so a killed
run loses the cell that it was in:

    python -m experiments.victim cifar10.npz docs/results/victim.jsonl quarter/clean/none/once/0 ...
"""

import ctypes
import hashlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from puretransforms import Grayscale, JPEGCompress
from puretransforms.poisons.autoregressive import AR
from puretransforms.poisons.convolution import CUDA
from puretransforms.poisons.lsp import LSP
from puretransforms.poisons.ops import OPS
from puretransforms.train.classifier import evaluate
from puretransforms.train.settings import FULL, QUARTER

SETTINGS = {setting.name: setting for setting in (QUARTER, FULL)}
POISONS = {"clean": None, "lsp": LSP, "ops": OPS, "ar": AR, "cuda": CUDA}
PLACES = ("once", "access", "test")


def main(archive: str, results: str, *cells: str) -> None:
    path = Path(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    data = read(archive)
    for cell in cells:
        if cell in finished(path):
            print(f"{cell}: done before")
            continue
        record = {"cell": cell, **measure(cell, *data), **circumstances(archive, data)}
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning them: fresh pages cost time, and the results are the same."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def finished(path: Path) -> set[str]:
    return {json.loads(line)["cell"] for line in path.read_text().splitlines()} if path.exists() else set()


def read(archive: str) -> tuple[torch.Tensor, ...]:
    stored = np.load(archive)
    arrays = [torch.from_numpy(stored[name]) for name in ("x_train", "y_train", "x_test", "y_test")]
    x_train, y_train, x_test, y_test = arrays
    return x_train.permute(0, 3, 1, 2).contiguous(), y_train, x_test.permute(0, 3, 1, 2).contiguous(), y_test


def purifier(name: str) -> JPEGCompress | Grayscale | None:
    """``none``, ``gray``, ``jpeg-10`` or ``jpeg-30-10`` (luma, chroma)."""
    if name in ("none", "gray"):
        return Grayscale() if name == "gray" else None
    return JPEGCompress(*(int(quality) for quality in name.split("-")[1:]))


def measure(
    cell: str, x_train: torch.Tensor, y_train: torch.Tensor, x_test: torch.Tensor, y_test: torch.Tensor
) -> dict[str, object]:
    name, poison, purifier_name, place, seed, *epochs = cell.split("/")
    if place not in PLACES:
        raise SystemExit(f"expected a place of {', '.join(PLACES)}, got {place!r} in {cell}")
    setting = SETTINGS[name] if not epochs else replace(SETTINGS[name], epochs=int(epochs[0]))
    start, began = time.perf_counter(), time.process_time()
    x_train, purify = poisoned(poison, x_train, y_train), purifier(purifier_name)
    if purify is not None and place != "access":
        x_train = in_parts(purify, x_train)
    if purify is not None and place == "test":
        x_test = in_parts(purify, x_test)
    prepared = time.perf_counter() - start
    online = purify if place == "access" else None
    model, records = setting.train(x_train, y_train, seed=int(seed), transform=online)
    epochs_done, test = [], []
    for record in records:
        epochs_done.append(record)
        test.append(round(100 * evaluate(model, x_test, y_test), 2))
        print(f"{cell}: epoch {record.epoch}/{setting.epochs}, test {test[-1]:.2f} %", flush=True)
    return {
        "test_accuracy": test[-1],
        "test_by_epoch": test,
        "train_by_epoch": [round(100 * record.accuracy, 2) for record in epochs_done],
        "loss_by_epoch": [round(record.loss, 4) for record in epochs_done],
        "seconds": {
            "preparation": round(prepared, 1),
            "epochs": [round(record.seconds, 1) for record in epochs_done],
            "cell": round(time.perf_counter() - start, 1),
            "processor": round(time.process_time() - began, 1),  # less than the wall time on a shared machine
        },
        "setting": setting.describe() | {"recipe": asdict(setting.recipe)},
    }


def poisoned(name: str, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The images after the poison of that name with seed 0, keyed by their place in the data."""
    if POISONS[name] is None:
        return images
    poison = POISONS[name](seed=0)
    if poison.needs_fit:
        poison.fit(images, labels)
    rows = torch.arange(len(images))
    return torch.cat([poison(images[part], labels[part], index=part)[0] for part in rows.split(1000)])


def in_parts(purify: object, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([purify(part) for part in images.split(1000)])


def circumstances(archive: str, data: tuple[torch.Tensor, ...]) -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    digest = hashlib.sha256()
    for tensor in data:
        digest.update(tensor.numpy())
    return {
        "data": digest.hexdigest()[:16],
        "cpu": f"{model}, {os.cpu_count()} cores",
        "amx": "amx_tile" in flags,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": f"python -m experiments.victim {Path(archive).name} RESULTS CELL",
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

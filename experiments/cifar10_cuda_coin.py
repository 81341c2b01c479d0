"""CIFAR-10, clean / poisoned with CUDA / purified with COIN: what a classifier trained on each learns.

The three training sets are folders, as ``puretransforms poison`` and ``puretransforms clean`` write them; ``online`` is
the poisoned set with a fresh COIN field at every access, as the paper applies it. The test images are untouched. One
JSON line per case goes to ``--out``; finished cases are skipped, so a killed run goes on where it stopped.

    python experiments/cifar10_cuda_coin.py --clean CLEAN/train --poisoned POISONED --purified PURIFIED \
        --test CLEAN/test
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import mean, stdev

import torch

from puretransforms import COINInterpolate
from puretransforms.data.samples import gather
from puretransforms.train.classifier import evaluate
from puretransforms.train.settings import CPU_SETTING

CASES = ("clean", "poisoned", "purified", "online")


def run_case(case: str, folder: Path, test_folder: Path, seed: int, device: str) -> dict:
    train, test = gather(str(folder)), gather(str(test_folder))
    start = time.perf_counter()
    transform = COINInterpolate() if case == "online" else None
    model, records = CPU_SETTING.train(train.images, train.targets, seed=seed, transform=transform, device=device)
    epochs = []
    for record in records:
        accuracy = evaluate(model, test.images, test.targets)
        epochs.append({"train_accuracy": round(record.accuracy, 4), "test_accuracy": round(accuracy, 4)})
        print(f"{case} seed {seed} epoch {record.epoch}: {epochs[-1]}", flush=True)
    return {
        "case": case,
        "seed": seed,
        "test_accuracy": epochs[-1]["test_accuracy"],
        "peak_test_accuracy": max(epoch["test_accuracy"] for epoch in epochs),
        "epochs": epochs,
        "setting": CPU_SETTING.describe(),
        "train_images": len(train),
        "test_images": len(test),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "threads": torch.get_num_threads(),
        "device": device,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "date": date.today().isoformat(),
    }


def finished(out: Path) -> Iterator[dict]:
    if out.exists():
        yield from map(json.loads, out.read_text().splitlines())


def table(rows: list[dict]) -> str:
    lines = ["| trained on | test accuracy, last epoch | peak | seeds |", "|---|---|---|---|"]
    for case in CASES:
        of_case = [row for row in rows if row["case"] == case]
        if of_case:
            last = [100 * row["test_accuracy"] for row in of_case]
            peak = mean(100 * row["peak_test_accuracy"] for row in of_case)
            spread = f" ± {stdev(last):.1f}" if len(last) > 1 else ""
            lines.append(f"| {case} | {mean(last):.1f}{spread} | {peak:.1f} | {len(last)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("clean", "poisoned", "purified", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="ImageFolder tree")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("docs/results/cifar10-cuda-coin.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folders = {"clean": args.clean, "poisoned": args.poisoned, "purified": args.purified, "online": args.poisoned}
    for seed in args.seeds:
        for case in args.cases:
            if any((row["case"], row["seed"]) == (case, seed) for row in finished(args.out)):
                continue
            row = run_case(case, folders[case], args.test, seed, args.device)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(table(list(finished(args.out))))


if __name__ == "__main__":
    main()

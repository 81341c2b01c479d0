"""What `auto` puts aside: carriers of a trigger, and images that carry none, on CIFAR-10.

    python experiments/scan_removal.py --cifar10 CIFAR10.npz --out docs/results/scan-removal.json

Draws of 2,000 images, with a seed of its own for each set; every other poisoned set is of another seed of the poison.
Nothing is trained. About 10 s of one core a set.
"""

import argparse
import json
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scan_confusion import stored_images

from puretransforms.auto import AutoPurify
from puretransforms.data.samples import LabelledImages
from puretransforms.poisons import BPP, LSP, SIG, BadNets, Blend, WaNet
from puretransforms.poisons.dataset import PoisonedDataset

IMAGES = 2000
POISONS: dict[str, Any] = {
    "BadNets": lambda seed: BadNets(num_classes=10, target=seed % 10, seed=seed),
    "BPP": lambda seed: BPP(num_classes=10, target=seed % 10, seed=seed),
    "Blend": lambda seed: Blend(num_classes=10, target=seed % 10, seed=seed),
    "SIG": lambda seed: SIG(num_classes=10, target=seed % 10, seed=seed),
    "WaNet": lambda seed: WaNet(num_classes=10, target=seed % 10, seed=seed),
    "LSP": lambda seed: LSP(num_classes=10, seed=seed),
}
CASES = [
    *(("clean", 0.0, seed) for seed in range(4)),
    *(("BadNets", rate, 10) for rate in (0.1, 0.05, 0.01)),
    *(("BPP", rate, 11) for rate in (0.1, 0.05, 0.01)),
    *(("Blend", rate, 12) for rate in (0.1, 0.05)),
    ("SIG", 0.05, 13),
    ("WaNet", 0.1, 14),
    ("LSP", 0.1, 15),
]
"""Poison, share of the images (of SIG: at most its class), and the seed of draw and poison."""


def sets(images: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[str, float, int, Any, set[int]]]:
    """Each case as a dataset, and the places of its carriers."""
    for name, rate, seed in CASES:
        rows = torch.from_numpy(np.random.RandomState(100 + seed).permutation(len(images))[:IMAGES].copy())
        data: Any = LabelledImages(images[rows], labels[rows])
        carriers: set[int] = set()
        if name != "clean":
            data = PoisonedDataset(data, POISONS[name](seed), rate=rate, seed=seed)
            carriers = set(data.mask.nonzero()[:, 0].tolist())
        yield name, rate, seed, data, carriers


def removed(data: Any, carriers: set[int]) -> dict[str, Any]:
    """What is put aside, rightly and wrongly, and the purifier for the rest."""
    start = time.process_time()
    auto = AutoPurify().fit(data)
    assert auto.result is not None
    named = {int(name) for name in auto.dropped}
    return {
        "verdict": auto.result.verdict.headline,
        "alarms": auto.result.verdict.alarms,
        "carriers": len(carriers),
        "put aside": len(named & carriers),
        "put aside wrongly": len(named - carriers),
        "purifier": auto.chain,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help=".npz with x_train, y_train")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(args.cifar10) as file:
        images, labels = stored_images(file["x_train"]), torch.from_numpy(file["y_train"].reshape(-1).astype(np.int64))
    found = []
    for name, rate, seed, data, carriers in sets(images, labels):
        found.append({"poison": name, "rate": rate, "seed": seed, "images": IMAGES} | removed(data, carriers))
        print(json.dumps(found[-1]), flush=True)
        if args.out:
            about = {"date": date.today().isoformat(), "torch": torch.__version__}
            args.out.write_text(json.dumps({"about": about, "sets": found}, indent=1) + "\n")

"""What COIN adds to a training loop, per image, in each place of docs/pipelines.md, on one core.

What is timed is the call that the place makes, on images that are there already: one image as tensor or PIL, a batch of
128 as uint8 or float, and kornia's ``AugmentationSequential`` with COIN less without. The median over rounds, in which
each place takes its turn.

    python experiments/pipeline_costs.py --json pipeline-costs.json
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path

import kornia.augmentation as K
import torch
from measured import write_json
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from puretransforms.transforms.coin import COINInterpolate

BATCH = 128


def places(size: int) -> dict[str, tuple]:
    """``name: (function, its argument, images in it)``."""
    coin = COINInterpolate()
    batch = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)
    levels, labels = batch.float() / 255, torch.arange(BATCH)
    flip = K.AugmentationSequential(K.RandomHorizontalFlip(), data_keys=["input", "class"])
    both = K.AugmentationSequential(coin, K.RandomHorizontalFlip(), data_keys=["input", "class"])
    return {
        "image, tensor": (coin, tv_tensors.Image(batch[0]), 1),
        "image, PIL": (coin, F.to_pil_image(batch[0]), 1),
        "batch, uint8": (coin, batch, BATCH),
        "batch, float": (coin, levels, BATCH),
        "kornia without": (lambda x: flip(x, labels), levels, BATCH),
        "kornia with": (lambda x: both(x, labels), levels, BATCH),
    }


def measure(size: int, rounds: int, seconds: float) -> dict[str, float]:
    """Microseconds per image in each place."""
    every, runs = places(size), defaultdict(list)
    for i in range(rounds + 1):
        for name, (function, images, number) in every.items():
            start, calls = time.perf_counter(), 0
            while not calls or time.perf_counter() - start < seconds:
                function(images)
                calls += 1
            if i:  # the first round warms up
                runs[name].append(1e6 * (time.perf_counter() - start) / calls / number)
    cost = {name: round(statistics.median(some), 1) for name, some in runs.items()}
    cost["kornia, added"] = round(cost.pop("kornia with") - cost.pop("kornia without"), 1)
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="at least so long in each place and round")
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.manual_seed(0)
    cost = {f"{size} px": measure(size, args.rounds, args.seconds) for size in (32, 224)}
    write_json({"batch": BATCH, "rounds": args.rounds, "microseconds_per_image": cost}, args.json)


if __name__ == "__main__":
    main()

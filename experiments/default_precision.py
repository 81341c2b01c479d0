"""``EBMPurify()`` and ``VAEPurify()`` as they are by default against ``precision="fp32"``: the default is never slower.

    python experiments/default_precision.py --out docs/results/default-precision.json

Rounds alternate between the two, so that whatever else runs hits both alike; the medians are compared.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from measured import cpu_name, write_json

from puretransforms.functional.devices import working_dtype
from puretransforms.transforms.base import PureTransform
from puretransforms.transforms.ebm import EBMPurify
from puretransforms.transforms.vae import VAEPurify


def seconds(purifier: PureTransform, x: torch.Tensor) -> float:
    start = time.perf_counter()
    purifier(x)
    return time.perf_counter() - start


def compared(kind: type[PureTransform], images: int, rounds: int, threads: int) -> dict[str, object]:
    """Images per second of both, and their ratio."""
    torch.set_num_threads(threads)
    x = torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    both = {"default": kind(seed=0), "fp32": kind(seed=0, precision="fp32")}
    times: dict[str, list[float]] = {name: [] for name in both}
    for purifier in both.values():
        purifier(x[:8])  # warm
    for turn in range(rounds):
        for name in both if turn % 2 == 0 else reversed(both):
            times[name].append(seconds(both[name], x))
    rate = {name: images / median(found) for name, found in times.items()}
    return {
        "images": images,
        "rounds": rounds,
        "images_per_second": {name: round(value, 2) for name, value in rate.items()},
        "default_against_fp32": round(rate["default"] / rate["fp32"], 3),
        "passes": rate["default"] >= 0.9 * rate["fp32"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="for EBMPurify; VAEPurify takes 16 times as many")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, object] = {
        "cpu": cpu_name(),
        "threads": args.threads,
        "torch": torch.__version__,
        "default_dtype": str(working_dtype("auto", "cpu")).removeprefix("torch."),
        "EBMPurify": compared(EBMPurify, args.images, args.rounds, args.threads),
        "VAEPurify": compared(VAEPurify, 16 * args.images, args.rounds, args.threads),
    }
    write_json(result, args.out)


if __name__ == "__main__":
    main()

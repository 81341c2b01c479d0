"""Speed of COINInterpolate beside what else there is, in images per second. A run takes about two minutes.

Every round times each contender once, one after the other, so that all meet the same state of the machine; a ratio is
the median over rounds of the ratio within a round. Contenders that handle one image at a time get fewer images.

    python experiments/coin_speed.py --out docs/results/coin-speed.json
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

import kornia.augmentation as K
import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch.nn.functional import grid_sample
from torchvision.transforms import v2

from puretransforms import COINInterpolate
from puretransforms.functional.random import KeyedNoise

ALPHA = 2.0


def by_scipy(images: np.ndarray) -> np.ndarray:
    """uint8 ``[N, H, W, 3]``: the published construction, one image at a time, on three-axis coordinates."""
    out, generator = np.empty_like(images), np.random.default_rng(0)
    for i, image in enumerate(images):
        height, width, channels = image.shape
        dx = generator.uniform(-ALPHA, ALPHA, (height, width, 1)).astype(np.float32)
        dy = generator.uniform(-ALPHA, ALPHA, (height, width, 1)).astype(np.float32)
        rows, columns, colours = np.meshgrid(*map(np.arange, (height, width, channels)), indexing="ij")
        scaled = image / np.float32(255)
        sampled = map_coordinates(scaled, [rows + dy, columns + dx, colours], order=1, mode="wrap")
        out[i] = np.clip(sampled, 0, 1) * 255
    return out


def contenders(size: int, batch: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Name -> (one pass, number of images in it)."""
    x = torch.rand(batch, 3, size, size)
    pixels = (x * 255).to(torch.uint8)
    few = max(2, batch // 16)
    hwc = pixels[:few].permute(0, 2, 3, 1).contiguous().numpy()
    grid = torch.rand(batch, size, size, 2) * 2 - 1
    coin, elastic = COINInterpolate(ALPHA), v2.ElasticTransform()
    kornia_elastic = K.RandomElasticTransform(p=1.0)

    def bound() -> object:
        KeyedNoise(0, torch.arange(batch)).bits(0, 2 * size * size, torch.int16)
        return grid_sample(x, grid, padding_mode="border", align_corners=True)

    return {
        "SciPy, image by image (published)": (lambda: by_scipy(hwc), few),
        "COINInterpolate, float32": (lambda: coin(x), batch),
        "COINInterpolate, uint8": (lambda: coin(pixels), batch),
        "bound: random bits + one grid_sample": (bound, batch),
        "torchvision ElasticTransform, one field for the batch": (lambda: elastic(x), batch),
        "torchvision ElasticTransform, image by image": (lambda: [elastic(image) for image in x[:few]], few),
        "kornia RandomElasticTransform": (lambda: kornia_elastic(x[:few]), few),
    }


def measure(size: int, batch: int, threads: int, rounds: int) -> list[dict]:
    torch.set_num_threads(threads)
    table = contenders(size, batch)
    for run, _ in table.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(rounds):
        for name, (run, images) in table.items():
            repeats, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < 0.1 or repeats < 2:
                run()
                repeats += 1
            rates[name].append(images * repeats / elapsed)
    reference, coin = rates["SciPy, image by image (published)"], rates["COINInterpolate, float32"]
    return [
        {
            "contender": name,
            "size": size,
            "batch": batch,
            "threads": threads,
            "images_per_second": round(median(values)),
            "times_scipy": round(median(v / r for v, r in zip(values, reference, strict=True)), 2),
            "coin_times_this": round(median(c / v for c, v in zip(coin, values, strict=True)), 2),
        }
        for name, values in rates.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [
        row
        for threads in args.threads
        for size, batch in ((32, 512), (224, 32))
        for row in measure(size, batch, threads, args.rounds)
    ]
    print(f"| {'contender':53} | size | threads | img/s | x SciPy | COIN x this |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        cells = r["size"], r["threads"], f"{r['images_per_second']:,}", r["times_scipy"], r["coin_times_this"]
        print(f"| {r['contender']:53} | " + " | ".join(map(str, cells)) + " |")
    if args.out:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        record = {
            "command": "make bench-coin",
            "date": date.today().isoformat(),
            "hardware": f"{torch.get_num_interop_threads()} CPU cores, {platform.machine()}, no GPU",
            "versions": versions,
            "rounds": args.rounds,
            "rows": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What every training-free purifier leaves of the published TAP poison, beside the golden numbers.

Projected gain ``<P(x + d) - P(x), d> / <d, d>`` on real images: 1 where the poison ``d`` survives whole. The golden
numbers were measured independently on every fifth of the lossless images; each must be met within 0.01. On another
fifth, values differ by up to 0.02, so the gain on all images stands beside it. Fifteen seconds.

    python experiments/tap_gain.py --lossless cifar10_lossless_6k.npz --published tap_5k.npz \
        --out docs/results/tap-gain.json
"""

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
import torch

from puretransforms import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur

EVERY = 5  # 1,017 of 5,085 images
GOLDEN = {
    "JPEG-10": (JPEGCompress(10), 0.117),
    "JPEG-30": (JPEGCompress(30), 0.226),
    "JPEG-75": (JPEGCompress(75), 0.436),
    "mean 3x3": (GaussianBlur(3, 1e4), 0.267),  # so wide that its nine weights are equal
    "Gaussian 3x3, sigma 1": (GaussianBlur(3, 1.0), 0.355),
    "median 3x3": (MedianBlur(3), 0.392),
    "grey": (Grayscale(), 0.542),
    "2-bit depth": (BitDepthReduce(2), 0.861),
}
TOLERANCE = 0.01


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over the images that differ, in dB, of levels ``[N, C, H, W]``."""
    error = ((a - b) / 255).square().mean((1, 2, 3))
    return float(-10 * torch.log10(error[error > 0]).mean())


def gain(purifier: torch.nn.Module, x: torch.Tensor, poisoned: torch.Tensor) -> dict[str, float]:
    """Gain and PSNR of one purifier on uint8 images ``[N, 3, H, W]``."""
    d = poisoned.double() - x.double()
    clean, rest = (purifier(images).double() for images in (x, poisoned))
    return {
        "gain": round(float(((rest - clean) * d).sum() / (d * d).sum()), 4),
        "psnr_clean_db": round(psnr(clean, x.double()), 2),
        "psnr_poisoned_db": round(psnr(rest, x.double()), 2),
    }


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and write; exit status 1 where a golden number is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lossless", type=Path, required=True)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    images = [np.load(path)[key] for path, key in ((options.lossless, "x_train"), (options.published, "x"))]
    x, poisoned = (torch.from_numpy(array).permute(0, 3, 1, 2).contiguous() for array in images)
    rows = []
    print("| purifier | gain | golden | gain on all | PSNR(P(x), x) | PSNR(P(x + d), x) |\n|---|---|---|---|---|---|")
    for name, (purifier, golden) in GOLDEN.items():
        row = {"purifier": name, "golden": golden, **gain(purifier, x[::EVERY], poisoned[::EVERY])}
        row["gain_all"] = gain(purifier, x, poisoned)["gain"]
        row["met"] = abs(row["gain"] - golden) < TOLERANCE
        rows.append(row)
        cells = (row["gain"], golden, row["gain_all"], row["psnr_clean_db"], row["psnr_poisoned_db"])
        print(f"| {name} | {' | '.join(map(str, cells))} |")
    result = {
        "date": date.today().isoformat(),
        "images": len(x[::EVERY]),
        "images_all": len(x),
        "tolerance": TOLERANCE,
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if any(not row["met"] for row in rows):
        raise SystemExit(1)
    return result


if __name__ == "__main__":
    main()

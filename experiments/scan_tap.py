"""What a scan says of the published TAP, wholly and in part, and of the images that it was made from.

    python experiments/scan_tap.py --originals ORIGINALS.npz --tap TAP.npz --out docs/results/scan-tap.json

The parts are drawn with three seeds each. About 8 s of one core a scan.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
import torch
from scan_confusion import Mixed, stored_images

from puretransforms.scanning.report import as_json
from puretransforms.scanning.scan import scan

CASES = [(0.0, 0), (1.0, 0), *((rate, seed) for rate in (0.5, 0.1) for seed in (0, 1, 2))]
"""Share of the images that are poisoned, and the seed that draws them."""


def look(clean: torch.Tensor, tap: torch.Tensor, labels: torch.Tensor, rate: float, seed: int) -> dict:
    """The verdict and the scores."""
    found = as_json(scan(Mixed(clean, tap, labels, rate, seed), sample=None, progress=False))
    scores = {f["name"]: {key: f[key] for key in ("score", "low", "threshold", "alarm")} for f in found["findings"]}
    about = {"rate": rate, "seed": seed, "images": len(labels)}
    return about | {key: found[key] for key in ("verdict", "confidence", "alarms", "sentence")} | {"scores": scores}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True, help=".npz with x_train, y_train")
    parser.add_argument("--tap", type=Path, required=True, help=".npz with x, the same images poisoned")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with np.load(args.originals) as file:
        clean, labels = stored_images(file["x_train"]), torch.from_numpy(file["y_train"])
    with np.load(args.tap) as file:
        tap = stored_images(file["x"])
    rows = []
    for rate, seed in CASES:
        rows.append(look(clean, tap, labels, rate, seed))
        texture = rows[-1]["scores"]["texture shortcut"]
        print(f"{rate:5.0%} seed {seed}: {rows[-1]['verdict']} {rows[-1]['alarms']}, texture {texture}", flush=True)
    if args.out:
        content = {"about": {"date": date.today().isoformat(), "torch": torch.__version__}, "scans": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n")

"""Does an energy-based model tell the poisoned images of a data set from the others of their class?

    python experiments/scan_energy.py --cifar10 CIFAR10 --out docs/results/scan-energy.json \
        [--originals FILE.npz --tap FILE.npz]

Sets of 2,000 images of which a tenth is poisoned (of the published TAP, also half), as in ``scan_confusion.py``. The
area under the ROC of the rank within the class: 0.5 is chance. Also how far the classes of clean sets are apart, which
is why a scan raises no alarm by energy. About two minutes of one core.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import torch
from scan_confusion import TAP, read, sets

from puretransforms.functional.detect.ranking import higher_than_rest
from puretransforms.scanning.detectors import Energy
from puretransforms.scanning.sample import gather
from puretransforms.scanning.source import open_stream


def wanted(about: dict) -> bool:
    """Is this one of the sets to look at?"""
    if about["part"] == "fit":
        return False
    if about["poison"] in (TAP, "clean"):
        return about["rate"] in (0, 0.1, 0.5) and about["seed"] < 5
    return about["rate"] == 0.1 and about["seed"] == 100


def look(dataset: object, mask: torch.Tensor | None) -> dict:
    """The scores of one set."""
    stream = open_stream(dataset, None, 0, 1)
    sample = gather(stream.items, stream.classes, stream.total, stream.drawn)
    found = Energy(ranked=len(sample))(sample)
    row = {"images": len(sample), "highest class": round(found.score, 4), "error": round(found.error, 4)}
    if mask is not None:
        chosen = mask[torch.tensor([int(name) for name in sample.names])]
        row["area under the ROC"] = round(higher_than_rest(found.images, chosen), 4)
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="ImageFolder, or .npz with x_train, y_train")
    parser.add_argument("--originals", type=Path, help=".npz with the images x_train, y_train that TAP was made from")
    parser.add_argument("--tap", type=Path, help=".npz with x")
    parser.add_argument("--natural", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows, done = [], set()
    for about, make in sets(read(args.cifar10), args):
        key = json.dumps(about)
        if wanted(about) and key not in done:
            done.add(key)
            dataset = make()
            rows.append(about | look(dataset, getattr(dataset, "mask", None)))
            print(rows[-1], flush=True)
    if args.out:
        content = {"about": {"date": date.today().isoformat(), "torch": torch.__version__}, "sets": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n")

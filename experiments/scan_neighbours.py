"""Does the detector ``neighbours`` find poison on a part of a set? Its scores on the sets of ``scan_confusion.py``.

    python experiments/scan_neighbours.py --cifar10 CIFAR10.npz --out docs/results/scan-neighbours.json \
        [--originals FILE.npz --tap FILE.npz] [--natural FOLDER] [--cifar100 FILE.npz] [--tiny FOLDER]

Sets of 2,000 images; the threshold comes from the clean sets marked "fit" alone, which are drawn from the other half of
CIFAR-10, so no poison has a part in it. The most telling sets first; goes on where it was stopped. About 4 s of one
core a set.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import torch
from measured import circumstances
from scan_confusion import CLEAN_FIT, CONTROL, read, sets
from scan_removal import other_data

from puretransforms.scanning.calibration import fit_threshold
from puretransforms.scanning.detectors.base import wilson
from puretransforms.scanning.detectors.neighbours import Neighbours
from puretransforms.scanning.sample import gather
from puretransforms.scanning.source import open_stream

KEYS = ("poison", "rate", "part", "seed")


def ordered(args: argparse.Namespace) -> list[tuple[dict, Callable[[], object]]]:
    """Each set once: clean ones of the fit, other kinds, a tenth poisoned, then all the rest."""
    found = {json.dumps(about): (about, make) for about, make in [*sets(read(args.cifar10), args), *more(args)]}

    def turn(about: dict) -> float:
        kind, seed = about["poison"], about["seed"]
        if about["part"] == "fit":
            return 0 if kind == "clean" and seed < CLEAN_FIT // 2 else inf
        if kind.startswith("clean"):
            return 3 + seed / 10 if kind == "clean" else 0.5 + 3 * seed
        return {0.1: 1, 1.0: 5, 0.5: 6, 0.01: 7}[about["rate"]] + 5 * max(seed - 100, 0)

    return [entry for entry in sorted(found.values(), key=lambda e: turn(e[0])) if turn(entry[0]) < inf]


def more(args: argparse.Namespace) -> Iterator[tuple[dict, Callable[[], object]]]:
    """Clean sets of other data."""
    for seed in range(3):
        for name, make in other_data(args, seed):
            yield {"poison": name, "rate": 0, "part": "test", "seed": seed}, make


def look(data: object) -> dict:
    """The score of one set, and which images are named."""
    start = time.process_time()
    stream = open_stream(data, None, 0, 1)
    sample = gather(stream.items, stream.classes, stream.total, stream.drawn)
    with torch.no_grad():
        found = Neighbours(threshold=0.0)(sample)
    row = {"images": len(sample), "score": found.score, "low": found.low, "classes": list(found.classes.values())}
    row |= {"untested": found.untested, "cpu_seconds": round(time.process_time() - start, 1)}
    mask = getattr(data, "mask", None)
    if mask is not None and found.images is not None:
        named = torch.tensor([sample.index[i] for i in (found.images > found.image_threshold).nonzero()[:, 0].tolist()])
        looked = torch.tensor(sample.index)[~found.images.isnan()]
        right = int(mask[named].sum()) if len(named) else 0
        row |= {"named": len(named), "named rightly": right, "carriers looked at": int(mask[looked].sum())}
    return row


def tabulate(rows: list[dict]) -> dict:
    """The threshold, and alarms by poison and rate."""
    fit = [row["low"] for row in rows if row["part"] == "fit" and row["poison"] in ("clean", *CONTROL)]
    threshold = round(fit_threshold(fit, [], Neighbours.gap), 5)
    table: dict[str, dict[str, dict]] = {}
    for row in rows:
        if row["part"] == "test":
            entry = table.setdefault(row["poison"], {}).setdefault(f"{row['rate']:g}", {"found": 0, "sets": 0})
            if row["untested"]:
                entry["untested"] = entry.get("untested", 0) + 1
                continue
            entry["found"] += row["low"] > threshold
            entry["sets"] += 1
            entry["lowest"] = min(entry.get("lowest", 1.0), round(row["low"], 5))
            entry["highest"] = max(entry.get("highest", 0.0), round(row["low"], 5))
            for key in ("named", "named rightly", "carriers looked at"):
                if key in row:
                    entry[key] = entry.get(key, 0) + row[key]
    for entry in (entry for row in table.values() for entry in row.values()):
        low, high = wilson(entry["found"], entry["sets"])
        entry |= {"low": round(low, 3), "high": round(high, 3)}
    return {"threshold": threshold, "clean sets of the fit": len(fit), "table": table}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="ImageFolder, or .npz with x_train, y_train")
    parser.add_argument("--originals", type=Path, help=".npz with the images x_train, y_train that TAP was made from")
    parser.add_argument("--tap", type=Path, help=".npz with x")
    parser.add_argument("--natural", type=Path, help="folder of photographs")
    parser.add_argument("--cifar100", type=Path, help=".npz with x, y")
    parser.add_argument("--tiny", type=Path, help="ImageFolder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.out.read_text())["sets"] if args.out.exists() else []
    done = {tuple(row[key] for key in KEYS) for row in rows}
    for about, make in ordered(args):
        if tuple(about[key] for key in KEYS) in done:
            continue
        rows.append(about | look(make()))
        print(json.dumps(rows[-1]), flush=True)
        content = circumstances() | {"torch": torch.__version__} | tabulate(rows) | {"sets": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n")

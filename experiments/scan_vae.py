"""How large is the class pattern that a short fit of D-VAE finds, in clean data and in poisoned?

    python experiments/scan_vae.py --cifar10 CIFAR10 --out docs/results/scan-vae.json

Sets of 2,000 images, as in ``scan_confusion.py``; the small network (width 16, 64 latent channels), the short schedule
of 6 epochs a stage. About a minute of one core a set; goes on where it was stopped.
"""

import argparse
import json
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from scan_confusion import read, sets

from puretransforms.scanning.detectors import ClassPattern
from puretransforms.scanning.sample import gather
from puretransforms.scanning.source import open_stream
from puretransforms.train.rate import SCHEDULES
from puretransforms.transforms.vae import VAEPurify

WANTED = [("clean", 0), ("LSP", 100), ("class-wise L2", 100), ("clean", 1), ("OPS", 100), ("CUDA", 100)]


def look(dataset: object) -> dict:
    """The scores of one set."""
    started = time.process_time()
    schedule = replace(SCHEDULES["short"], epochs=6)
    vae = VAEPurify(weights=None, width=16, latent=64).fit(dataset, schedule=schedule, num_classes=10)
    stream = open_stream(dataset, None, 0, 1)
    found = ClassPattern(vae=vae)(gather(stream.items, stream.classes, stream.total))
    row = {"largest": found.score, "classes": found.classes} | found.evidence
    return row | {"cpu_seconds": round(time.process_time() - started, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="ImageFolder, or .npz with x_train, y_train")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    none = argparse.Namespace(natural=None, originals=None, tap=None)
    made = {
        (about["poison"], about["seed"]): make
        for about, make in sets(read(args.cifar10), none)
        if about["part"] == "test" and about["rate"] in (0, 1)
    }
    content = {"about": {"date": date.today().isoformat(), "torch": torch.__version__}, "sets": []}
    if args.out.exists():
        content = json.loads(args.out.read_text())
    done = {(row["poison"], row["seed"]) for row in content["sets"]}
    for poison, seed in WANTED:
        if (poison, seed) in made and (poison, seed) not in done:
            content["sets"].append({"poison": poison, "seed": seed} | look(made[poison, seed]()))
            args.out.write_text(json.dumps(content, indent=1) + "\n")
            print(content["sets"][-1], flush=True)

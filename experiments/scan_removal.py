"""What `auto` puts aside: carriers of a trigger, and images that carry none.

    python experiments/scan_removal.py --cifar10 CIFAR10.npz --out docs/results/scan-removal.json \
        [--trigger TRIGGER.npy] [--cifar100 CIFAR100.npz] [--tiny FOLDER] [--natural FOLDER]

Draws of 2,000 CIFAR-10 images of which 1, 3 or 10 % carry a trigger, three draws each, every one with a target class
and seed of its own. SIG and the published trigger of Narcissus (Zeng et al., CCS 2023: ``--trigger``, a ``.npy``, in
units of [-1, 1]) keep labels as they are, so at 10 % they take at most all of their class. Then clean sets: draws of
CIFAR-10, digits, and where they are given CIFAR-100, Tiny-ImageNet and photographs. Nothing is trained. Goes on where
it was stopped; about 10 s of one core a set.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured import circumstances
from PIL import Image
from scan_confusion import Mixed, photographs, stored_images

from puretransforms.data.digits import load_digits
from puretransforms.data.samples import LabelledImages
from puretransforms.poisons import BPP, SIG, BadNets, Blend, Poison, WaNet
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.scanning.scan import scan

IMAGES, SEEDS, RATES = 2000, (10, 11, 12), (0.1, 0.03, 0.01)
POISONS: dict[str, Callable[[int], Poison]] = {
    "BadNets": lambda s: BadNets(num_classes=10, target=s % 10),
    "Blend": lambda s: Blend(num_classes=10, target=s % 10, seed=s),
    "BPP": lambda s: BPP(num_classes=10, target=s % 10, seed=s),
    "SIG": lambda s: SIG(num_classes=10, target=s % 10),
    "WaNet": lambda s: WaNet(num_classes=10, target=s % 10, seed=s),
}
TRIGGER, TRIGGERED_CLASS = "Narcissus (published trigger)", 2

Case = tuple[str, float, int, Callable[[], Any]]


def draw(data: LabelledImages, seed: int, images: int = IMAGES) -> LabelledImages:
    """``images`` of ``data``, or all if there are fewer."""
    rows = torch.from_numpy(np.random.RandomState(seed).permutation(len(data))[:images])
    return LabelledImages(data.images[rows], data.targets[rows])


def read(path: Path, images: str, labels: str) -> LabelledImages:
    """A dataset of an ``.npz`` file."""
    with np.load(path) as file:
        return LabelledImages(stored_images(file[images]), torch.from_numpy(file[labels].astype(np.int64)))


def of_classes(data: LabelledImages, seed: int, classes: int) -> LabelledImages:
    """A draw of all images of some classes, numbered anew."""
    chosen = torch.from_numpy(np.random.RandomState(seed).permutation(int(data.targets.max()) + 1)[:classes])
    rows = torch.isin(data.targets, chosen).nonzero()[:, 0]
    return draw(LabelledImages(data.images[rows], data.targets[rows].unique(return_inverse=True)[1]), seed)


def triggered(data: LabelledImages, trigger: torch.Tensor, rate: float, seed: int) -> Mixed:
    """``trigger`` added to a share of the images, all of one class."""
    out = Mixed(data.images, data.images, data.targets, 0)
    rows = (data.targets == TRIGGERED_CLASS).nonzero()[:, 0]
    out.mask[rows[torch.from_numpy(np.random.RandomState(seed).permutation(len(rows)))[: round(rate * len(data))]]] = (
        True
    )
    added = (data.images[out.mask].float() / 255 + trigger / 2).clamp(0, 1)
    out.images = data.images.clone()
    out.images[out.mask] = added.mul(255).round().to(torch.uint8)
    return out


def poisoned(name: str, data: LabelledImages, rate: float, seed: int) -> PoisonedDataset:
    """``rate`` of all images, of SIG at most all of its class."""
    poison = POISONS[name](seed)
    if name == "SIG":
        rate = min(rate, float((data.targets == poison.target).float().mean()))
    return PoisonedDataset(data, poison, rate=rate, seed=seed)


def other_data(args: argparse.Namespace, seed: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """``(what, make)`` of clean draws of CIFAR-100 and Tiny-ImageNet."""
    if args.cifar100:
        yield "clean: CIFAR-100", lambda: draw(read(args.cifar100, "x", "y"), seed, 6000)
        yield "clean: CIFAR-100, 20 classes", lambda: of_classes(read(args.cifar100, "x", "y"), seed, 20)
    if args.tiny:
        yield "clean: Tiny-ImageNet, 30 classes", lambda: of_folders(args.tiny, seed, 30)


def of_folders(root: Path, seed: int, classes: int) -> LabelledImages:
    """All images of some class folders."""
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    chosen = [folders[i] for i in np.random.RandomState(seed).permutation(len(folders))[:classes]]
    files = [(file, number) for number, folder in enumerate(chosen) for file in sorted(folder.rglob("*.JPEG"))]
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file, _ in files]
    return draw(LabelledImages(stored_images(np.stack(arrays)), torch.tensor([number for _, number in files])), seed)


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """``(what, rate, seed, make)`` of every set."""
    cifar10 = read(args.cifar10, "x_train", "y_train")
    for seed in SEEDS:
        for rate in RATES:
            for name in POISONS:
                yield name, rate, seed, lambda n=name, r=rate, s=seed: poisoned(n, draw(cifar10, 100 + s), r, s)
            if args.trigger:
                delta = torch.from_numpy(np.load(args.trigger, allow_pickle=False)).float()
                yield (
                    TRIGGER, rate, seed, lambda r=rate, s=seed, t=delta: triggered(draw(cifar10, 100 + s), t, r, s)
                )  # fmt: skip
        yield "clean: CIFAR-10", 0.0, seed, lambda s=seed: draw(cifar10, s)
        yield "clean: digits", 0.0, seed, lambda s=seed: load_digits(s)[0]
        for name, make in other_data(args, seed):
            yield name, 0.0, seed, make
        for side in (32, 64, 256) if args.natural and seed == SEEDS[0] else ():
            yield f"clean: photographs, {side} px", 0.0, seed, lambda side=side: photographs(args.natural, side)


def removed(data: Any) -> dict[str, Any]:
    """What is flagged, and what ``auto`` puts aside, rightly and wrongly."""
    start = time.process_time()
    mask = getattr(data, "mask", torch.zeros(len(data), dtype=torch.bool))
    carriers = set(mask.nonzero()[:, 0].tolist())
    result = scan(data, sample=None, progress=False, ebm=None)
    flagged = {result.sample.index[i] for i in result.flagged}
    aside = {result.sample.index[i] for i in result.carriers}
    return {
        "images": len(data),
        "carriers": len(carriers),
        "verdict": result.verdict.headline,
        "alarms": result.verdict.alarms,
        "flagged": len(flagged & carriers),
        "flagged wrongly": len(flagged - carriers),
        "put aside": len(aside & carriers),
        "put aside wrongly": len(aside - carriers),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def summary(sets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sets of one kind and rate together: shares of the carriers, and of the images that carry nothing."""
    out = []
    for poison, rate in dict.fromkeys((row["poison"], row["rate"]) for row in sets):
        rows = [row for row in sets if (row["poison"], row["rate"]) == (poison, rate)]
        carriers = sum(row["carriers"] for row in rows)
        others = sum(row["images"] for row in rows) - carriers
        entry: dict[str, Any] = {"poison": poison, "rate": rate, "sets": len(rows)}
        entry["sets with an alarm"] = sum(bool(row["alarms"]) for row in rows)
        for what in ("flagged", "put aside"):
            entry[what] = round(sum(row[what] for row in rows) / carriers, 4) if carriers else None
            entry[f"{what} wrongly"] = (
                round(sum(row[f"{what} wrongly"] for row in rows) / others, 5) if others else None
            )
            entry[f"{what} wrongly, worst set"] = max(
                round(row[f"{what} wrongly"] / max(row["images"] - row["carriers"], 1), 5) for row in rows
            )
        out.append(entry)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help=".npz with x_train, y_train")
    parser.add_argument("--trigger", type=Path, help=".npy with the published trigger, 1 x 3 x 32 x 32")
    parser.add_argument("--cifar100", type=Path, help=".npz with x, y")
    parser.add_argument("--tiny", type=Path, help="ImageFolder")
    parser.add_argument("--natural", type=Path, help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(args.out.read_text())["sets"] if args.out.exists() else []
    done = {(row["poison"], row["rate"], row["seed"]) for row in found}
    for name, rate, seed, make in cases(args):
        if (name, rate, seed) in done:
            continue
        found.append({"poison": name, "rate": rate, "seed": seed} | removed(make()))
        print(json.dumps(found[-1]), flush=True)
        content = circumstances() | {"torch": torch.__version__, "summary": summary(found), "sets": found}
        args.out.write_text(json.dumps(content, indent=1) + "\n")

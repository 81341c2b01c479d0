"""Does the scan find poisons, and leave clean data alone? The scores of many sets, one JSON line each.

    python experiments/scan_confusion.py --cifar10 cifar10/train --out scores.jsonl \
        [--originals FILE.npz --tap FILE.npz] [--natural FOLDER] [--shard 0/2]

Scans sets of 2,000 images drawn from CIFAR-10, clean and poisoned, and goes on where it was stopped. Sets marked "fit"
are drawn from one half of the images, sets marked "test" from the other half with other seeds of the poisons.
``scan_table.py`` fits the thresholds and draws up the table, in a second. About 5 s of one core a set.
"""

import argparse
import json
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad

from puretransforms.data.digits import load_digits
from puretransforms.data.samples import LabelledImages, gather
from puretransforms.poisons import (
    AR,
    BPP,
    CUDA,
    HUDA,
    LSP,
    OPS,
    SIG,
    VUDA,
    BadNets,
    Blend,
    ClasswiseNoise,
    Poison,
    PoisonedDataset,
    SamplewiseNoise,
    WaNet,
)
from puretransforms.poisons.availability.convolution import correlate
from puretransforms.scanning.detectors.base import Finding
from puretransforms.scanning.detectors.shortcut import FLAT
from puretransforms.scanning.scan import scan

SIZE = 2000
CLEAN_FIT, CLEAN_TEST = 20, 200


class ReflectedCUDA(CUDA):
    """CUDA that pads by reflection: the way around the edge detector."""

    def perturb(self, x: torch.Tensor, labels: torch.Tensor, noise: object) -> torch.Tensor:
        k = self.kernel_size // 2
        z = correlate(pad(x, (k,) * 4, mode="reflect"), self._table(self.kernels, x)[labels])[..., k:-k, k:-k]
        return z / z.flatten(1).amax(1)[:, None, None, None].clamp_min(1e-6)


class Mixed(LabelledImages):
    """Images of which a share is drawn from their poisoned versions; ``mask`` says which."""

    def __init__(
        self, clean: torch.Tensor, poisoned: torch.Tensor, labels: torch.Tensor, rate: float, seed: int = 0
    ) -> None:
        self.mask = torch.from_numpy(np.random.RandomState(seed).permutation(len(labels)) < rate * len(labels))
        super().__init__(torch.where(self.mask[:, None, None, None], poisoned, clean), labels)


POISONS: dict[str, Callable[[int], Poison]] = {
    "LSP": lambda s: LSP(seed=s),
    "OPS": lambda s: OPS(),
    "AR": lambda s: AR(seed=s),
    "CUDA": lambda s: CUDA(seed=s),
    "CUDA, reflected": lambda s: ReflectedCUDA(seed=s),
    "VUDA": lambda s: VUDA(seed=s),
    "HUDA": lambda s: HUDA(seed=s),
    "class-wise sign": lambda s: ClasswiseNoise(seed=s),
    "class-wise uniform": lambda s: ClasswiseNoise(kind="uniform", seed=s),
    "class-wise L2": lambda s: ClasswiseNoise(kind="l2", epsilon=0.5, seed=s),
    "SIG": lambda s: SIG(target=s % 10),
    "BadNets": lambda s: BadNets(target=s % 10),
    "BadNets, checkerboard": lambda s: BadNets(target=s % 10, pattern="checkerboard", margin=1),
    "Blend": lambda s: Blend(target=s % 10, seed=s),
    "BPP": lambda s: BPP(target=s % 10, seed=s),
    "WaNet": lambda s: WaNet(target=s % 10, seed=s),
    "sample-wise noise": lambda s: SamplewiseNoise(seed=s),
}
CONTROL = ("sample-wise noise",)  # harmless: tells no class
BACKDOORS = ("BadNets", "BadNets, checkerboard", "Blend", "BPP", "WaNet")
RATES = {1.0: 7, 0.5: 2, 0.1: 2, 0.01: 1}  # and how many seeds are tried
TAP = "TAP (published)"


def share(name: str, rate: float) -> float | None:
    """``rate``, or ``None`` where a poison cannot take so many: dirty-label backdoors cannot take all images."""
    most = {"WaNet": 1 / 3, "BPP": 0.5}.get(name, 0.9 if name in BACKDOORS else 1.0)
    return rate if rate <= most else None


def usual(name: str) -> float:
    """The rate at which a poison is fitted."""
    return 0.1 if name in BACKDOORS else 1.0


def sets(data: LabelledImages, args: argparse.Namespace) -> Iterator[tuple[dict, Callable[[], object]]]:
    """``(description, make)`` of every set, the most telling first; some come twice."""

    def draw(part: str, seed: int) -> LabelledImages:
        half = np.arange(len(data))[0 if part == "fit" else 1 :: 2]
        chosen = torch.from_numpy(np.random.RandomState(seed).permutation(half)[:SIZE])
        return LabelledImages(data.images[chosen], data.targets[chosen], data.classes)

    def poisoned(name: str, rate: float, part: str, seed: int) -> object:
        data, poison = draw(part, 5000 + seed), POISONS[name](seed)
        if name == "SIG":  # clean-label: the rate is that of the target class
            rate *= float((data.targets == poison.target).float().mean())
        return PoisonedDataset(data, poison, rate=rate, seed=seed)

    def clean(part: str, seed: int) -> tuple[dict, Callable[[], object]]:
        return {"poison": "clean", "rate": 0, "part": part, "seed": seed}, lambda: draw(part, seed)

    def one(name: str, rate: float, part: str, seed: int) -> tuple[dict, Callable[[], object]]:
        about = {"poison": name, "rate": rate, "part": part, "seed": seed}
        return about, lambda: poisoned(name, rate, part, seed)

    for seed in range(CLEAN_FIT // 2):
        yield clean("fit", seed)
    for name in POISONS:
        yield one(name, usual(name), "fit", 7)
    yield from others(args)
    for name in POISONS:
        yield one(name, next(rate for rate in RATES if share(name, rate)), "test", 100)
    for seed in range(CLEAN_TEST // 2):
        yield clean("test", seed)
    for rate, seeds in RATES.items():
        for seed in range(100, 100 + seeds):
            for name in POISONS:
                if share(name, rate) is not None:
                    yield one(name, rate, "test", seed)
        for seed in range(CLEAN_FIT):
            yield clean("fit", seed)
    for seed in range(CLEAN_TEST):
        yield clean("test", seed)


def others(args: argparse.Namespace) -> Iterator[tuple[dict, Callable[[], object]]]:
    """Clean data of other kinds, and the published TAP."""

    def about(poison: str, rate: float, seed: int = 0) -> dict:
        return {"poison": poison, "rate": rate, "part": "test", "seed": seed}

    for seed in (0, 1, 2):
        yield about("clean: digits", 0, seed), lambda seed=seed: load_digits(seed)[0]
    if args.natural:
        for side in (32, 64, 256):
            yield about(f"clean: photographs, {side} px", 0), lambda side=side: photographs(args.natural, side)
    if args.originals:
        with np.load(args.originals) as file:
            x, y = stored_images(file["x_train"]), torch.from_numpy(file["y_train"])
        yield about("clean: CIFAR-10 originals", 0), lambda: LabelledImages(x, y)
    if args.tap:
        with np.load(args.tap) as file:
            tap = stored_images(file["x"])
        for rate in RATES:
            yield about(TAP, rate), lambda rate=rate: Mixed(x, tap, y, rate)


def stored_images(array: np.ndarray) -> torch.Tensor:
    """``[N, H, W, C]`` to ``[N, C, H, W]``."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def photographs(folder: Path, side: int) -> LabelledImages:
    """All photographs of a folder at ``side`` pixels, in ten groups by sorted name (names sort by what they show)."""
    from PIL import Image

    files = sorted(folder.glob("*.jpg"))
    arrays = [np.asarray(Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BOX)) for file in files]
    return LabelledImages(stored_images(np.stack(arrays)), torch.arange(len(files)) * 10 // len(files))


def measure(args: argparse.Namespace) -> None:
    """Scan every set of this shard that is not in ``args.out`` yet."""
    done = set()
    if args.out.exists():
        done = {json.dumps(json.loads(line)["set"], sort_keys=True) for line in args.out.read_text().splitlines()}
    data = read(args.cifar10)
    with args.out.open("a") as out:
        part, parts = map(int, args.shard.split("/"))
        for about, make in sets(data, args):
            key = json.dumps(about, sort_keys=True)
            if key in done or zlib.crc32(key.encode()) % parts != part:
                continue
            done.add(key)
            started, cpu = time.perf_counter(), time.process_time()
            dataset = make()
            result = scan(dataset, sample=None, progress=False, ebm=None)
            row = {"set": about, "images": len(result.sample), "findings": [record(f) for f in result.findings]}
            row |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
            hits = suspects(result, dataset)
            out.write(json.dumps(row | hits) + "\n")
            out.flush()
            print(key, result.verdict.kind, result.verdict.alarms, hits, f"{row['cpu_seconds']:.1f} s", flush=True)


def read(path: Path) -> LabelledImages:
    """CIFAR-10 of a folder or a file."""
    if path.suffix != ".npz":
        return gather(str(path))
    with np.load(path) as file:
        return LabelledImages(stored_images(file["x_train"]), torch.from_numpy(file["y_train"]))


def record(f: Finding) -> dict:
    keys = ("name", "score", "error", "classes", "untested")
    out = {key: getattr(f, key) for key in keys}
    out["evidence"] = {k: v for k, v in f.evidence.items() if k == FLAT}
    return out


def suspects(result: object, dataset: object) -> dict:
    """Of the images that the alarms name, how many are poisoned; of the poisoned, how many are named."""
    mask = getattr(dataset, "mask", None)
    if mask is None:
        return {}
    named = {int(result.sample.names[i]) for f in result.findings for i in f.suspects}
    right = len(named & set(mask.nonzero()[:, 0].tolist()))
    return {"suspects": {"named": len(named), "right": right, "poisoned": int(mask.sum())}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="ImageFolder, or .npz with x_train, y_train")
    parser.add_argument("--originals", type=Path, help=".npz with the images x_train, y_train that TAP was made from")
    parser.add_argument("--tap", type=Path, help=".npz with x")
    parser.add_argument("--natural", type=Path, help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shard", default="0/1", help="of the work: 0/2, 1/2, ... run side by side")
    measure(parser.parse_args())

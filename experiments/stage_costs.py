"""What each stage of ``clean`` costs per image, on one core: the input of the cost model in docs/scaling.md.

Stages: ``list`` (listing, output names, configuration), ``read`` (read, hash, decode), ``purify`` (COIN in batches,
one thread), ``write`` (compare, encode, hash, stage), ``commit`` (flush, rename or pack, mark as done), ``conclude``
(manifest, without the report, whose cost does not grow). Three sources: CIFAR-10 as files, the same as tar shards,
and files of 224 x 224 pixels cut from scikit-learn's two photographs (JPEG, quality 90). Also what an image takes in
bytes: memory of the listing, input, output, manifest. Median microseconds over rounds, in which each source has a
turn.

    python experiments/stage_costs.py path/to/imagefolder --json stage-costs.json
"""

import argparse
import io
import os
import shutil
import statistics
import tarfile
import tempfile
import time
import tracemalloc
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from clean_throughput import first_files
from measured import write_json
from PIL import Image

from puretransforms.cleaning.finish import conclude
from puretransforms.cleaning.manifest import Layout, claim, describe
from puretransforms.cleaning.names import MANIFEST
from puretransforms.cleaning.packing import folders, plan, staging
from puretransforms.cleaning.steps import purify_batch, read, write
from puretransforms.data.open_source import open_source
from puretransforms.transforms.coin import COINInterpolate

BATCH, UNIT = 256, 1000


def as_shards(folder: Path, target: Path) -> str:
    """The files of ``folder`` in tar shards of ``UNIT`` samples; their pattern."""
    target.mkdir()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for start in range(0, len(files), UNIT):
        with tarfile.open(target / f"{start // UNIT:06d}.tar", "w") as shard:
            for i, path in enumerate(files[start : start + UNIT], start):
                for suffix, data in (("jpg", path.read_bytes()), ("cls", path.parent.name.encode())):
                    info = tarfile.TarInfo(f"{i:09d}.{suffix}")
                    info.size = len(data)
                    shard.addfile(info, io.BytesIO(data))
    return f"{target}/*.tar"


def photographs(target: Path, number: int) -> str:
    """``number`` squares of 224 pixels, cut at random from real photographs."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    photos = load_sample_images().images
    target.mkdir()
    for i in range(number):
        photo = photos[i % len(photos)]
        y, x = (random.integers(0, side - 224) for side in photo.shape[:2])
        Image.fromarray(photo[y : y + 224, x : x + 224]).save(target / f"{i:06d}.jpg", quality=90)
    return str(target)


def measure(images: str, out: Path) -> dict[str, float]:
    """Microseconds per image of each stage."""
    coin, seconds = COINInterpolate(seed=0), defaultdict(float)
    clock = time.perf_counter
    os.sync()
    start = clock()
    source = open_source(images)
    units = plan(source, UNIT)
    layout = Layout(out)
    claim(layout, describe(source, coin, 0, UNIT))
    seconds["list"] = clock() - start
    for name in folders(source):
        layout.store.make(name)
    for unit in units:
        stage = staging(source, layout, unit.number)
        stage.begin()
        start = clock()
        waiting = [read(source, stage, task, True) for task in unit.tasks]
        seconds["read"] += clock() - start
        finished = []
        for i in range(0, len(waiting), BATCH):
            batch = waiting[i : i + BATCH]
            start = clock()
            after = purify_batch(coin, [item.image for item in batch], torch.device("cpu"))
            middle = clock()
            finished += write(stage, batch, after)
            seconds["purify"] += middle - start
            seconds["write"] += clock() - middle
        start = clock()
        stage.commit(source, unit.tasks, sorted(finished, key=lambda done: done.place))
        seconds["commit"] += clock() - start
    start = clock()
    conclude(layout, len(units), source, report=False)
    seconds["conclude"] = clock() - start
    return {stage: 1e6 * value / len(source.entries) for stage, value in seconds.items()}


def sizes(images: str, out: Path) -> dict[str, int]:
    """Bytes per image: the listing in memory, the input, the output without its manifest, the manifest."""
    tracemalloc.start()
    source = open_source(images)
    kept = plan(source, UNIT)
    listing = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    number = sum(len(unit.tasks) for unit in kept)
    written = sum(path.stat().st_size for path in out.rglob("*") if path.suffix in (".png", ".tar"))
    given = Path(images).parent if images.endswith("*.tar") else Path(images)
    total = sum(path.stat().st_size for path in given.rglob("*") if path.is_file())
    parts = {"listing": listing, "input": total, "output": written, "manifest": (out / MANIFEST).stat().st_size}
    return {name: round(value / number) for name, value in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder to work in (default: beside the source)")
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    place = Path(tempfile.mkdtemp(prefix="stage-costs-", dir=args.out or args.source.resolve().parent))
    try:
        files = first_files(args.source, args.files, place / "source")
        sources = {
            "files, 32 px": str(place / "source"),
            "shards, 32 px": as_shards(place / "source", place / "shards"),
            "files, 224 px": photographs(place / "photos", args.photos),
        }
        rounds = defaultdict(list)
        for i in range(args.rounds):
            for name, images in sources.items():
                rounds[name].append(measure(images, place / f"{name} {i}"))
        result = {
            name: {
                "images": args.photos if "224" in name else files,
                "microseconds": {stage: round(statistics.median(r[stage] for r in some), 1) for stage in some[0]},
                "bytes": sizes(sources[name], place / f"{name} 0"),
                "each_round": some,
            }
            for name, some in rounds.items()
        }
    finally:
        shutil.rmtree(place)
    write_json({"rounds": args.rounds, "sources": result}, args.json)


if __name__ == "__main__":
    main()

"""What each stage of ``clean`` costs per image, on one core: the input of the cost model in docs/scaling.md.

Stages: ``list`` (listing, output names, configuration), ``read`` (read, hash, decode), ``purify`` (COIN in batches, one
thread), ``write`` (compare, encode, hash, write), ``commit`` (flush, rename, done-mark), ``conclude`` (manifest; the
report is left out). Also the memory of the listing and the bytes of a manifest row. Prints one JSON object: median
microseconds over rounds.

    python benchmarks/stage_costs.py path/to/imagefolder --files 4000 --rounds 3
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
import tracemalloc
from collections import defaultdict
from pathlib import Path

import torch
from clean_throughput import first_files

from puretransforms.cleaning.finish import conclude
from puretransforms.cleaning.manifest import Layout, claim, describe
from puretransforms.cleaning.names import MANIFEST
from puretransforms.cleaning.packing import folders, plan, staging
from puretransforms.cleaning.steps import purify_batch, read, write
from puretransforms.data.open import open_source
from puretransforms.transforms.coin import COINInterpolate

BATCH = 256


def measure(folder: Path, out: Path) -> tuple[dict[str, float], int]:
    """Seconds of each stage, and the number of files."""
    coin, seconds = COINInterpolate(seed=0), defaultdict(float)
    clock = time.perf_counter
    start = clock()
    source = open_source(str(folder))
    units = plan(source, 1000)
    layout = Layout(out)
    claim(layout, describe(source, coin, 0, 1000))
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
    return dict(seconds), len(source.entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder to work in (default: beside the source)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(prefix="stage-costs-", dir=args.out or args.source.resolve().parent))
    try:
        files = first_files(args.source, args.files, place / "source")
        rounds = []
        for i in range(args.rounds):
            seconds, number = measure(place / "source", place / str(i))
            rounds.append({stage: 1e6 * value / number for stage, value in seconds.items()})
        row_bytes = (place / "0" / MANIFEST).stat().st_size / files
        out_bytes = sum(path.stat().st_size for path in (place / "0").rglob("*.png")) / files
        tracemalloc.start()
        kept = plan(open_source(str(place / "source")), 1000)
        listing_bytes = tracemalloc.get_traced_memory()[0] / files
        del kept
    finally:
        shutil.rmtree(place)
    medians = {stage: round(statistics.median(some[stage] for some in rounds), 1) for stage in rounds[0]}
    result = {"files": files, "rounds": args.rounds, "microseconds_per_image": medians, "each_round": rounds}
    sizes = {"listing": round(listing_bytes), "manifest_row": round(row_bytes), "png": round(out_bytes)}
    print(json.dumps(result | {"bytes_per_image": sizes}))


if __name__ == "__main__":
    main()

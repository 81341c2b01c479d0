"""``clean`` killed ten times with SIGKILL at random moments, then finished, against a run that nobody disturbed.

The same files are also cleaned with batch sizes 1, 7 and 256, and by three ranks at once. Every output folder must be
byte-identical to the undisturbed one, its manifest complete, and no file in it twice. Prints one JSON object; the exit
status is 1 if anything differs.

    python experiments/clean_kill.py path/to/imagefolder --files 10000 --kills 10
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from clean_throughput import first_files

from puretransforms.cleaning.clean import clean
from puretransforms.transforms.coin import COINInterpolate


def start(source: Path, out: Path, **options: int) -> int:
    """Clean in a child process; returns its id. (Nothing in this process may use torch before: it forks.)"""
    child = os.fork()
    if child == 0:
        clean(source, out, COINInterpolate(), progress=False, unit_size=200, **options)
        os._exit(0)
    return child


def finish(*children: int) -> None:
    """Wait for children; all must succeed."""
    for child in children:
        if os.waitpid(child, 0)[1] != 0:
            raise SystemExit(f"child {child} failed")


def kill_and_finish(source: Path, out: Path, kills: int, seconds: float, seed: int) -> list[int]:
    """Kill a run of about ``seconds`` again and again, then let it end; the done units after each kill."""
    moments, done = random.Random(seed), []
    while len(done) < kills:
        child = start(source, out)
        time.sleep(moments.uniform(0.05, 2 / kills) * seconds)
        os.kill(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            break
        done.append(len(list((out / ".puretransforms/units").glob("*.jsonl"))))
    finish(start(source, out))
    return done


def digest(out: Path) -> str:
    """One sha256 over the names and the bytes of every file below ``out``."""
    total = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        total.update(os.fsencode(path.relative_to(out)) + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="decides the moments")
    parser.add_argument("--out", type=Path, help="folder to work in (default: beside the source)")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="clean-kill-", dir=args.out or args.source.resolve().parent))
    try:
        source, whole = place / "source", place / "whole"
        files = first_files(args.source, args.files, source)
        began = time.perf_counter()
        finish(start(source, whole))
        seconds = time.perf_counter() - began
        done = kill_and_finish(source, place / "killed", args.kills, seconds, args.seed)
        for size in (1, 7, 256):
            finish(start(source, place / f"batch size {size}", batch_size=size))
        finish(*(start(source, place / "3 ranks", rank=rank, world_size=3) for rank in range(3)))
        expected = digest(whole)
        outs = sorted(path for path in place.iterdir() if path not in (source, whole))
        identical = {path.name: digest(path) == expected for path in outs}
        rows = [json.loads(line)["path"] for line in (place / "killed/manifest.jsonl").open()]
        listed = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(place)
    result = {"files": files, "seed": args.seed, "units_done_at_each_kill": done, "identical": identical}
    print(json.dumps(result | {"manifest_complete": rows == listed, "sha256": expected}))
    return 0 if all(identical.values()) and rows == listed and len(done) == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())

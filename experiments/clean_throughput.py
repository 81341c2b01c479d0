"""``clean`` against a bare loop that only decodes and re-encodes the same files with the same number of threads.

Both run alternately, each in a process of its own, and both write PNG at zlib level 1. ``clean`` includes everything:
listing, COIN, two sha256 of each file, durable writes, manifest and report. Prints a table and one JSON object with
the medians in files per second, their ratio, and the peak memory: the resident set of a process and the private
pages of its workers, read from Linux four times a second.

    python experiments/clean_throughput.py path/to/imagefolder --files 50000 --pairs 3
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def bare(source: Path, out: Path, workers: int) -> None:
    """Decode and re-encode every file."""
    from PIL import Image

    jobs = []
    for folder, _, names in os.walk(source):
        target = out / Path(folder).relative_to(source)
        target.mkdir(parents=True)
        jobs += [(f"{folder}/{name}", f"{target}/{os.path.splitext(name)[0]}.png") for name in names]  # noqa: PTH122

    def convert(some: list[tuple[str, str]]) -> None:
        for path, result in some:
            with Image.open(path) as image:
                image.save(result, compress_level=1)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(convert, [jobs[i : i + 32] for i in range(0, len(jobs), 32)]))


def clean_with_coin(source: Path, out: Path, workers: int) -> None:
    """The real thing."""
    from puretransforms.cleaning.clean import clean
    from puretransforms.transforms.coin import COINInterpolate

    clean(source, out, COINInterpolate(), workers=workers, progress=False)


KINDS = {"bare": bare, "clean": clean_with_coin}


def child(kind: str, source: Path, out: Path, workers: int) -> None:
    """One measured run; imports are not timed."""
    import puretransforms.cleaning.clean
    import puretransforms.transforms.coin  # noqa: F401

    imports, before, start = memory_mib(os.getpid()), os.times(), time.perf_counter()
    KINDS[kind](source, out, workers)
    seconds, after = time.perf_counter() - start, os.times()
    cpu = {
        "user": after.user + after.children_user - before.user - before.children_user,
        "sys": after.system + after.children_system - before.system - before.children_system,
    }
    print(json.dumps({"seconds": seconds, "imports_mib": imports} | cpu))


def measure(kind: str, source: Path, out: Path, workers: int) -> dict[str, float]:
    """Run :func:`child` in a process of its own."""
    command = [sys.executable, __file__, str(source), "--child", kind, "--out", str(out), "--workers", str(workers)]
    peak = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, memory_mib(process.pid))
            time.sleep(0.25)
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{kind} failed")
    return json.loads(printed.splitlines()[-1]) | {"peak_mib": peak}


def memory_mib(pid: int) -> float:
    """Resident set of a process and the private pages of its children; 0 if it has just ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {child for task in tasks for child in (task / "children").read_text().split()}
        mine, others = pages(pid), [pages(child) for child in children]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (mine["Rss"] + sum(other["Private_Clean"] + other["Private_Dirty"] for other in others)) / 1024


def pages(pid: int | str) -> dict[str, int]:
    """KiB by kind."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def first_files(source: Path, number: int, target: Path) -> int:
    """Copy ``number`` files of ``source``, spread evenly over it, into ``target``."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    number = min(number, len(files))
    for path in (files[i * len(files) // number] for i in range(number)):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    os.sync()
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="folder to work in (default: beside the source)")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.source, args.out, args.workers)
    place = Path(tempfile.mkdtemp(prefix="clean-throughput-", dir=args.out or args.source.resolve().parent))
    try:
        files = first_files(args.source, args.files, place / "source")
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for pair in range(args.pairs):  # nothing is deleted in between: ext4 is slow to reuse fresh inodes
            for kind in KINDS:
                runs[kind].append(measure(kind, place / "source", place / f"{kind}{pair}", args.workers))
                print(f"{kind:6} {files / runs[kind][-1]['seconds']:8.0f} files/s", file=sys.stderr)
    finally:
        shutil.rmtree(place)
    medians = {
        kind: {key: statistics.median(run[key] for run in some) for key in some[0]} for kind, some in runs.items()
    }
    speed = {kind: files / medians[kind]["seconds"] for kind in KINDS}
    ratios = [b["seconds"] / c["seconds"] for b, c in zip(runs["bare"], runs["clean"], strict=True)]
    print(f"{'':6}{'files/s':>10}{'user us':>10}{'sys us':>10}{'peak MiB':>10}{'imports MiB':>13}")
    for kind, m in medians.items():
        user, system = (m[key] / files * 1e6 for key in ("user", "sys"))
        print(f"{kind:6}{speed[kind]:10.0f}{user:10.0f}{system:10.0f}{m['peak_mib']:10.0f}{m['imports_mib']:13.0f}")
    result = {"files": files, "workers": args.workers, "files_per_second": speed, "ratio": statistics.median(ratios)}
    print(json.dumps(result | {"ratios": ratios, "peak_mib": {kind: m["peak_mib"] for kind, m in medians.items()}}))
    return None


if __name__ == "__main__":
    main()

"""``clean`` on every engine: bytes after kills, and files per second.

``kill``: two Ray actors clean the files while first the driver and then an actor is killed with SIGKILL; each is run
again (Ray replaces a dead actor by itself). Every output must be byte-identical to that of the local engine.
``speed``: bound to one core, a plain loop (decode, purify in batches of 256, encode: no hashes, no manifest, nothing
durable) and the local engine; on two cores the local engine, two ranks on a core each, and two Ray actors; in turn, for
some rounds. Each runs in a process of its own, and imports are not timed. ``start``: seconds to start Ray;
``first_file``: from the call until the first file is written, which for Ray is mostly the start of its actors.

    python experiments/engines.py kill path/to/imagefolder --files 3000 --unit-size 100
    python experiments/engines.py speed path/to/imagefolder --files 6000 --unit-size 250 --json engines-speed.json
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clean_kill import digest
from clean_throughput import first_files
from measured import write_json

KINDS = ["plain", "local-1", "local-2", "ranks-2", "ray"]
CORE = {"plain": 0, "local-1": 0, "rank-0": 0, "rank-1": 1}  # the others may use all


def plain(source: Path, out: Path) -> None:
    """What one would write by hand: no hashes, no manifest, no resume."""
    import numpy as np
    import torch
    from PIL import Image

    from puretransforms.transforms.coin import COINInterpolate

    coin = COINInterpolate(seed=0)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for i in range(0, len(files), 256):
        some = files[i : i + 256]
        pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in some])
        with torch.no_grad():
            purified = coin(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
        for path, image in zip(some, purified.permute(0, 2, 3, 1).numpy(), strict=True):
            target = (out / path.relative_to(source)).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(image)).save(target, compress_level=1)


def child(kind: str, source: Path, out: Path, unit_size: int) -> None:
    """One run; prints its seconds, those until the first file was there, and those that Ray took to start."""
    from puretransforms.cleaning.clean import clean
    from puretransforms.transforms.coin import COINInterpolate

    if kind in CORE:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[CORE[kind] % len(cores)]})
    start = begun = time.time()
    if kind == "plain":
        plain(source, out)
    else:
        if kind == "ray":
            import ray

            ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
            begun = time.time()
        options = {"ray": {"engine": "ray", "actors": 2}, "local-1": {"workers": 1}, "local-2": {"workers": 2}}
        rank = {"rank": int(kind[-1]), "world_size": 2, "workers": 1} if kind.startswith("rank") else {}
        clean(source, out, COINInterpolate(), unit_size=unit_size, progress=False, **options.get(kind, rank))
    end = time.time()
    first = min(path.stat().st_mtime for path in out.rglob("*.png")) - begun
    print(json.dumps({"seconds": end - begun, "first_file": first, "start": begun - start}))


def spawn(kind: str, source: Path, out: Path, unit_size: int) -> subprocess.Popen:
    """:func:`child` in a new process."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        kind,
        str(source),
        "--out",
        str(out),
        "--unit-size",
        str(unit_size),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish(process: subprocess.Popen) -> dict[str, float]:
    """What :func:`child` printed."""
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args} failed")
    return json.loads(text.splitlines()[-1])


def marks(out: Path) -> int:
    """Units done so far."""
    return len(list((out / ".puretransforms/units").glob("*.jsonl")))


def wait_for_marks(out: Path, number: int, process: subprocess.Popen) -> int:
    """Wait until so many units are done; how many are."""
    while process.poll() is None and marks(out) < number:
        time.sleep(0.02)
    return marks(out)


def actors() -> list[int]:
    """The processes of Ray's actors."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"UnitCleaner" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def kill(source: Path, place: Path, files: int, unit_size: int) -> dict:
    """The driver killed, an actor killed, against the local engine."""
    finish(spawn("local-2", source, place / "local", unit_size))
    expected = digest(place / "local")
    units = -(-files // unit_size)

    out = place / "driver killed"
    process = spawn("ray", source, out, unit_size)
    at_kill = wait_for_marks(out, max(1, units // 4), process)
    process.kill()
    process.communicate()
    time.sleep(3)
    after = marks(out)
    again = finish(spawn("ray", source, out, unit_size))
    result = {
        "driver": {"units": units, "done_at_kill": at_kill, "done_after": after, "again_seconds": again["seconds"]}
    }
    result["driver"]["identical"] = digest(out) == expected and after < units

    out = place / "actor killed"
    process = spawn("ray", source, out, unit_size)
    at_kill = wait_for_marks(out, max(1, units // 4), process)
    victims = actors()
    os.kill(victims[0], signal.SIGKILL)
    finish(process)
    result["actor"] = {
        "units": units,
        "done_at_kill": at_kill,
        "actors": len(victims),
        "identical": digest(out) == expected,
    }
    return result


def speed(source: Path, place: Path, files: int, unit_size: int, kinds: list[str], rounds: int) -> dict:
    """Files per second of each kind: the median over rounds, in which each kind runs once."""
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for i in range(rounds):
        for kind in kinds:
            parts = [f"rank-{rank}" for rank in range(2)] if kind == "ranks-2" else [kind]
            processes = [spawn(part, source, place / f"{kind}-{i}", unit_size) for part in parts]
            measured = [finish(process) for process in processes]
            runs[kind].append(max(measured, key=lambda run: run["seconds"]))
            print(kind, runs[kind][-1], file=sys.stderr)
    result = {}
    for kind, some in runs.items():
        seconds, first = (statistics.median(run[key] for run in some) for key in ("seconds", "first_file"))
        result[kind] = {"files_per_second": files / seconds, "after_the_first": files / (seconds - first), "runs": some}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what")
    parser.add_argument("source", type=Path)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--unit-size", type=int, default=1000)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--out", type=Path, help="folder to work in (default: beside the source)")
    args = parser.parse_args()
    if args.what not in ("kill", "speed"):
        return child(args.what, args.source, args.out, args.unit_size)
    place = Path(tempfile.mkdtemp(prefix="engines-", dir=args.out or args.source.resolve().parent))
    try:
        files = first_files(args.source, args.files, place / "source")
        if args.what == "kill":
            result = kill(place / "source", place, files, args.unit_size)
        else:
            result = speed(place / "source", place, files, args.unit_size, args.kinds, args.rounds)
    finally:
        shutil.rmtree(place)
    write_json({"files": files, "unit_size": args.unit_size} | result, args.json)
    return None


if __name__ == "__main__":
    main()

"""How long a scan takes, and how much memory: of every image of a folder, and of a draw of 5,000.

    python experiments/scan_speed.py cifar10/train --out docs/results/scan-speed.json

Each in a process of its own (peak resident memory and CPU seconds are the process's, with torch loaded). About a minute
for the 50,000 files of CIFAR-10 on two cores.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

CASES = {"every image": None, "a draw of 5,000": 5000}


def measure(folder: Path, sample: int | None) -> dict:
    """Scan ``folder`` here and now."""
    import torch

    from puretransforms.scanning.scan import scan

    started = time.perf_counter()
    result = scan(folder, sample=sample, progress=False)
    return {
        "images": len(result.sample),
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "verdict": result.verdict.kind,
        "alarms": result.verdict.alarms,
        "scores": {f.name: {"score": round(f.score, 5), "low": round(f.low, 5)} for f in result.findings},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", choices=CASES, help="one of them, in this process")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.folder, CASES[args.case])))
    else:
        rows = {}
        for name in CASES:
            command = [sys.executable, __file__, str(args.folder), "--case", name]
            rows[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(name, rows[name], flush=True)
        about = {"date": date.today().isoformat(), "machine": platform.machine(), "python": platform.python_version()}
        if args.out:
            args.out.write_text(json.dumps({"about": about, "scans": rows}, indent=1) + "\n")

"""What every result file says beside its numbers: the command, the date, the hardware."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def write_json(result: dict[str, Any], path: Path | None) -> None:
    """Print ``result``; with a ``path``, write it there too, with the circumstances of the measurement."""
    text = json.dumps(result, indent=1)
    print(text)
    if path is not None:
        path.write_text(json.dumps(circumstances() | result, indent=1) + "\n")


def circumstances() -> dict[str, str]:
    """The command that runs, the date and the hardware."""
    return {
        "command": " ".join(["python", f"experiments/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}, no GPU used",
    }


def cpu_name() -> str:
    """As the system calls it, with the widest vectors that it has."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"

"""What every result file says beside its numbers: the command, the date, the hardware."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def write_json(result: dict[str, Any], path: Path | None) -> None:
    """Print ``result``; with a ``path``, write it there too, with the circumstances of the measurement."""
    text = json.dumps(result, indent=1)
    print(text)
    if path is not None:
        about = {
            "command": " ".join(["python", f"experiments/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "hardware": f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}, no GPU used",
        }
        path.write_text(json.dumps(about | result, indent=1) + "\n")

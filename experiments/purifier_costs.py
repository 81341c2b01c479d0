"""What each purifier costs: processor seconds of one core for 50,000 images in memory, at 32 and at 224 pixels.

Processor time, not wall time, so that other work on the machine distorts it less. Reading and writing files comes on
top (docs/results/stage-costs.json). About two minutes.

    python experiments/purifier_costs.py --out docs/results/purifier-costs.json
"""

import argparse
import datetime
import json
import platform
import time
import warnings
from pathlib import Path
from statistics import median

import torch

import puretransforms as pt
from puretransforms.functional.devices import working_dtype

SPECS = ["coin", "jpeg", "grayscale", "bitdepth", "gaussian", "median", "projection", "unet", "vae", "ebm"]
SMALL_ONLY = {"ebm", "vae", "projection"}  # weights for sides up to 64; a fit to images of 32 pixels
ROUNDS, IMAGES = 3, 50_000


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line for line in lines if line.startswith("flags")), "")
    return f"{name}; AMX {'yes' if 'amx_bf16' in flags else 'no'}, AVX-512 {'yes' if 'avx512f' in flags else 'no'}"


def made(spec: str) -> pt.PureTransform:
    purify = pt.create(spec, "purifier")
    if spec == "projection":
        images = torch.randint(0, 256, (400, 3, 32, 32), dtype=torch.uint8)
        purify.fit((images, torch.arange(400) % 10))
    return purify


def seconds(spec: str, size: int, batch: int) -> float:
    """Of one core for ``IMAGES`` images, the median of the rounds after one that warms up."""
    purify = made(spec)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    purify(images)
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        purify(images)
        rounds.append((time.process_time() - start) / batch * IMAGES)
    return median(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    found = {}
    for spec in SPECS:
        found[spec] = {"32 px": seconds(spec, 32, 32 if spec == "ebm" else 256)}
        if spec not in SMALL_ONLY:
            found[spec]["224 px"] = seconds(spec, 224, 16)
        print(spec, {size: round(value, 2) for size, value in found[spec].items()}, flush=True)
    record = {
        "command": "python experiments/purifier_costs.py --out docs/results/purifier-costs.json",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"one core of: {cpu()}; other work ran on the machine",
        "precision of networks": str(working_dtype("auto", "cpu")).removeprefix("torch."),
        "torch": torch.__version__,
        "rounds": ROUNDS,
        "processor_seconds_for_50000_images": {
            spec: {size: round(value, 2) for size, value in row.items()} for spec, row in found.items()
        },
    }
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

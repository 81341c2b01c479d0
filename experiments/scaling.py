"""From measured stage costs to the cost of any number of images: the tables of docs/scaling.md and docs/pipelines.md.

Without arguments the tables are written anew from the result files. With a folder of images everything is measured
first, which takes about three minutes and wants a quiet machine.

    python experiments/scaling.py path/to/imagefolder
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/results"
CORES_PER_GPU, GPUS_PER_NODE, PER_CALL = 16, 8, 10_000_000  # assumed; the last is advice: images in one call
NETWORK = 1000  # images per second that one GPU purifies: assumed, for a network with a long chain
SERIAL, CODEC = ("list", "conclude"), ("read", "write", "commit")
STAGES = ("list", "read", "purify", "write", "commit", "conclude")
AMOUNTS = {"1 million": 10**6, "100 million": 10**8, "10,000 million": 10**10}
GPUS = (1, 8, 64, 512)

Costs = dict[str, float]


def seconds_on_cores(costs: Costs, images: float, cores: int) -> float:
    """One call on the cores of one machine, purifying there too; ``costs`` in microseconds per image."""
    serial, parallel = _sum(costs, SERIAL), _sum(costs, (*CODEC, "purify"))
    return images * (serial + parallel / cores) / 1e6


def seconds_on_gpus(costs: Costs, images: float, gpus: int, rate: float) -> float:
    """Nodes side by side, calls of :data:`PER_CALL` images one after another on each, a rank for each GPU.

    ``rate``: images per second that one GPU purifies. The slower of codecs and GPU decides; listing and manifest of a
    call are the work of one core.
    """
    nodes = -(-gpus // GPUS_PER_NODE)
    codec = _sum(costs, CODEC) / 1e6 / CORES_PER_GPU
    return images / nodes * _sum(costs, SERIAL) / 1e6 + images / gpus * max(codec, 1 / rate)


def break_even(costs: Costs) -> float:
    """Images per second of one GPU from which on its codec cores are the bottleneck."""
    return CORES_PER_GPU / _sum(costs, CODEC) * 1e6


def _sum(costs: Costs, stages: tuple[str, ...]) -> float:
    return sum(costs[stage] for stage in stages)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(size: float) -> str:
    for power, unit in ((15, "PB"), (12, "TB"), (9, "GB")):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size / 10**6:.3g} MB"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def stage_table(stages: dict) -> str:
    """Microseconds and bytes per image."""
    rows = []
    for name, source in stages["sources"].items():
        costs, size = source["microseconds"], source["bytes"]
        total = _sum(costs, STAGES)
        times = [f"{costs[stage]:,.0f}" for stage in STAGES]
        rows.append([name, *times, f"{total:,.0f}", *(f"{size[key]:,}" for key in ("input", "output", "listing"))])
    head = ["source", *STAGES, "sum", "bytes in", "bytes out", "listing, bytes"]
    return _table(head, rows)


def engine_table(engines: dict) -> str:
    """Files per second, and as a multiple of the plain loop and of the local engine on the same cores."""
    names = {
        "plain": ("1", "plain loop"),
        "local-1": ("1", '`engine="local"`'),
        "local-2": ("2", '`engine="local"`'),
        "ranks-2": ("2", "two ranks, a core each"),
        "ray": ("2", '`engine="ray"`, two actors'),
    }
    rows = []
    for kind, (cores, name) in names.items():
        rates = [engines[kind][key] for key in ("files_per_second", "after_the_first")]
        shares = [rates[1] / engines[other]["after_the_first"] for other in ("plain", f"local-{cores}")]
        rows.append([cores, name, *(f"{rate:,.0f}" for rate in rates), *(f"{share:.2f}" for share in shares)])
    head = ["cores", "engine", "files/s", "files/s after the first file", "of the plain loop", "of the local engine"]
    return _table(head, rows)


def check_table(stages: dict, engines: dict) -> str:
    """Predicted against measured files per second, both after the listing."""
    costs, rows = stages["sources"]["files, 32 px"]["microseconds"] | {"list": 0}, []
    for cores, kind in ((1, "local-1"), (2, "ranks-2"), (2, "local-2")):
        predicted, measured = 1 / seconds_on_cores(costs, 1, cores), engines[kind]["after_the_first"]
        rows.append([kind, f"{predicted:,.0f}", f"{measured:,.0f}", f"{measured / predicted:.2f}"])
    return _table(["run", "predicted files/s", "measured", "measured / predicted"], rows)


def prediction_table(stages: dict) -> str:
    """Wall time and size, by source, number of images and number of GPUs."""
    rows = []
    for name in ("shards, 32 px", "files, 224 px"):
        source = stages["sources"][name]
        costs = source["microseconds"]
        for amount, images in AMOUNTS.items():
            cores = _sum(costs, STAGES) * images / 3.6e9
            slow = [_duration(seconds_on_gpus(costs, images, gpus, NETWORK)) for gpus in GPUS]
            fast = [_duration(seconds_on_gpus(costs, images, gpus, float("inf"))) for gpus in GPUS]
            times = [f"{a} / {b}" for a, b in zip(slow, fast, strict=True)]
            rows.append([name, amount, f"{cores:,.1f}", *times, _bytes(source["bytes"]["output"] * images)])
    return _table(
        ["source", "images", "core hours with COIN", *(f"{n} GPU{'s'[: n > 1]}" for n in GPUS), "output"], rows
    )


def limit_table(stages: dict) -> str:
    """What one call is bound by."""
    rows = []
    for name, source in stages["sources"].items():
        memory, serial = source["bytes"]["listing"] * PER_CALL, _sum(source["microseconds"], SERIAL) * PER_CALL / 1e6
        rows.append([name, f"{break_even(source['microseconds']):,.0f}", _bytes(memory), _duration(serial)])
    return _table(["source", "GPU images/s to saturate 16 cores", "listing in memory", "listing and manifest"], rows)


def place_table(places: dict) -> str:
    """Microseconds per image by place."""
    cost = places["microseconds_per_image"]
    names = {
        "image, tensor": "a tensor at a time: `Dataset` transform",
        "image, PIL": "a PIL image at a time: `with_transform`",
        "batch, uint8": "a uint8 batch: `collate_fn`, timm, `Trainer`, `GPUTransformLoader` on a CPU",
        "batch, float": "a float batch: Lightning",
        "kornia, added": "a float batch inside kornia's container",
    }
    rows = [[text, *(f"{cost[size][name]:,.0f}" for size in cost)] for name, text in names.items()]
    return _table(["COIN is given", *(f"µs per image, {size}" for size in cost)], rows)


def tables() -> dict[str, dict[str, str]]:
    """``{page: {name: table}}`` from the result files."""
    stages, engines, places = (
        json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("stage-costs", "engines-speed", "pipeline-costs")
    )
    return {
        "scaling.md": {
            "stages": stage_table(stages),
            "engines": engine_table(engines),
            "check": check_table(stages, engines),
            "prediction": prediction_table(stages),
            "limits": limit_table(stages),
        },
        "pipelines.md": {"places": place_table(places)},
    }


def written(text: str, filled: dict[str, str]) -> str:
    """``text`` with each table between its two comments."""
    for name, table in filled.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        text, found = pattern.subn(lambda match, table=table: f"{match[1]}\n{table}\n\n{match[2]}", text)
        if found != 1:
            raise SystemExit(f"expected one place for the table {name}, found {found}")
    return text


def main() -> None:
    for folder in sys.argv[1:2]:
        here = Path(__file__).parent
        engines = [str(here / "engines.py"), "speed", folder, "--files", "5000", "--unit-size", "250", "--rounds", "2"]
        for command, name in (
            (engines, "engines-speed"),
            ([str(here / "stage_costs.py"), folder], "stage-costs"),
            ([str(here / "pipeline_costs.py")], "pipeline-costs"),
        ):
            subprocess.run([sys.executable, *command, "--json", os.path.relpath(RESULTS / f"{name}.json")], check=True)
    for page, filled in tables().items():
        path = ROOT / "docs" / page
        path.write_text(written(path.read_text(), filled))


if __name__ == "__main__":
    main()

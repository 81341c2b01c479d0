"""How long each training-free poison takes for a data set of 50,000 images of 32 x 32 pixels, on two threads.

Fitting and the search for coefficients are part of the time; decoding and writing files are not. The goal is ten
seconds for each poison and a minute for AR. Wall time is the best of ``--rounds`` (others may use the machine), CPU
time that of the same round. Prints a Markdown table and writes one JSON object; with ``--only`` the rows of an earlier
``--out`` that are not measured again stay.

    python experiments/poison_speed.py --out docs/results/poison-speed.json
    python experiments/poison_speed.py --out docs/results/poison-speed.json --only AR LSP
    python experiments/poison_speed.py --npz cifar10.npz     # x_train uint8 [N, H, W, 3], y_train [N]
"""

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from puretransforms import poisons
from puretransforms.functional.perturbation import magnitude
from puretransforms.poisons import Poison

BATCH = 1000
GOAL_S = {"AR": 60.0}
CASES = (
    ("AR", {}),
    ("BPP", {}),
    ("BPP", {"dither": True}),
    ("BadNets", {}),
    ("Blend", {}),
    ("CUDA", {}),
    ("ClasswiseNoise", {}),
    ("HUDA", {}),
    ("LSP", {}),
    ("OPS", {}),
    ("SIG", {}),
    ("SamplewiseNoise", {}),
    ("VUDA", {}),
    ("WaNet", {}),
)


def poison_all(poison: Poison, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Fit where needed, then poison everything in order; the perturbation size (L2) of the eligible images."""
    parts = [slice(i, i + BATCH) for i in range(0, len(x), BATCH)]
    if not poison.fitted:
        poison.fit((x, y))
    index = torch.arange(len(x))
    for part in parts:
        out, _ = poison(x[part], y[part], index[part])
    last = parts[-1]
    chosen = poison.eligible(y[last])
    return magnitude((out[chosen].float() - x[last][chosen].float()) / 255, "l2")


def measure(name: str, options: dict, x: torch.Tensor, y: torch.Tensor, rounds: int) -> dict:
    """Time one poison; a new one each round, so that nothing is cached."""
    timed = []
    for _ in range(rounds):
        poison = getattr(poisons, name)(**options)
        wall, cpu = time.perf_counter(), time.process_time()
        size = poison_all(poison, x, y)
        timed.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = min(timed)
    goal = GOAL_S.get(name, 10.0) * len(x) / 50_000
    return {
        "poison": name + "".join(f" {key}={value}" for key, value in options.items()),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "images_per_s": round(len(x) / wall),
        "l2_mean": round(size.mean().item(), 3),
        "goal_s": goal,
        "met": wall <= goal,
    }


def load(npz: Path | None, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 ``[N, 3, H, W]`` and labels, of an archive or at random."""
    if npz is None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return x, torch.arange(count) % 10
    with np.load(npz) as archive:
        x = torch.from_numpy(archive["x_train"][:count]).permute(0, 3, 1, 2).contiguous()
        return x, torch.from_numpy(archive["y_train"][:count]).long()


def merged(earlier: dict, result: dict) -> list[dict]:
    """The rows of both, the later measurement where there are two; both of the same images and threads."""
    for name in ("images", "data", "threads"):
        if earlier[name] != result[name]:
            raise SystemExit(f"expected {name} {result[name]} in the earlier file, got {earlier[name]}: name another.")
    rows = {row["poison"]: row for row in earlier["rows"]} | {row["poison"]: row for row in result["rows"]}
    return sorted(rows.values(), key=lambda row: row["poison"])


def main(arguments: list[str] | None = None) -> dict:
    """Run everything; returns what is written to ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=sorted({name for name, _ in CASES}), help="measure these alone")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    x, y = load(options.npz, options.count)
    rows = []
    print("| poison | wall s | CPU s | images/s | mean L2 | goal s |\n|---|---|---|---|---|---|")
    for name, arguments_of in CASES:
        if options.only and name not in options.only:
            continue
        row = measure(name, arguments_of, x, y, options.rounds)
        rows.append(row)
        cells = (row["wall_s"], row["cpu_s"], row["images_per_s"], row["l2_mean"], row["goal_s"])
        print(f"| {row['poison']} | {' | '.join(map(str, cells))} |", flush=True)
    result = {
        "date": date.today().isoformat(),
        "images": list(x.shape),
        "data": options.npz.name if options.npz else "random",
        "threads": options.threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
    }
    if options.out:
        if options.only and options.out.exists():
            result["rows"] = merged(json.loads(options.out.read_text()), result)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()

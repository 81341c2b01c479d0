"""Speed of EBMPurify beside the plain loop on the same network, in image-steps per second. Minutes, mostly compiling.

The plain loop is the usual one: float32, NCHW, pooling as published, parameters requiring gradients, ``torch.randn``.
EBMPurify runs as users call it, everything included (range maps, folding, noise keyed by sample). Every round times
each contender once, one after the other, so that all meet the same state of the machine; a ratio is the median over
rounds of the ratio within a round. ``peak_share`` is the FLOP/s that a contender reaches over those of a 2048-cubed
bfloat16 matrix product in the same round. The cost of purifying inside a training loop is put beside one ResNet-18
training step (bfloat16 autocast) on the same images.

    python experiments/ebm_speed.py --out docs/results/ebm-speed.json
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from puretransforms.functional.random import KeyedNoise
from puretransforms.models.energy import fold
from puretransforms.models.resnet import ResNet18
from puretransforms.transforms.ebm import EBMPurify

NETWORKS = {name: tuple(name.split(" nf=")) for name in ("published nf=128", "published nf=48", "small nf=48")}
PURIFY_STEPS = 150
PEAK, TRAINING = "2048-cubed bfloat16 product", "ResNet-18 training step"


def plain_loop(net: torch.nn.Module, x: torch.Tensor, steps: int) -> torch.Tensor:
    """``x`` in ``[-1, 1]``."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(net(x).sum(), x)
        x = x - 0.78125 * gradient + 0.0125 * torch.randn_like(x)
    return x.detach()


def flop_per_image_step(net: torch.nn.Module, size: int) -> int:
    """Of an energy and its gradient by the image, two per multiply-add; the gradient costs as much as the energy."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, size, size, device=next(net.parameters()).device))
    return 2 * counter.get_total_flops()


def contenders(size: int, batch: int, steps: int, device: torch.device) -> dict[str, tuple[Callable, float, float]]:
    """Name -> (one pass, units of work in it, FLOP of a unit); a unit is an image-step, a product or an image."""
    x = torch.rand(batch, 3, size, size, device=device)
    noise = KeyedNoise(0, torch.arange(batch, device=device))
    table: dict[str, tuple[Callable, float, float]] = {}
    for name, (arch, nf) in NETWORKS.items():
        options = {"weights": None, "arch": arch, "nf": int(nf), "steps": steps}
        plain = deepcopy(EBMPurify(**options).net).to(device, memory_format=torch.contiguous_format)
        plain.requires_grad_(True)
        run = partial(plain_loop, plain, x * 2 - 1, steps)
        table[f"{name}: plain loop"] = run, batch * steps, flop_per_image_step(plain, size)
        for precision, compiled in product(("fp32", "bf16"), (False, True)):
            t = EBMPurify(**options, precision=precision, compiled=compiled).to(device)
            flop = flop_per_image_step(fold(t.net), size)
            label = f"{name}: EBMPurify {precision}{' compiled' * compiled}"
            table[label] = partial(t.purify, x, noise), batch * steps, flop
    matrix = torch.randn(2048, 2048, device=device, dtype=torch.bfloat16)
    table[PEAK] = lambda: matrix @ matrix, 1, 2.0 * 2048**3
    table[TRAINING] = training_step(x), batch, 0.0
    return table


def training_step(x: torch.Tensor) -> Callable[[], None]:
    model = ResNet18().to(x.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, labels = x.contiguous(memory_format=torch.channels_last), torch.zeros(len(x), dtype=torch.long, device=x.device)

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16):
            loss = cross_entropy(model(x).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def measure(size: int, batch: int, steps: int, rounds: int, device: torch.device) -> list[dict]:
    table = contenders(size, batch, steps, device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for run, *_ in table.values():  # warm up, and compile
        run()
    rates: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(rounds):
        for name, (run, units, _) in table.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            rates[name].append(units / (time.perf_counter() - start))

    def ratio(name: str, other: str) -> float:
        return median(a / b for a, b in zip(rates[name], rates[other], strict=True))

    rows = []
    for name, (_, _, flop) in table.items():
        row = {"contender": name, "per_second": round(median(rates[name]), 1)}
        if ":" in name:
            row["times_plain"] = round(ratio(name, name.split(":")[0] + ": plain loop"), 2)
            row["peak_share"] = round(ratio(name, PEAK) * flop / table[PEAK][2], 4)
            row["training_steps_per_purification"] = round(PURIFY_STEPS * ratio(TRAINING, name), 1)
        rows.append(row)
    return rows


def cpu() -> str:
    """Architecture and which bfloat16 instructions there are, on which the speed depends most."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    found = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    return f"CPU, {platform.machine()}, {' and '.join(found) or 'no bfloat16 instructions known'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    rows = measure(args.size, args.batch, args.steps, args.rounds, device)
    print(f"| {'contender':41} | per second | x plain | share of peak | training steps per {PURIFY_STEPS} steps |")
    print("|---|---|---|---|---|")
    for r in rows:
        extra = (r.get(k, "") for k in ("times_plain", "peak_share", "training_steps_per_purification"))
        print(f"| {r['contender']:41} | {r['per_second']:,} | " + " | ".join(map(str, extra)) + " |")
    if args.out:
        hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu()
        record = {
            "command": "make bench-ebm",
            "date": date.today().isoformat(),
            "hardware": hardware,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "settings": {k: v for k, v in vars(args).items() if k != "out"},
            "rows": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

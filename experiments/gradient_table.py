"""Gradients of every network, ``channels_last`` against contiguous tensors, with and without AVX-512 instructions.

One batch forwards and backwards through each network in both memory formats, from the same weights: the gradients of
all parameters and of the input must be equal up to rounding. Each case runs in a process of its own, because what is
looked for writes out of bounds (https://github.com/uxlfoundation/oneDNN/issues/6035) and ends a process sooner or
later. ``ONEDNN_MAX_CPU_ISA=AVX2`` makes oneDNN compute as on a CPU without AVX-512.

    python experiments/gradient_table.py --out docs/results/gradients-channels-last.json --label after

Every run replaces its own label in the file and leaves the others: ``before`` and ``after`` a change, or the name of
another CPU. For each network, dtype and instruction set it says at which widths the gradients are ``equal`` or
``different``, or by which signal the process died.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from measured import cpu_name, write_json
from torch import Tensor, nn

from puretransforms.models.dvae import DVAE, RateVAE
from puretransforms.models.energy import EnergyNet, FoldedEnergyNet
from puretransforms.models.resnet import ResNet18, SmallConvNet

WIDTHS = tuple(range(2, 17))
ISAS = ("AVX2", "all")  # the value of ONEDNN_MAX_CPU_ISA; "all": not set
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDING = 0.1  # of the norm of a gradient, where a ReLU tips over (0.04 seen); a wrong one is of order 1
SIDE, BATCH, LATENT = 32, 4, 8

Loss = Callable[[nn.Module, Tensor], Tensor]


def classified(net: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(x).float(), torch.arange(len(x)) % 3)


def energy(net: nn.Module, x: Tensor) -> Tensor:
    return net(x * 2 - 1).sum()


def score(net: nn.Module, x: Tensor) -> Tensor:
    """As in score matching: a loss of the gradient by the image, so that the weights get a second derivative."""
    (gradient,) = torch.autograd.grad(net(x * 2 - 1).sum(), x, create_graph=True)
    return (gradient - x).square().sum()


def coded(net: nn.Module, x: Tensor) -> Tensor:
    labels = (torch.arange(len(x)) % 3,) if isinstance(net, DVAE) else ()
    decoded = net(x, *labels)
    parts = [part for part in decoded if part is not None]
    return sum(part.float().sub(0.3).square().mean() for part in parts)


def _dvae(width: int) -> nn.Module:
    return DVAE(3, width, LATENT, size=SIDE)


NETWORKS: dict[str, tuple[Callable[[int], nn.Module], Loss]] = {
    "ResNet18": (lambda width: ResNet18(3, width=width), classified),
    "SmallConvNet": (lambda width: SmallConvNet(3, width=width), classified),
    "EnergyNet": (EnergyNet, energy),
    "EnergyNet, score": (EnergyNet, score),
    "FoldedEnergyNet": (FoldedEnergyNet, energy),
    "FoldedEnergyNet, score": (FoldedEnergyNet, score),
    "RateVAE": (lambda width: RateVAE(width, LATENT), coded),
    "RateVAE, large stem": (lambda width: RateVAE(width, LATENT, size=128), coded),
    "DVAE": (_dvae, coded),
}


def cases(widths: tuple[int, ...]) -> list[tuple[str, int, str]]:
    """Network, width and dtype; autoencoders have even widths."""
    found = product(NETWORKS, widths, DTYPES)
    return [(network, width, dtype) for network, width, dtype in found if "VAE" not in network or width % 2 == 0]


def gradients(network: str, width: int, dtype: str, memory_format: torch.memory_format, train: bool) -> list[Tensor]:
    """Of all parameters and of the input, float64, from weights and images that depend on nothing."""
    build, loss_of = NETWORKS[network]
    torch.manual_seed(0)
    net = build(width).to(memory_format=memory_format).train(train)
    x = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=memory_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        loss = loss_of(net, x)
    found = torch.autograd.grad(loss, [*net.parameters(), x], allow_unused=True)
    return [gradient.double() for gradient in found if gradient is not None]


def difference(network: str, width: int, dtype: str) -> tuple[float, bool]:
    """How far the ``channels_last`` gradients are from the contiguous ones in float32, and if that is rounding alone.

    The distance is the largest L2 distance of a gradient, as a fraction of its norm. In bfloat16 the gradients of
    contiguous tensors are away from those in float32 as well: ``channels_last`` may be twice as far, no more; and batch
    norms are in evaluation mode, because those of a small batch turn rounding into noise. Where a gradient is zero by
    law (a bias before an instance norm), what rounding leaves is compared with a hundredth of the norm of the whole.
    """
    train = dtype == "float32"
    exact = gradients(network, width, "float32", torch.contiguous_format, train)
    whole = torch.stack([g.norm() for g in exact]).norm()

    def errors(memory_format: torch.memory_format) -> Tensor:
        found = gradients(network, width, dtype, memory_format, train)
        norms = [torch.maximum(a.norm(), whole / 100) for a in exact]
        return torch.stack([(a - b).norm() / norm for a, b, norm in zip(exact, found, norms, strict=True)])

    last, plain = errors(torch.channels_last), errors(torch.contiguous_format)
    return float(last.max()), bool((last <= ROUNDING + 2 * plain).all())  # False also for NaN


def in_a_fork(case: tuple[str, int, str]) -> dict[str, object]:
    """``difference(*case)`` in a fork of this process: a case that dies takes no other with it."""
    network, width, dtype = case
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # glibc's last words
        status = 1
        try:
            os.write(write, json.dumps(difference(*case)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    row: dict[str, object] = {"network": network, "width": width, "dtype": dtype}
    if code:
        died = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return row | {"verdict": died, "difference": None}
    error, equal = json.loads(text)
    return row | {"verdict": "equal" if equal else "different", "difference": error}


def table(isa: str, widths: tuple[int, ...]) -> list[dict[str, object]]:
    """One row for each case, computed in a new process under ``ONEDNN_MAX_CPU_ISA=isa``."""
    env = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    env |= {"OMP_NUM_THREADS": "1"} | ({} if isa == "all" else {"ONEDNN_MAX_CPU_ISA": isa})
    command = [sys.executable, __file__, "--rows", "--widths", *map(str, widths)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the gradients under ONEDNN_MAX_CPU_ISA={isa} were not computed: {done.stderr[-2000:]}")
    return [{"isa": isa} | row for row in json.loads(done.stdout)]


def summary(rows: list[dict[str, object]]) -> dict[str, dict[str, str]]:
    """``{"ISA, network, dtype": {verdict: widths}}``, and the largest difference."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        line = found.setdefault(f"{row['isa']}, {row['network']}, {row['dtype']}", {})
        line[str(row["verdict"])] = f"{line.get(str(row['verdict']), 'width')} {row['width']}"
        if row["difference"] is not None:
            largest = max(float(line.get("largest difference", 0)), float(str(row["difference"])))
            line["largest difference"] = f"{largest:.2g}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--label", default="after", help="what these rows are called in the file")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--rows", action="store_true", help="print the rows of this process alone, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    widths = tuple(args.widths)
    if args.rows:
        print(json.dumps([*map(in_a_fork, cases(widths))]))
        return
    rows = [row for isa in ISAS for row in table(isa, widths)]
    kept = json.loads(args.out.read_text()).get("gradients", {}) if args.out and args.out.exists() else {}
    about = {"cpu": cpu_name(), "torch": torch.__version__, "widths": list(widths)}
    write_json({"gradients": kept | {args.label: about | {"rows": summary(rows)}}}, args.out)


if __name__ == "__main__":
    main()

"""Images per second of ``UNetPurify`` beside the other purifiers, and what it costs beside a training step.

Every round times each contender once, one after the other, so that all meet the same state of the machine; a ratio is
the median over rounds of the ratio within a round. The published energy is timed over ``EBM_STEPS`` of its 150 steps,
which all cost the same. FFDNet (Zhang, Zuo & Zhang, TIP 2018) is built here with random weights: 12 convolutions of 96
channels at half the size.

    python experiments/unet_speed.py --out docs/results/unet-speed.json
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from measured import cpu_name, write_json
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from puretransforms.models.airbench import AirbenchNet
from puretransforms.models.resnet import ResNet18
from puretransforms.transforms.baselines import JPEGCompress
from puretransforms.transforms.ebm import EBMPurify
from puretransforms.transforms.unet import UNetPurify
from puretransforms.transforms.vae import VAEPurify

EBM_STEPS, PUBLISHED_STEPS = 3, 150
Timed = tuple[Callable[[torch.Tensor], object], int, float]  # one pass, images in it, passes that make one purification


class FFDNet(nn.Module):
    """``[B, 3, H, W] -> [B, 3, H, W]``, 0.85 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        widths = [13, *[96] * 11, 12]
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        self.body = nn.Sequential(*(part for conv in layers[:-1] for part in (conv, nn.ReLU(True))), layers[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.pixel_unshuffle(x, 2)
        return nn.functional.pixel_shuffle(self.body(torch.cat((y, y[:, :1] * 0 + 0.1), dim=1)), 2)


def trained_on(net: nn.Module) -> Callable[[torch.Tensor], object]:
    """Forward and backward of one batch."""
    net.train().to(memory_format=torch.channels_last)

    def step(x: torch.Tensor) -> None:
        x = x.contiguous(memory_format=torch.channels_last)
        cross_entropy(net(x), torch.zeros(len(x), dtype=torch.long)).backward()
        net.zero_grad(set_to_none=True)

    return step


def contenders(side: int, batch: int) -> dict[str, Timed]:
    few = max(1, batch // 16)
    published = EBMPurify(weights=None, arch="published", steps=EBM_STEPS)
    ffdnet = FFDNet().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    found: dict[str, Timed] = {
        "unet-small": (UNetPurify(), batch, 1),
        "FFDNet": (lambda x: ffdnet(x.contiguous(memory_format=torch.channels_last)), batch, 1),
        "JPEG-10": (JPEGCompress(10), batch, 1),
        "EBM, published, 150 steps": (published, few, PUBLISHED_STEPS / EBM_STEPS),
        "EBM, bundled": (EBMPurify(), few, 1),
    }
    if side <= 64:
        found["codec"] = (VAEPurify(), batch, 1)
        found["training step, AirbenchNet 16/64/64"] = (trained_on(AirbenchNet(width=(16, 64, 64))), batch, 1)
        found["training step, ResNet-18 of width 64"] = (trained_on(ResNet18(width=64)), few, 1)
    return found


def table(side: int, batch: int, rounds: int, threads: int) -> dict[str, dict[str, float]]:
    """Images per second, and how often unet-small fits into the time of one image."""
    torch.set_num_threads(threads)
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    timed = contenders(side, batch)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds + 1):  # the first warms up
        for name, (work, images, passes) in timed.items():
            start = time.perf_counter()
            work(x[:images])
            if turn:
                seconds[name].append(passes * (time.perf_counter() - start) / images)
    ours = seconds["unet-small"]
    return {
        name: {
            "images_per_second": round(1 / median(spent), 2),
            "unet_is_faster_by": round(median(theirs / own for theirs, own in zip(spent, ours, strict=True)), 2),
        }
        for name, spent in seconds.items()
    }


def peak(threads: int) -> float:
    """FLOP per second of a large float32 matrix product, the best of five."""
    torch.set_num_threads(threads)
    a = torch.rand(2048, 2048)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with FlopCounterMode(display=False) as counter:
        UNetPurify().net(torch.rand(1, 3, 32, 32), torch.zeros(1, 2))
    result: dict[str, object] = {"cpu": cpu_name(), "torch": torch.__version__, "rounds": args.rounds}
    result["flop_at_32"] = counter.get_total_flops()
    for threads in args.threads:
        tables = {f"{side} pixels": table(side, batch, args.rounds, threads) for side, batch in ((32, 256), (224, 16))}
        rate = tables["32 pixels"]["unet-small"]["images_per_second"] * counter.get_total_flops()
        share = {"share_of_matrix_product_peak": round(rate / peak(threads), 3)}
        result[f"{threads} thread{'s' if threads > 1 else ''}"] = tables | share
    write_json(result, args.out)


if __name__ == "__main__":
    main()

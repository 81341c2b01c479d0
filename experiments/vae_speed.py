"""Speed of fitting and of purifying with D-VAE, in images per second, beside the layout of the authors' release.

The released layout, built here from its description: float32, contiguous; behind the encoder the rest of ResNet-18 (the
second block of its second stage, its last two stages and the linear layer), whose output feeds no loss; both decoders
in every pass, and three whole passes to purify. ``--monitoring`` adds the four passes of a classifier that the release
makes at every update for its log. All have width 64, 256 latent channels and a spatial table of ten classes.

Every round times each contender once, one after the other, so that all meet the same state of the machine; a ratio is
the median over rounds of the ratio within a round. Two minutes on two cores:

    python experiments/vae_speed.py --out docs/results/vae-speed.json
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import count
from pathlib import Path
from statistics import median

import torch
from torch import nn

from puretransforms.functional.rate import rate_objective
from puretransforms.models.dvae import DVAE, Encoder
from puretransforms.models.resnet import BasicBlock, ResNet18
from puretransforms.train.rate import FitSchedule, fit_stage
from puretransforms.transforms.vae import VAEPurify

CLASSES, WIDTH, LATENT = 10, 64, 256
Timed = tuple[Callable[[], object], int]  # one pass, and the number of images in it


class Released(nn.Module):
    """``(images [B, 3, 32, 32], labels) -> logits, reconstruction, perturbation, mu, log_var``."""

    def __init__(self) -> None:
        super().__init__()
        w = WIDTH
        self.encoder = Encoder(w, large=False)
        tail = [BasicBlock(2 * w, 2 * w, 1), BasicBlock(2 * w, 4 * w, 2), BasicBlock(4 * w, 4 * w, 1)]
        tail += [BasicBlock(4 * w, 8 * w, 2), BasicBlock(8 * w, 8 * w, 1)]
        self.tail = nn.Sequential(*tail, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * w, CLASSES))
        self.mu, self.log_var = nn.Conv2d(2 * w, LATENT, 1), nn.Conv2d(2 * w, LATENT, 1)
        self.post = nn.Conv2d(LATENT, 2 * w, 1)
        self.table = nn.Embedding(CLASSES, 2 * w * 16 * 16)
        self.image_decoder, self.perturbation_decoder = self.decoder(), self.decoder()

    @staticmethod
    def decoder() -> nn.Sequential:
        w = WIDTH
        return nn.Sequential(
            nn.ConvTranspose2d(2 * w, w, 4, 2, 1),
            nn.ConvTranspose2d(w, w, 3, 1, 1),
            nn.InstanceNorm2d(w),
            nn.ReLU(),
            nn.ConvTranspose2d(w, w // 2, 3, 1, 1),
            nn.InstanceNorm2d(w // 2),
            nn.ReLU(),
            nn.ConvTranspose2d(w // 2, 3, 3, 1, 1),
        )

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = self.encoder(x)
        mu, log_var = self.mu(h), self.log_var(h)
        z = self.post(mu + (log_var / 2).exp() * torch.randn_like(mu))
        perturbation = self.perturbation_decoder(z + self.table(labels).view(-1, 2 * WIDTH, 16, 16))
        return self.tail(h), self.image_decoder(z).sigmoid(), perturbation, mu, log_var


def released_fit(images: torch.Tensor, labels: torch.Tensor, batch: int, monitoring: bool) -> Iterator[object]:
    """One update at each step."""
    net = Released().train()
    adam = torch.optim.Adam(net.parameters(), lr=5e-3)
    watcher = ResNet18(CLASSES, width=WIDTH).train() if monitoring else None
    for step in count():
        rows = torch.arange(step * batch, (step + 1) * batch) % len(images)
        x, y = images[rows].float() / 255, labels[rows]
        _, reconstruction, p, mu, log_var = net(x, y)
        terms = rate_objective(x, reconstruction, mu, log_var, p, rate_limit=1.0, magnitude_limit=0.002)
        if watcher is not None:
            [watcher(seen) for seen in (x, reconstruction, x - p, reconstruction + p)]
        adam.zero_grad()
        terms.loss.backward()
        nn.utils.clip_grad_norm_([q for q in net.parameters() if q.grad is not None], 5.0)
        adam.step()
        yield terms


def lean_fit(images: torch.Tensor, labels: torch.Tensor, batch: int, **options: object) -> Iterator[object]:
    schedule = FitSchedule(epochs=10**6, batch_size=batch, magnitude_from=0)
    return fit_stage(DVAE(CLASSES, WIDTH, LATENT), images, labels, rate_limit=1.0, schedule=schedule, **options)


def fits(images: torch.Tensor, labels: torch.Tensor, batch: int, monitoring: bool) -> dict[str, Timed]:
    half = {"precision": torch.bfloat16}
    makers = {"fit, released layout": released_fit(images, labels, batch, False)}
    if monitoring:
        makers["fit, released layout with its monitoring"] = released_fit(images, labels, batch, True)
    makers |= {
        "fit, lean, float32": lean_fit(images, labels, batch),
        "fit, lean, bfloat16": lean_fit(images, labels, batch, **half),
        "fit, lean, bfloat16, compiled": lean_fit(images, labels, batch, **half, compiled=True),
    }
    return {name: ((lambda records=records: next(records)), batch) for name, records in makers.items()}


def purifiers(images: torch.Tensor, labels: torch.Tensor) -> dict[str, Timed]:
    nets = [Released().eval() for _ in range(2)]

    @torch.no_grad()
    def released() -> torch.Tensor:
        x = images.float() / 255
        for net in nets:
            x = (x - net(x, labels)[2]).clamp(0, 1)
        return nets[1](x, labels)[1].mul(255).to(torch.uint8)

    lean = {name: VAEPurify(None, arch="published", num_classes=CLASSES, precision=name) for name in ("fp32", "bf16")}
    for purifier in lean.values():
        purifier._trained = True  # an untrained one takes as long
    return {
        "purify, released layout": (released, len(images)),
        "purify, lean, float32": (lambda: lean["fp32"](images, labels), len(images)),
        "purify, lean, bfloat16": (lambda: lean["bf16"](images, labels), len(images)),
        "reconstruct without labels, lean, bfloat16": (lambda: lean["bf16"](images), len(images)),
    }


def measure(table: dict[str, Timed], threads: int, rounds: int) -> list[dict]:
    for run, _ in table.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(rounds):
        for name, (run, _) in table.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    reference = next(iter(seconds.values()))
    return [
        {
            "contender": name,
            "threads": threads,
            "images_per_second": round(table[name][1] / median(values), 1),
            "times_released": round(median(r / v for r, v in zip(reference, values, strict=True)), 2),
        }
        for name, values in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--monitoring", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (args.batch, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(args.batch) % CLASSES
    rows = measure(fits(images, labels, args.batch, args.monitoring), args.threads, args.rounds)
    rows += measure(purifiers(images, labels), args.threads, args.rounds)
    for row in rows:
        print(f"{row['contender']:45} {row['images_per_second']:8.1f} img/s  {row['times_released']:5.2f}x")
    if args.out:
        record = {
            "command": "make bench-vae",
            "date": date.today().isoformat(),
            "hardware": f"{args.threads} CPU cores, {platform.machine()}, no GPU",
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "rounds": args.rounds,
            "batch": args.batch,
            "rows": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

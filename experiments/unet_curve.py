"""What a one-pass purifier takes away from poison and from images, against its strength, beside the other purifiers.

Data: a folder with cifar10_lossless_6k.npz (``x_train``, ``y_train``, ``idx_train``: CIFAR-10 images as published,
uint8 ``[N, 32, 32, 3]``) and tap_5k.npz (``x``, ``index``: the published TAP poison of the same images, Fowl et al.
2021). Poisons of the first ``--images`` images: TAP; the published trigger of Narcissus (``--trigger``, a ``.npy``,
``[1, 3, 32, 32]``; halved, since it is stored at
32/255, twice its budget); our LSP, AR and CUDA; and three with one key for each class that no training saw:
a mosaic of 8x8 cells, band-limited noise (both 6/255 root mean square), and one pixel set to a colour of the cube.

For each purifier P: PSNR(P(x), x) over all values; for each poison d the projected gain
``<P(x + d) - P(x), d> / <d, d>``, 1 where it survives whole, and PSNR(P(x + d), x).

    python experiments/unet_curve.py --data DATA --state weights/unet-small/training.safetensors \
        --out docs/results/unet-curve.json

``--peers ROWS.json`` adds rows measured elsewhere on the same images by :func:`row`.
"""

import argparse
import json
import math
import os
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from puretransforms.functional.corruption import FIELDS, add_field
from puretransforms.functional.langevin import langevin_chain
from puretransforms.functional.opponent import to_opponent
from puretransforms.functional.random import KeyedNoise
from puretransforms.models.energy import frozen
from puretransforms.models.unet import ARCHITECTURES
from puretransforms.poisons.availability.autoregressive import AR
from puretransforms.poisons.availability.convolution import CUDA
from puretransforms.poisons.availability.lsp import LSP
from puretransforms.train.unet import averaged
from puretransforms.transforms.baselines import GaussianBlur, JPEGCompress, MedianBlur
from puretransforms.transforms.ebm import EBMPurify
from puretransforms.transforms.vae import VAEPurify

STRENGTHS = (4, 8, 12, 16, 20, 25, 32, 40, 50, 60, 75)
TWO_STRENGTHS = ((0, 75), (8, 40), (16, 75), (25, 75), (25, 100))
QUALITIES = (5, 10, 15, 20, 30, 40, 50, 65, 75, 85, 95)
STEPS = (25, 50, 75, 150)  # of the energy
SIGMAS = (0.5, 0.7, 1.0, 1.5, 2.0)
COLOURS = ("#c02942", "#e8956f", "#2c7fb8", "#41ab5d", "#969696", "#7b3294", "#b8860b", "#222222")
KEYS = 715  # seed of the poisons with a key for each class
Images = dict[str, torch.Tensor]
Purifier = Callable[[torch.Tensor], torch.Tensor]


def load(folder: Path, count: int, trigger: Path | None) -> Images:
    """``clean`` and its poisoned versions, float ``[count, 3, 32, 32]`` in ``[0, 1]``, all on the 8-bit grid."""
    with np.load(folder / "cifar10_lossless_6k.npz", allow_pickle=False) as file:
        clean, labels, index = file["x_train"][:count], file["y_train"][:count], file["idx_train"][:count]
    with np.load(folder / "tap_5k.npz", allow_pickle=False) as file:
        tap, tap_index = file["x"][:count], file["index"][:count]
    if not np.array_equal(index, tap_index):
        raise SystemExit(f"expected tap_5k.npz in {folder} to poison the images of cifar10_lossless_6k.npz in order.")
    x, tap = (torch.from_numpy(a).permute(0, 3, 1, 2).float().div(255).contiguous() for a in (clean, tap))
    labels, index = torch.from_numpy(labels), torch.from_numpy(index)
    versions = {"clean": x, "tap": tap}
    if trigger is not None:
        versions["trigger"] = (x + torch.from_numpy(np.load(trigger, allow_pickle=False)).float() / 2).clamp(0, 1)
    versions |= {poison.__name__.lower(): poison()(x, labels, index)[0] for poison in (LSP, AR, CUDA)}
    noise, budget = KeyedNoise(KEYS, labels), torch.full((count,), 6 / 255)
    cells = noise.normal(99, 3, 4, 4).sign().repeat_interleave(8, -1).repeat_interleave(8, -2)
    versions["mosaic"] = add_field(x, to_opponent(cells), budget, budget)
    versions["spectrum"] = add_field(x, FIELDS["spectrum"](noise, 32, 32), budget, budget)
    versions["pixel"] = one_pixel(x, noise)
    return {name: images.mul(255).round().div(255) for name, images in versions.items()}


def one_pixel(x: torch.Tensor, noise: KeyedNoise) -> torch.Tensor:
    place = (noise.uniform(101, 2) * 32).long()
    out = x.clone()
    out[torch.arange(len(x)), :, place[:, 0], place[:, 1]] = noise.uniform(102, 3).round()
    return out


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    return round(-10 * math.log10(float((x - y).square().mean(dtype=torch.float64)) + 1e-12), 2)


def row(versions: Images, purifier: Purifier) -> dict[str, float]:
    """PSNR on clean images, and of each poison the gain and the PSNR."""
    return compared(versions, {name: purifier(images) for name, images in versions.items()})


def compared(versions: Images, purified: Images) -> dict[str, float]:
    """:func:`row` of images that have been purified."""
    clean = versions["clean"]
    out = {"images": len(clean), "psnr": psnr(clean, purified["clean"])}
    for name in [name for name in versions if name != "clean"]:
        d = versions[name] - clean
        gain = ((purified[name] - purified["clean"]) * d).sum(dtype=torch.float64) / d.square().sum()
        out |= {name: round(float(gain), 4), f"{name}_psnr": psnr(clean, purified[name])}
    return out


def at_strength(net: torch.nn.Module, luma: float, chroma: float) -> Purifier:
    """``net`` at two strengths in units of 1/255, clamped."""

    def purify(x: torch.Tensor) -> torch.Tensor:
        strength = x.new_tensor((luma, chroma)) / 255
        with torch.inference_mode():
            return torch.cat([net(part, strength.expand(len(part), 2)).clamp(0, 1) for part in x.split(128)])

    return purify


def measured(options: argparse.Namespace, versions: Images) -> Iterator[dict]:
    state = load_file(options.state)
    net = averaged(ARCHITECTURES[options.arch](), state).eval().to(memory_format=torch.channels_last)
    for luma, chroma in [(s, s) for s in STRENGTHS] + list(TWO_STRENGTHS):
        yield {"purifier": "UNet", "luma": luma, "chroma": chroma} | row(versions, at_strength(net, luma, chroma))
    if options.quick:
        return
    for quality in QUALITIES:
        yield {"purifier": "JPEG", "quality": quality} | row(versions, JPEGCompress(quality))
    for sigma in SIGMAS:
        yield {"purifier": "Gaussian blur", "sigma": sigma} | row(versions, GaussianBlur(7, sigma))
    yield {"purifier": "median 3x3"} | row(versions, MedianBlur(3))
    yield from others({name: images[: options.slow_images] for name, images in versions.items()})


def others(versions: Images) -> Iterator[dict]:
    """The learned purifiers that are slow, on fewer images; every version of an image gets the same noise."""
    if len(versions["clean"]) == 0:
        return
    yield {"purifier": "codec"} | row(versions, VAEPurify(precision="fp32"))
    ebm, states = EBMPurify(), {}
    net = frozen(ebm.net)
    for name, images in versions.items():
        noise = KeyedNoise(0, torch.arange(len(images)))
        settings = {"steps": max(STEPS), "step_size": ebm.step_size, "temperature": ebm.temperature}
        for step, state in enumerate(langevin_chain(net, images * 2 - 1, noise, **settings), 1):
            if step in STEPS:
                states.setdefault(step, {})[name] = state.clamp(-1, 1).add(1).div(2)
    for step in STEPS:
        yield {"purifier": "EBM", "steps": step} | compared(versions, states[step])


def table(rows: list[dict]) -> str:
    """Markdown."""
    columns = [name for name in rows[0] if f"{name}_psnr" in rows[0]]
    lines = [f"| purifier | PSNR | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for entry in rows:
        named = [str(entry["purifier"])] + [
            str(entry[k]) for k in ("luma", "chroma", "quality", "sigma", "steps") if k in entry
        ]
        cells = [f"{entry[c]:.3f} ({entry[f'{c}_psnr']:.1f})" for c in columns if c in entry]
        lines.append(f"| {' '.join(named)} | {entry['psnr']:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def svg(rows: list[dict]) -> str:
    """Gain against PSNR, a panel for each poison; purifiers of one setting are dots."""
    columns = [name for name in rows[0] if f"{name}_psnr" in rows[0]]
    curves: dict[str, list[dict]] = {}
    for r in rows:
        name = "UNet, luma and chroma apart" if r["purifier"] == "UNet" and r["luma"] != r["chroma"] else r["purifier"]
        curves.setdefault(name, []).append(r)
    low, high, width, height, gap, across = 20.0, 42.0, 230, 200, 50, 4
    parts = []
    for panel, poison in enumerate(columns):
        left, top = 45 + panel % across * (width + gap), 30 + panel // across * (height + 60)

        def at(r: dict, left: int = left, top: int = top, poison: str = poison) -> tuple[float, float]:
            return left + (r["psnr"] - low) / (high - low) * width, top + (1 - max(0.0, r[poison])) * height

        parts.append(f'<text x="{left + width / 2}" y="{top - 8}" text-anchor="middle">{poison}</text>')
        parts.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#bbb"/>')
        for tick in range(20, 41, 5):
            x = left + (tick - low) / (high - low) * width
            parts.append(f'<text x="{x:.1f}" y="{top + height + 15}" text-anchor="middle">{tick}</text>')
        for tick in (0, 0.25, 0.5, 0.75, 1):
            y = top + (1 - tick) * height + 4
            parts.append(f'<text x="{left - 5}" y="{y:.1f}" text-anchor="end">{tick}</text>')
        for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
            points = [at(r) for r in sorted(curve, key=lambda r: r["psnr"]) if low <= r["psnr"] <= high]
            if len(points) > 1 and "apart" not in name:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            else:
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    bottom = 30 + -(-len(columns) // across) * (height + 60)
    caption = "PSNR(P(x), x) in dB; upwards, the share of the perturbation that is left"
    parts.append(f'<text x="45" y="{bottom}">{caption}</text>')
    for i, (colour, name) in enumerate(zip(COLOURS, curves, strict=False)):
        x, y = 45 + i % across * (width + gap), bottom + 24 + i // across * 20
        mark = f'<rect x="{x}" y="{y - 9}" width="18" height="4" fill="{colour}"/>'
        parts.append(f'{mark}<text x="{x + 24}" y="{y}">{name}</text>')
    size = f'width="{45 + across * (width + gap)}" height="{bottom + 60}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return head + '<rect width="100%" height="100%" fill="white"/>' + "\n".join(parts) + "</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="training.safetensors of the recipe")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="small")
    parser.add_argument("--trigger", type=Path)
    parser.add_argument("--peers", type=Path, help="JSON list of rows")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--slow-images", type=int, default=64, help="for EBM and codec")
    parser.add_argument("--quick", action="store_true", help="the network alone")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    versions = load(options.data, options.images, options.trigger)
    rows = []
    for entry in measured(options, versions):
        rows.append(entry)
        print(table(rows[-1:]).splitlines()[-1] if len(rows) > 1 else table(rows), flush=True)
    if options.peers:
        rows += json.loads(options.peers.read_text())
    if options.out:
        about = {
            "date": datetime.now(UTC).date().isoformat(),
            "hardware": f"{len(os.sched_getaffinity(0))} CPU cores, {platform.machine()}, no GPU used",
            "images": options.images,
            "updates": int(load_file(options.state)["step"]),
        }
        options.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
        options.out.with_suffix(".svg").write_text(svg(rows))


if __name__ == "__main__":
    main()

"""What an EBM purifier takes away from poison and from images, against its steps and temperature, beside JPEG and blur.

Data: a folder with cifar10_lossless_6k.npz (``x_train``, ``y_train``: CIFAR-10 images as published, uint8
``[N, 32, 32, 3]``) and tap_5k.npz (``x``: the published TAP poison of the same images, Fowl et al. 2021). Three poisons
of the first ``--images`` images: TAP; our LSP; and a stand-in for the trigger of Narcissus: one smooth picture for all
images, random signs of 8/255 in soft-edged regions (an 8x8 field, upsampled), made without any gradient.

For each purifier P: PSNR(P(x), x), and the projected gain ``<P(x + d) - P(x), d> / <d, d>`` of each poison d with equal
noise, 1 where it survives whole. And the acceptance tests of a weight file, see :func:`acceptance`. About ten minutes
on one core for 256 images.

    python experiments/ebm_curves.py --data DATA --out docs/results/ebm-curves.json
"""

import argparse
import json
import math
import platform
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch

from puretransforms.functional.langevin import energy_gradient, langevin_step
from puretransforms.functional.random import KeyedNoise
from puretransforms.models.energy import frozen
from puretransforms.poisons.availability.lsp import LSP
from puretransforms.transforms.baselines import GaussianBlur, JPEGCompress
from puretransforms.transforms.ebm import EBMPurify

BUDGET = 8 / 255
STEPS = (5, 10, 15, 25, 35, 50, 75, 100, 150, 200, 300)
COOLER_STEPS = (5, 10, 15, 25, 35, 50, 75, 100, 150)  # at other temperatures than that of the training
QUALITIES = (5, 10, 15, 20, 30, 40, 50, 65, 75, 85, 95)
SIGMAS = (0.5, 0.7, 1.0, 1.5, 2.0)
Images = dict[str, torch.Tensor]


def load(folder: Path, count: int) -> Images:
    """``clean`` and its poisoned versions, float ``[count, 3, 32, 32]`` in ``[0, 1]``, all on the 8-bit grid."""
    with np.load(folder / "cifar10_lossless_6k.npz", allow_pickle=False) as file:
        clean, labels, index = file["x_train"][:count], file["y_train"][:count], file["idx_train"][:count]
    with np.load(folder / "tap_5k.npz", allow_pickle=False) as file:
        tap, tap_index = file["x"][:count], file["index"][:count]
    if not np.array_equal(index, tap_index):
        raise SystemExit(f"expected tap_5k.npz in {folder} to poison the images of cifar10_lossless_6k.npz in order.")
    x, tap = (torch.from_numpy(a).permute(0, 3, 1, 2).float().div(255).contiguous() for a in (clean, tap))
    lsp, _ = LSP()(x, torch.from_numpy(labels), torch.from_numpy(index))
    return {"clean": x, "tap": tap, "lsp": lsp, "smooth_trigger": (x + smooth_trigger()).clamp(0, 1)}


def smooth_trigger() -> torch.Tensor:
    """``[1, 3, 32, 32]``, each value 8/255 up or down."""
    field = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(field, (32, 32), mode="bicubic", align_corners=False).sign() * BUDGET


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    return -10 * math.log10(float((x - y).square().mean(dtype=torch.float64)))


def row(versions: Images, purified: Images) -> dict[str, float]:
    """PSNR on clean images and the gain of each poison."""
    clean = versions["clean"]
    out = {"psnr": round(psnr(clean, purified["clean"]), 3)}
    for name in [name for name in versions if name != "clean"]:
        d = versions[name] - clean
        gain = ((purified[name] - purified["clean"]) * d).sum(dtype=torch.float64) / d.square().sum()
        out[name] = round(float(gain), 4)
    return out


def distances(versions: Images, purified: Images) -> dict[str, float]:
    """Mean L2, ``[-1, 1]`` units, from P(x + d) to x and to x + d: the paper stops once the second is the longer."""

    def mean(a: torch.Tensor, b: torch.Tensor) -> float:
        return round(float(2 * (a - b).flatten(1).norm(dim=1).mean()), 4)

    out = {}
    for name in [name for name in versions if name != "clean"]:
        out[f"{name}_to_clean"] = mean(purified[name], versions["clean"])
        out[f"{name}_to_poisoned"] = mean(purified[name], versions[name])
    return out


def chain(
    purifier: EBMPurify, versions: Images, steps: tuple[int, ...], temperature: float, dtype: torch.dtype
) -> Iterator[tuple[int, Images, float]]:
    """After each of ``steps``: its number, the purified versions, and the mean drift (L2 per step, ``[-1, 1]`` units).

    All versions of an image get the same noise. The equations of :meth:`EBMPurify.purify`, state by state.
    """
    net, count, eps = frozen(purifier.net, dtype), len(versions["clean"]), purifier.step_size
    noise = KeyedNoise(0, torch.arange(count))
    states = {name: x * 2 - 1 for name, x in versions.items()}
    for step in range(max(steps)):
        draw, drift = noise.normal(step, *versions["clean"].shape[1:]), 0.0
        for name, state in states.items():
            for part in torch.arange(count).split(64):
                gradient = energy_gradient(lambda y: net(y.to(dtype)), state[part])
                if name == "clean":
                    drift += float(gradient.flatten(1).norm(dim=1).sum()) * eps**2 / (2 * temperature) / count
                state[part] = langevin_step(state[part], gradient, draw[part], eps, temperature)
        if step + 1 in steps:
            yield step + 1, {name: (state.clamp(-1, 1) + 1) / 2 for name, state in states.items()}, drift


def ebm_rows(purifier: EBMPurify, versions: Images) -> list[dict]:
    rows = []
    for factor in (1.0, 0.5, 2.0):
        temperature = purifier.temperature * factor
        for steps, purified, drift in chain(
            purifier, versions, STEPS if factor == 1 else COOLER_STEPS, temperature, torch.bfloat16
        ):
            rows.append({"purifier": f"EBM, temperature {temperature:.1e}", "steps": steps, "drift": round(drift, 4)})
            rows[-1] |= row(versions, purified)
            if factor == 1:
                rows[-1] |= distances(versions, purified)
            print(rows[-1], flush=True)
    return rows


def other_rows(versions: Images, step_size: float) -> list[dict]:
    rows = []
    for name, key, settings, make in (
        ("JPEG", "quality", QUALITIES, JPEGCompress),
        ("Gaussian blur", "sigma", SIGMAS, lambda sigma: GaussianBlur(kernel_size=9, sigma=sigma)),
    ):
        for setting in settings:
            purified = {version: make(setting)(x) for version, x in versions.items()}
            rows.append({"purifier": name, key: setting} | row(versions, purified))
    noise, walk = KeyedNoise(0, torch.arange(len(versions["clean"]))), torch.zeros_like(versions["clean"])
    for step in range(max(STEPS)):
        walk += noise.normal(step, *walk.shape[1:]) * (step_size / 2)
        if step + 1 in STEPS:
            purified = {version: (x + walk).clamp(0, 1) for version, x in versions.items()}
            rows.append({"purifier": "noise alone", "steps": step + 1} | row(versions, purified))
    return rows


def auroc(purifier: EBMPurify, versions: Images) -> dict[str, float]:
    """Chance that a poisoned image has a higher energy than another, clean one; ``_paired``: than its own original."""
    energies = {name: purifier.energy(x) for name, x in versions.items()}
    clean, out = energies.pop("clean"), {}
    for name, energy in energies.items():
        out[name] = round(float((energy[:, None] > clean).double().mean()), 4)
        out[f"{name}_paired"] = round(float((energy > clean).double().mean()), 4)
    return out


def precision_error(purifier: EBMPurify, x: torch.Tensor, steps: int) -> dict[str, float]:
    """What bfloat16 layers change, against the length of the path, and in the 8-bit image."""
    one = {"clean": x}
    half, full = (
        next(chain(purifier, one, (steps,), purifier.temperature, dtype))[1]["clean"]
        for dtype in (torch.bfloat16, torch.float32)
    )
    levels = (half.mul(255).round() - full.mul(255).round()).abs()
    return {
        "steps": steps,
        "share_of_path": round(float((half - full).norm() / (full - x).norm()), 5),
        "within_one_level": round(float((levels <= 1).double().mean()), 5),
    }


def at_psnr(curve: list[dict], poison: str, decibel: float) -> float | None:
    """The gain of a curve at a PSNR, linear between its settings; ``None`` outside them."""
    points = sorted((r["psnr"], r[poison]) for r in curve)
    if not points or not points[0][0] <= decibel <= points[-1][0]:
        return None
    return float(np.interp(decibel, *zip(*points, strict=True)))


def acceptance(rows: list[dict], areas: dict[str, float], error: dict[str, float], steps: int) -> dict:
    """The tests that a weight file has to pass; each entry holds what was found and whether that passes.

    ``drift``: between step 25 and step 300 it changes by less than a factor of two. ``crossing``: within 300 steps the
    purified poisoned image is farther from where it started than from the clean image. ``below_jpeg`` and
    ``below_blur``: at the default number of steps, less of the poison is left than after JPEG (blur) of equal PSNR.
    ``auroc``: energies of poisoned images are higher than chance. ``bf16``: less than 2 % of the path.
    """
    own = [r for r in rows if "tap_to_clean" in r]
    default = min(own, key=lambda r: abs(r["steps"] - steps))
    drift = {r["steps"]: r["drift"] for r in own}
    ratio = drift[300] / drift[25]
    out: dict[str, dict] = {"drift": {"step_300_over_step_25": round(ratio, 3), "passes": 0.5 < ratio < 2}}
    for poison in ("tap", "lsp", "smooth_trigger"):
        crossed = [r["steps"] for r in own if r[f"{poison}_to_poisoned"] > r[f"{poison}_to_clean"]]
        checks: dict[str, dict] = {"crossing": {"steps": min(crossed, default=None), "passes": bool(crossed)}}
        for rival, name in (("JPEG", "below_jpeg"), ("Gaussian blur", "below_blur")):
            other = at_psnr([r for r in rows if r["purifier"] == rival], poison, default["psnr"])
            checks[name] = {"psnr": default["psnr"], "gain": default[poison], rival: other and round(other, 4)}
            checks[name]["passes"] = None if other is None else default[poison] < other
        checks["auroc"] = {"found": areas[poison], "passes": areas[poison] > 0.5}
        out[poison] = checks
    return out | {"bf16": error | {"passes": error["share_of_path"] < 0.02}}


def svg(rows: list[dict], default_steps: int) -> str:
    """Gain against PSNR, a panel for each poison."""
    colours = ("#c02942", "#e8956f", "#7a1f3d", "#2c7fb8", "#41ab5d", "#969696")
    curves: dict[str, list[dict]] = {}
    for r in rows:
        curves.setdefault(r["purifier"], []).append(r)
    low, high, width, height, gap = 14.0, 38.0, 260, 240, 60
    parts = []
    for panel, poison in enumerate(("tap", "lsp", "smooth_trigger")):
        left = 50 + panel * (width + gap)

        def at(r: dict, left: int = left, poison: str = poison) -> tuple[float, float]:
            return left + (r["psnr"] - low) / (high - low) * width, 30 + (1 - max(0.0, r[poison])) * height

        parts.append(f'<text x="{left + width / 2}" y="20" text-anchor="middle">{poison.replace("_", " ")}</text>')
        parts.append(f'<rect x="{left}" y="30" width="{width}" height="{height}" fill="none" stroke="#bbb"/>')
        for tick in range(15, 40, 5):
            x = left + (tick - low) / (high - low) * width
            if x <= left + width:
                parts.append(f'<text x="{x:.1f}" y="{height + 46}" text-anchor="middle">{tick}</text>')
        for tick in (0, 0.25, 0.5, 0.75, 1):
            parts.append(f'<text x="{left - 6}" y="{34 + (1 - tick) * height:.1f}" text-anchor="end">{tick}</text>')
        for colour, curve in zip(colours, curves.values(), strict=True):
            points = [at(r) for r in sorted(curve, key=lambda r: r["psnr"]) if low <= r["psnr"] <= high]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            for r in curve:
                if "tap_to_clean" in r and r["steps"] == default_steps:
                    x, y = at(r)
                    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
    for i, (colour, name) in enumerate(zip(colours, curves, strict=True)):
        x, y = 50 + i % 3 * (width + gap), height + 85 + i // 3 * 20
        parts.append(
            f'<rect x="{x}" y="{y - 9}" width="18" height="4" fill="{colour}"/><text x="{x + 24}" y="{y}">{name}</text>'
        )
    caption = "PSNR(P(x), x) in dB; upwards, the share of the perturbation that is left; dot: default steps"
    parts.append(f'<text x="50" y="{height + 62}">{caption}</text>')
    size = f'width="{50 + 3 * (width + gap)}" height="{height + 120}"'
    style = '<rect width="100%" height="100%" fill="white"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">{style}'
    return head + "\n".join(parts) + "</svg>\n"


def table(rows: list[dict]) -> str:
    lines = ["| purifier | setting | PSNR | TAP left | LSP left | smooth trigger left |", "|---|---|---|---|---|---|"]
    for r in rows:
        key = next(key for key in ("steps", "quality", "sigma") if key in r)
        gains = " | ".join(f"{r[poison]:.3f}" for poison in ("tap", "lsp", "smooth_trigger"))
        lines.append(f"| {r['purifier']} | {key} {r[key]} | {r['psnr']:.1f} | {gains} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path(__file__).parents[1] / "weights" / "ebm-small-32")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file; the plot goes beside it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    purifier, versions = EBMPurify.from_pretrained(args.weights), load(args.data, args.images)
    areas = auroc(purifier, versions)
    print(areas, flush=True)
    error = precision_error(purifier, versions["clean"][:64], purifier.steps)
    print(error, flush=True)
    rows = ebm_rows(purifier, versions) + other_rows(versions, purifier.step_size)
    record = {
        "command": f"python experiments/ebm_curves.py --data DATA --images {args.images}",
        "date": date.today().isoformat(),
        "weights": args.weights.name,
        "images": args.images,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "acceptance": acceptance(rows, areas, error, purifier.steps),
        "energy_auroc": areas,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    args.out.with_suffix(".svg").write_text(svg(rows, purifier.steps))
    print(table(rows))
    print(json.dumps(record["acceptance"], indent=1))


if __name__ == "__main__":
    main()

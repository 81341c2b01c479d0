"""Train and measure ebm-small-32: denoising score matching on downscaled crops of photographs.

About 30 minutes on one free CPU core with bfloat16 instructions, for 181,584 parameters:

    python weights/ebm-small-32/recipe.py --photos PHOTOS --updates 18000 --threads 1 --seed 0

Another seed gives the same PSNR within 0.3 dB and the same gains within 30 % (docs/results/ebm-recipe.json).

Data: random square crops (96 pixels to the whole short side) of the photographs under PHOTOS, downscaled to 32x32
with antialiasing: natural patches in which no codec is left to see. Every twentieth photograph is held out for the
measurements. ``--npz`` adds images of that size as they are.

Writes config.json and model.safetensors (``EBMPurify.from_pretrained(OUT)``), metrics.json, and while it runs
training.safetensors and training.json: the same command again goes on where it was stopped.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from safetensors.torch import load_file, save_file

from puretransforms.functional.augment import random_crop_flip
from puretransforms.functional.devices import PRECISIONS, working_dtype
from puretransforms.functional.langevin import langevin_chain
from puretransforms.functional.random import KeyedNoise
from puretransforms.models.energy import FoldedEnergyNet, frozen
from puretransforms.train.energy import denoising_score_matching
from puretransforms.transforms.baselines import JPEGCompress
from puretransforms.transforms.ebm import EBMPurify

SIZE, SMALLEST_CROP, CROPS_PER_PHOTO, HELD_OUT_EVERY = 32, 96, 50, 20
BUDGET = 8 / 255
MEASURED_STEPS = (25, 50, 75, 150)
SAVE_EVERY = 500


def crops(photos: list[Path], per_photo: int, seed: int) -> torch.Tensor:
    """uint8 ``[len(photos) * per_photo, 3, 32, 32]``."""
    random, out = np.random.default_rng(seed), []
    for path in photos:
        with PIL.Image.open(path) as file:
            photo = file.convert("RGB")
        short = min(photo.size)
        for side in random.integers(min(SMALLEST_CROP, short), short + 1, per_photo):
            left, top = (int(random.integers(length - side + 1)) for length in photo.size)
            box = (left, top, left + int(side), top + int(side))
            out.append(np.asarray(photo.resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC, box)))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).contiguous()


def from_npz(path: Path) -> torch.Tensor:
    """The first uint8 ``[N, 32, 32, 3]`` array of the file as ``[N, 3, 32, 32]``."""
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            if file[name].dtype == np.uint8 and file[name].shape[1:] == (SIZE, SIZE, 3):
                return torch.from_numpy(file[name]).permute(0, 3, 1, 2).contiguous()
    raise SystemExit(f"expected a uint8 array [N, {SIZE}, {SIZE}, 3] in {path}, found none.")


def load_data(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Images to train on and held-out images to measure on."""
    photos = sorted(p for p in args.photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(photos) < HELD_OUT_EVERY:
        raise SystemExit(f"expected at least {HELD_OUT_EVERY} photographs under {args.photos}, found {len(photos)}.")
    held_out = photos[::HELD_OUT_EVERY]
    train = [crops([p for p in photos if p not in set(held_out)], CROPS_PER_PHOTO, args.seed)]
    train += [from_npz(path) for path in args.npz]
    return torch.cat(train), crops(held_out, 2, args.seed + 1)


def measured_rate(images: torch.Tensor, precision: torch.dtype) -> float:
    """Updates per second of this machine, on a throwaway network."""
    records = denoising_score_matching(FoldedEnergyNet(), images, updates=40, precision=precision)
    for _ in range(10):
        next(records)
    start = time.perf_counter()
    return sum(1 for _ in records) / (time.perf_counter() - start)


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    save(temporary)
    temporary.replace(path)


def write_json(record: dict, path: Path) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n")


def train(args: argparse.Namespace, images: torch.Tensor) -> tuple[FoldedEnergyNet, dict]:
    """The trained net and how it was trained; goes on from the state in ``args.out`` if there is one."""
    state_file, plan_file = args.out / "training.safetensors", args.out / "training.json"
    asked = {"seed": args.seed, "precision": args.precision, "images": len(images)}
    if plan_file.exists():
        plan = json.loads(plan_file.read_text())
        if plan | asked != plan:
            raise SystemExit(f"{plan_file} belongs to another run, {plan}: remove it and {state_file} to start anew.")
    else:
        updates = args.updates or max(
            1, round(measured_rate(images, working_dtype(args.precision, "cpu")) * args.minutes * 60)
        )
        plan = asked | {"updates": updates, "seconds": 0.0}
    torch.manual_seed(args.seed)
    net = FoldedEnergyNet()
    start, spent, recent = time.perf_counter(), plan["seconds"], []
    for record in denoising_score_matching(
        net,
        images,
        updates=plan["updates"],
        augment=partial(random_crop_flip, padding=0),
        precision=working_dtype(args.precision, "cpu"),
        seed=args.seed,
        state=load_file(state_file) if state_file.exists() and plan_file.exists() else None,
    ):
        recent = [*recent[-199:], record.loss]
        if record.step % 200 == 0 or record.step == plan["updates"]:
            plan |= {"seconds": round(spent + time.perf_counter() - start, 1), "loss": float(np.mean(recent))}
            print(f"{record.step}/{plan['updates']} loss {plan['loss']:.4f} {plan['seconds']:.0f} s", flush=True)
        if record.step % SAVE_EVERY == 0 or record.step == plan["updates"]:
            write(state_file, partial(save_file, record.state()))
            write(plan_file, partial(write_json, plan))
    return net, plan


def measure(purifier: EBMPurify, images: torch.Tensor) -> dict:
    """Distortion of clean images, and what is left of a perturbation of 8/255, beside noise alone and JPEG.

    gain is ``<P(x + d) - P(x), d> / <d, d>`` with equal noise: 1 where the perturbation survives whole. AUROC is that
    of the energy of perturbed against clean images. Perturbations: random signs per pixel, or per 4x4 block.
    """
    x = images / 255
    generator = torch.Generator().manual_seed(0)
    versions = {"clean": x}
    for name, cell in (("pixel_signs", 1), ("block_signs", 4)):
        signs = torch.randint(2, (len(x), 3, SIZE // cell, SIZE // cell), generator=generator) * 2 - 1
        bump = BUDGET * signs.repeat_interleave(cell, -1).repeat_interleave(cell, -2)
        versions[name] = (x + bump).clamp(0, 1)

    def row(purified: dict[str, torch.Tensor]) -> dict:
        mse = (purified["clean"] - x).square().mean(dtype=torch.float64)
        out = {"psnr": round(-10 * math.log10(float(mse)), 2)}
        for name in list(versions)[1:]:
            d = versions[name] - x
            out[f"gain_{name}"] = round(float(((purified[name] - purified["clean"]) * d).sum() / d.square().sum()), 4)
        return out

    walk = torch.zeros_like(x)
    noise = KeyedNoise(0, torch.arange(len(x)))
    table: dict[str, dict] = {}
    chains = {name: states(purifier, version, noise, torch.bfloat16) for name, version in versions.items()}
    for step in range(max(MEASURED_STEPS)):
        purified = {name: next(chain) for name, chain in chains.items()}
        walk += noise.normal(step, 3, SIZE, SIZE) * (purifier.step_size / 2)
        if step + 1 in MEASURED_STEPS:
            table[f"ebm_{step + 1}"] = row(purified)
            table[f"noise_{step + 1}"] = row({name: (v + walk).clamp(0, 1) for name, v in versions.items()})
    for quality in (10, 30, 50, 75):
        table[f"jpeg_{quality}"] = row({name: JPEGCompress(quality)(v) for name, v in versions.items()})
    energies = {name: purifier.energy(version) for name, version in versions.items()}
    auroc = {name: float((e[:, None] > energies["clean"]).double().mean()) for name, e in energies.items()}
    few = x[:32], noise[:32]
    half, full = (list(islice(states(purifier, *few, p), 50))[-1] for p in (torch.bfloat16, torch.float32))
    return {
        "images": len(x),
        "purifiers": table,
        "energy_auroc": {name: round(auroc[name], 4) for name in list(versions)[1:]},
        "bf16_error_of_path": round(float((half - full).norm() / (full - few[0]).norm()), 5),
    }


def states(purifier: EBMPurify, x: torch.Tensor, noise: KeyedNoise, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """What ``purifier`` gives after 1, 2, ... steps."""
    net = frozen(purifier.net, dtype)
    settings = {"step_size": purifier.step_size, "temperature": purifier.temperature}
    for y in langevin_chain(lambda y: net(y.to(dtype)), x * 2 - 1, noise, steps=max(MEASURED_STEPS), **settings):
        yield y.clamp(-1, 1).add(1).div(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, short side 96 or more")
    parser.add_argument("--npz", type=Path, nargs="*", default=[], help="more images: uint8 [N, 32, 32, 3]")
    parser.add_argument("--minutes", type=float, default=20, help="how long to train, by a measurement at the start")
    parser.add_argument("--updates", type=int, help="exactly so many updates instead, for an exact repetition")
    parser.add_argument("--steps", type=int, default=75, help="Langevin steps to write into config.json")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    images, held_out = load_data(args)
    net, plan = train(args, images)
    purifier = EBMPurify(weights=None, steps=args.steps)
    purifier.net.load_state_dict(net.state_dict())
    purifier.save_pretrained(args.out)
    metrics = {"training": plan | {"torch": torch.__version__, "threads": args.threads}, **measure(purifier, held_out)}
    write(args.out / "metrics.json", partial(write_json, metrics))
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()

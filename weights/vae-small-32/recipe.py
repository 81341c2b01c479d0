"""Train and measure vae-small-32: a rate-limited autoencoder on downscaled crops of photographs, without labels.

About 25 minutes on one CPU core with bfloat16 instructions and a C++ compiler, for 167,779 parameters:

    python weights/vae-small-32/recipe.py --photos PHOTOS --minutes 25 --seed 0 --out weights/vae-small-32

Data: random square crops (96 pixels to the whole short side) of the photographs under PHOTOS, downscaled to 32x32
with antialiasing, mirrored at random: natural patches in which no codec is left to see. Every twentieth photograph is
held out for the measurements. ``--pairs`` adds a perturbation to measure: an npz with uint8 ``clean`` and ``poisoned``
(or the names given by ``--pair-names``), ``[N, 32, 32, 3]`` each.

Writes config.json and model.safetensors (``VAEPurify.from_pretrained(OUT)``), metrics.json, and while it runs
training.safetensors and training.json: the same command again goes on where it was stopped.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from safetensors.torch import load_file, save_file

from puretransforms.functional.augment import random_crop_flip
from puretransforms.functional.devices import PRECISIONS, working_dtype
from puretransforms.functional.rate import bits_per_pixel, gaussian_rate
from puretransforms.models.dvae import RateVAE, frozen
from puretransforms.train.rate import FitSchedule, fit_stage
from puretransforms.transforms.base import PureTransform
from puretransforms.transforms.baselines import JPEGCompress
from puretransforms.transforms.vae import VAEPurify

SIZE, SMALLEST_CROP, CROPS_PER_PHOTO, HELD_OUT_EVERY = 32, 96, 50, 20
WIDTH, LATENT = 32, 128
BATCH, LR = 64, 2e-3
BUDGET = 8 / 255
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


def load_data(folder: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images to train on and held-out images to measure on."""
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(photos) < HELD_OUT_EVERY:
        raise SystemExit(f"expected at least {HELD_OUT_EVERY} photographs under {folder}, found {len(photos)}.")
    held_out = photos[::HELD_OUT_EVERY]
    train = crops([p for p in photos if p not in set(held_out)], CROPS_PER_PHOTO, seed)
    return train, crops(held_out, 10, seed + 1)


def options(args: argparse.Namespace, epochs: int) -> dict:
    return {
        "rate_limit": args.rate,
        "schedule": FitSchedule(epochs=epochs, batch_size=BATCH, lr=LR),
        "augment": partial(random_crop_flip, padding=0),
        "precision": working_dtype(args.precision, "cpu"),
        "compiled": args.compiled,
        "seed": args.seed,
    }


def updates_per_second(args: argparse.Namespace, images: torch.Tensor) -> float:
    """Of this machine, on a throwaway network."""
    records = fit_stage(RateVAE(WIDTH, LATENT), images, **options(args, 1000))
    for _ in range(20):
        next(records)
    start = time.process_time()
    for _ in range(60):
        next(records)
    return 60 / (time.process_time() - start)


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    save(temporary)
    temporary.replace(path)


def write_json(record: dict, path: Path) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n")


def train(args: argparse.Namespace, images: torch.Tensor) -> tuple[RateVAE, dict]:
    """The trained net and how it was trained; goes on from the state in ``args.out`` if there is one."""
    state_file, plan_file = args.out / "training.safetensors", args.out / "training.json"
    asked = {"seed": args.seed, "images": len(images), "rate_limit": args.rate, "compiled": args.compiled}
    if plan_file.exists():
        plan = json.loads(plan_file.read_text())
        if plan | asked != plan:
            raise SystemExit(f"{plan_file} belongs to another run, {plan}: remove it and {state_file} to start anew.")
    else:
        epochs = args.epochs
        if epochs is None:
            updates = updates_per_second(args, images) * args.minutes * 60
            epochs = max(1, round(updates / (len(images) // BATCH)))
        plan = asked | {"epochs": epochs, "cpu_seconds": 0.0}
    torch.manual_seed(args.seed)
    net = RateVAE(WIDTH, LATENT)
    start, spent, recent = time.process_time(), plan["cpu_seconds"], []
    state = load_file(state_file) if state_file.exists() and plan_file.exists() else None
    for record in fit_stage(net, images, state=state, **options(args, plan["epochs"])):
        recent = [*recent[-199:], record.reconstruction]
        if record.step % 200 == 0 or record.step == record.updates:
            plan |= {"updates": record.step, "cpu_seconds": round(spent + time.process_time() - start, 1)}
            plan |= {"psnr": round(-10 * math.log10(np.mean(recent)), 2), "rate": round(record.rate, 3)}
            print(json.dumps(plan), flush=True)
        if record.step % SAVE_EVERY == 0 or record.step == record.updates:
            write(state_file, partial(save_file, record.state()))
            write(plan_file, partial(write_json, plan))
    return net.eval(), plan


def measure(purifier: VAEPurify, images: torch.Tensor, pairs: list[tuple[str, torch.Tensor, torch.Tensor]]) -> dict:
    """Distortion of clean images and what is left of a perturbation, beside JPEG.

    gain is ``<P(x + d) - P(x), d> / <d, d>``: 1 where the perturbation survives whole. Perturbations: random signs of
    8/255 per pixel, or per 4x4 block, on the held-out crops; and ``pairs``.
    """
    generator = torch.Generator().manual_seed(0)
    cases = []
    for name, cell in (("pixel_signs", 1), ("block_signs", 4)):
        signs = torch.randint(2, (len(images), 3, SIZE // cell, SIZE // cell), generator=generator) * 2 - 1
        bump = BUDGET * 255 * signs.repeat_interleave(cell, -1).repeat_interleave(cell, -2)
        cases.append((name, images, (images + bump).clamp(0, 255).to(torch.uint8)))
    cases += pairs

    def row(purify: PureTransform) -> dict:
        out = {"psnr": round(psnr(purify(images), images), 2)}
        for name, clean, perturbed in cases:
            d = (perturbed.double() - clean) / 255
            left = (purify(perturbed).double() - purify(clean)) / 255
            out[f"gain_{name}"] = round(float((left * d).sum() / d.square().sum()), 4)
            if (name, clean, perturbed) in pairs:
                out[f"psnr_{name}"] = round(psnr(purify(perturbed), clean), 2)
        return out

    net = frozen(purifier.net)
    with torch.no_grad():
        rate = float(gaussian_rate(*net.encode((images / 255).contiguous(memory_format=torch.channels_last))))
    rows = {"vae-small-32": row(purifier)} | {f"jpeg_{q}": row(JPEGCompress(q)) for q in (5, 10, 20, 30, 50, 75)}
    code = {"nats_per_cell": round(rate, 3), "bits_per_pixel": round(bits_per_pixel(rate, 2), 3)}
    return {"images": len(images), **code, "purifiers": rows}


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float(((a.double() - b.double()) / 255).square().mean()))


def load_pair(path: Path, names: list[str]) -> tuple[str, torch.Tensor, torch.Tensor]:
    with np.load(path, allow_pickle=False) as file:
        clean, poisoned = (torch.from_numpy(file[name]).permute(0, 3, 1, 2).contiguous() for name in names)
    return path.stem, clean, poisoned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, short side 96 or more")
    parser.add_argument("--minutes", type=float, default=25, help="CPU minutes to train, by a measurement at the start")
    parser.add_argument("--epochs", type=int, help="exactly so many epochs instead, for an exact repetition")
    parser.add_argument("--rate", type=float, default=3.0, help="limit in nats for a cell of 2x2 pixels")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--pairs", type=Path, nargs="*", default=[])
    parser.add_argument("--pair-names", nargs=2, default=["clean", "poisoned"])
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    images, held_out = load_data(args.photos, args.seed)
    net, plan = train(args, images)
    purifier = VAEPurify(weights=None, width=WIDTH, latent=LATENT)
    purifier.net.load_state_dict(net.state_dict())
    purifier.save_pretrained(args.out)
    purifier = VAEPurify.from_pretrained(args.out)
    pairs = [load_pair(path, args.pair_names) for path in args.pairs]
    metrics = {"training": plan | {"torch": torch.__version__, "threads": args.threads}}
    metrics |= measure(purifier, held_out, pairs)
    write(args.out / "metrics.json", partial(write_json, metrics))
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()

"""Train and measure unet-small: one network pass that damps perturbations, told how strongly.

    python weights/unet-small/recipe.py --photos PHOTOS --npz cifar100.npz --updates 14000 --threads 1 --seed 0

Data: the images of the ``--npz`` files as they are, and random square crops (96 pixels to the whole short side) of the
photographs under PHOTOS, downscaled to 32x32 with antialiasing. No image of CIFAR-10, no poison. Every twentieth
photograph is held out for the measurements.

Writes config.json and model.safetensors (``UNetPurify.from_pretrained(OUT)``, the averaged weights), metrics.json, and
while it runs training.safetensors and training.json: the same command again goes on where it was stopped.
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
from puretransforms.models.unet import ARCHITECTURES, PurifierUNet
from puretransforms.train.unet import averaged, denoise_and_damp
from puretransforms.transforms.baselines import JPEGCompress
from puretransforms.transforms.unet import UNetPurify

SIZE, SMALLEST_CROP, CROPS_PER_PHOTO, HELD_OUT_EVERY = 32, 96, 24, 20
SAVE_EVERY = 250
BUDGET = 8 / 255
STRENGTHS = ((8, 8), (16, 16), (25, 25), (40, 40), (60, 60), (16, 75))  # luma and chroma


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


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    save(temporary)
    temporary.replace(path)


def write_json(record: dict, path: Path) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n")


def train(args: argparse.Namespace, images: torch.Tensor) -> tuple[PurifierUNet, dict]:
    """The averaged net and how it was trained; goes on from the state in ``args.out`` if there is one."""
    state_file, plan_file = args.out / "training.safetensors", args.out / "training.json"
    plan = {"seed": args.seed, "images": len(images), "updates": args.updates, "batch_size": args.batch_size}
    plan |= {"arch": args.arch, "seconds": 0.0}
    if plan_file.exists():
        done = json.loads(plan_file.read_text())
        if {key: done.get(key) for key in plan} | {"seconds": 0.0} != plan:
            raise SystemExit(f"{plan_file} belongs to another run, {done}: remove it and {state_file} to start anew.")
        plan = done
    torch.manual_seed(args.seed)
    net = ARCHITECTURES[args.arch]()
    start, spent, recent = time.perf_counter(), plan["seconds"], []
    for record in denoise_and_damp(
        net,
        images,
        updates=args.updates,
        batch_size=args.batch_size,
        lr=args.lr,
        augment=partial(random_crop_flip, padding=0),
        seed=args.seed,
        state=load_file(state_file) if state_file.exists() and plan_file.exists() else None,
    ):
        recent = [*recent[-199:], (record.loss, record.denoised, record.gain)]
        if record.step % 100 == 0 or record.step == args.updates:
            loss, denoised, gain = (round(float(value), 5) for value in np.mean(recent, axis=0))
            plan |= {"seconds": round(spent + time.perf_counter() - start, 1)}
            plan |= {"step": record.step, "loss": loss, "denoised": denoised, "gain": gain}
            print(
                f"{record.step}/{args.updates} loss {loss:.5f} denoised {denoised:.4f} gain {gain:.4f} "
                f"{plan['seconds']:.0f} s",
                flush=True,
            )
        if record.step % SAVE_EVERY == 0 or record.step == args.updates:
            state = record.state()
            write(state_file, partial(save_file, state))
            write(plan_file, partial(write_json, plan))
    return averaged(net, load_file(state_file)), plan


def measure(purifier: UNetPurify, images: torch.Tensor) -> dict:
    """Distortion of clean images, and what is left of a perturbation of 8/255, beside JPEG.

    gain is ``<P(x + d) - P(x), d> / <d, d>``: 1 where the perturbation survives whole. Perturbations: random signs per
    pixel, or per 4x4 block.
    """
    x = images / 255
    generator = torch.Generator().manual_seed(0)
    versions = {}
    for name, cell in (("pixel_signs", 1), ("block_signs", 4)):
        signs = torch.randint(2, (len(x), 3, SIZE // cell, SIZE // cell), generator=generator) * 2 - 1
        bump = BUDGET * signs.repeat_interleave(cell, -1).repeat_interleave(cell, -2)
        versions[name] = (x + bump).clamp(0, 1)

    def row(purify: torch.nn.Module) -> dict:
        clean = purify(x)
        out = {"psnr": round(-10 * math.log10(float((clean - x).square().mean(dtype=torch.float64))), 2)}
        for name, version in versions.items():
            d = version - x
            out[f"gain_{name}"] = round(float(((purify(version) - clean) * d).sum() / d.square().sum()), 4)
        return out

    table = {}
    for purifier.strength, purifier.chroma in STRENGTHS:
        table[f"unet_{purifier.strength}_{purifier.chroma}"] = row(purifier)
    for quality in (10, 30, 50, 75):
        table[f"jpeg_{quality}"] = row(JPEGCompress(quality))
    return {"images": len(x), "purifiers": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, short side 96 or more")
    parser.add_argument("--npz", type=Path, nargs="*", default=[], help="more images: uint8 [N, 32, 32, 3]")
    parser.add_argument("--updates", type=int, default=14_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--arch", choices=ARCHITECTURES, default="small")
    parser.add_argument("--strength", type=float, default=16, help="of luma, to write into config.json")
    parser.add_argument("--chroma", type=float, default=75, help="strength of chroma, to write into config.json")
    parser.add_argument("--export", action="store_true", help="of the training as far as it is, without going on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    images, held_out = load_data(args)
    if args.export:
        plan = json.loads((args.out / "training.json").read_text())
        net = averaged(ARCHITECTURES[args.arch](), load_file(args.out / "training.safetensors"))
    else:
        net, plan = train(args, images)
    purifier = UNetPurify(weights=None, arch=args.arch, strength=args.strength, chroma=args.chroma)
    purifier.net.load_state_dict(net.state_dict())
    purifier.save_pretrained(args.out)
    metrics = {"training": plan | {"torch": torch.__version__, "threads": args.threads}, **measure(purifier, held_out)}
    write(args.out / "metrics.json", partial(write_json, metrics))
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()

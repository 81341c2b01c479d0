"""Photographs before and after ``UNetPurify`` at three strengths: a picture to look at, and what it does to colours.

    python experiments/unet_photographs.py PHOTOS --picture docs/results/unet-photographs.jpg \
        --out docs/results/unet-photographs.json

The whole of each photograph, its middle square, downscaled to 224 pixels; and the two largest whole, of which the
picture shows the middle 224 pixels. The committed picture is of astronaut, chelsea, coffee, hubble_deep_field, retina
and rocket of scikit-image 0.16, china and flower of scikit-learn, face of SciPy 1.9, all free to use.

``shift`` is the largest difference of the mean of a colour channel, ``checkerboard`` the amplitude of what the purifier
adds at a period of two pixels in both directions, both in units of 1/255.
"""

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from measured import write_json

from puretransforms.transforms.unet import UNetPurify

SIDE, LARGE = 224, 1024
STRENGTHS = ((10, 40), (25, 75), (50, 100))  # luma and chroma


def opened(path: Path) -> PIL.Image.Image:
    with PIL.Image.open(path) as file:
        return file.convert("RGB")


def pixels(photo: PIL.Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def middle(image: torch.Tensor) -> torch.Tensor:
    top, left = ((length - SIDE) // 2 for length in image.shape[-2:])
    return image[:, top : top + SIDE, left : left + SIDE]


def small(photo: PIL.Image.Image) -> PIL.Image.Image:
    side = min(photo.size)
    left, top = ((length - side) // 2 for length in photo.size)
    return photo.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def differences(before: torch.Tensor, after: torch.Tensor) -> dict[str, float]:
    change = after.double() - before.double()
    rows, columns = (torch.arange(length) for length in change.shape[-2:])
    board = 1 - 2 * ((rows[:, None] + columns) % 2)
    return {
        "psnr": round(float(20 * np.log10(255) - 10 * change.square().mean().log10()), 2),
        "shift": round(float(change.mean((1, 2)).abs().max()), 3),
        "checkerboard": round(float((change * board).mean((1, 2)).abs().max()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder")
    parser.add_argument("--weights", default="unet-small")
    parser.add_argument("--picture", type=Path, help="JPEG to write")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    photos = {path.stem: opened(path) for path in sorted(args.photos.iterdir())}
    largest = sorted(photos, key=lambda name: -max(photos[name].size))[:2]
    cases = {f"{name}, {SIDE}": pixels(small(photo)) for name, photo in photos.items()}
    for name in largest:
        photos[name].thumbnail((LARGE, LARGE))
        cases[f"{name}, {' x '.join(map(str, photos[name].size))}"] = pixels(photos[name])
    rows, table = [], {}
    for name, before in cases.items():
        shown = [middle(before)]
        for strength in STRENGTHS:
            after = UNetPurify(args.weights, strength=strength[0], chroma=strength[1])(before)
            table[f"{name}, luma {strength[0]}, chroma {strength[1]}"] = differences(before, after)
            shown.append(middle(after))
        rows.append(torch.cat(shown, dim=2))
    write_json({"weights": args.weights, "photographs": table}, args.out)
    if args.picture:
        PIL.Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy()).save(args.picture, quality=85)


if __name__ == "__main__":
    main()

"""Purify inside the dataset, in a torchvision v2 ``Compose``, one image at a time.

Where it runs: in the DataLoader's worker processes, on the CPU, anew at every access.
What it costs: a call for every image. The overhead of a call weighs more than the work on small images: prefer
``collate.py`` for those. CUDA cannot run here (forked workers); a purifier that needs it says so.
"""

import sys

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from puretransforms import COINInterpolate


def main(folder: str) -> torch.Tensor:
    """One batch of ``folder``: float ``[B, 3, 32, 32]``, normalised."""
    transform = v2.Compose(
        [
            v2.ToImage(),
            COINInterpolate(),  # before or after crop and flip, before Normalize
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.491, 0.482, 0.447], [0.247, 0.244, 0.262]),
        ]
    )
    loader = DataLoader(ImageFolder(folder, transform), batch_size=8, shuffle=True, num_workers=2)
    images, _ = next(iter(loader))
    return images


if __name__ == "__main__":
    print(main(sys.argv[1]).shape)

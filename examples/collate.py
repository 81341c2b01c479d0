"""Purify whole batches in ``collate_fn``.

Where it runs: in the DataLoader's worker processes, on the CPU, anew at every access.
What it costs: a call for every batch, so the fastest place on a CPU. All images of a batch must have one size by then.
"""

import sys

import torch
from torch.utils.data import DataLoader, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from puretransforms import COINInterpolate


class PurifyingCollate:
    """``default_collate``, then the purifier, then floats; a class, so that spawned workers can pickle it."""

    def __init__(self) -> None:
        self.purify = COINInterpolate()
        self.to_float = v2.ToDtype(torch.float32, scale=True)

    def __call__(self, samples: list) -> list:
        return self.to_float(self.purify(default_collate(samples)))


def main(folder: str) -> torch.Tensor:
    """One batch of ``folder``: float ``[B, 3, 32, 32]`` in ``[0, 1]``."""
    dataset = ImageFolder(folder, v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip()]))
    loader = DataLoader(dataset, batch_size=8, num_workers=2, collate_fn=PurifyingCollate())
    images, _ = next(iter(loader))
    return images


if __name__ == "__main__":
    print(main(sys.argv[1]).shape)

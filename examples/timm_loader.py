"""Purify in timm's loader, between its collation and its normalisation.

Where it runs: in the loader's workers, on the CPU. timm collates to uint8 and normalises later, on the device, which is
the place that a purifier wants.
What it costs: a call for every batch. Purify after the loader only with ``mean=(0,) * 3, std=(1,) * 3``: normalised
images are refused.
"""

import sys

import torch
from timm.data import create_loader
from timm.data.loader import fast_collate
from torchvision.datasets import ImageFolder

from puretransforms import COINInterpolate


class PurifyingCollate:
    """timm's collation, then the purifier, on uint8."""

    def __init__(self) -> None:
        self.purify = COINInterpolate()

    def __call__(self, samples: list) -> tuple:
        return self.purify(fast_collate(samples))


def main(folder: str) -> torch.Tensor:
    """One batch of ``folder``: float ``[B, 3, 32, 32]``, normalised by timm."""
    loader = create_loader(
        ImageFolder(folder),
        input_size=(3, 32, 32),
        batch_size=8,
        is_training=True,
        num_workers=0,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        use_prefetcher=True,
        collate_fn=PurifyingCollate(),
        persistent_workers=False,
    )
    images, _ = next(iter(loader))
    return images


if __name__ == "__main__":
    print(main(sys.argv[1]).shape)

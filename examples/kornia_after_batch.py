"""Purify inside kornia's ``AugmentationSequential``, after the batch.

Where it runs: in the main process, on the batch's device.
What it costs: a call for every batch, on floats; on a CPU it keeps the training process busy.
"""

import sys

import kornia.augmentation as K
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from puretransforms import COINInterpolate


def main(folder: str) -> torch.Tensor:
    """One batch of ``folder``: float ``[B, 3, 32, 32]`` in ``[0, 1]``."""
    dataset = ImageFolder(folder, v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]))
    augment = K.AugmentationSequential(COINInterpolate(), K.RandomHorizontalFlip(), data_keys=["input", "class"])
    images, labels = next(iter(DataLoader(dataset, batch_size=8)))
    images, _ = augment(images, labels)
    return images


if __name__ == "__main__":
    print(main(sys.argv[1]).shape)

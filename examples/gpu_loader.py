"""Purify after the batch with ``GPUTransformLoader``: on a side stream, one batch ahead of training.

Where it runs: in the main process, on the GPU; on a machine without one, on the CPU.
What it costs: time on the GPU that overlaps with training, and the memory of one more batch. The place for networks
(``VAEPurify``, ``EBMPurify``), which forked workers cannot run on a GPU.
"""

import sys

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from puretransforms import COINInterpolate, GPUTransformLoader


def main(folder: str) -> torch.Tensor:
    """One batch of ``folder``: uint8 ``[B, 3, 32, 32]`` on the device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = ImageFolder(folder, v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip()]))
    loader = DataLoader(dataset, batch_size=8, num_workers=2, pin_memory=device == "cuda")
    images, _ = next(iter(GPUTransformLoader(loader, COINInterpolate(), device)))
    return images


if __name__ == "__main__":
    print(main(sys.argv[1]).shape)

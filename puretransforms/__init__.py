"""Purify poisoned image data before training: torchvision-style transforms, poison generators, dataset cleaning."""

from .cleaning.run import CleanResult, clean
from .cleaning.verify import verify
from .data.loader import GPUTransformLoader
from .poisons.dataset import PoisonedDataset
from .transforms.base import BPDA, PureTransform
from .transforms.baselines import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur
from .transforms.coin import COINInterpolate

__all__ = [
    "BPDA",
    "BitDepthReduce",
    "COINInterpolate",
    "CleanResult",
    "GPUTransformLoader",
    "GaussianBlur",
    "Grayscale",
    "JPEGCompress",
    "MedianBlur",
    "PoisonedDataset",
    "PureTransform",
    "clean",
    "verify",
]

__version__ = "0.1.0"

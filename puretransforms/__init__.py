"""Purify poisoned image data before training: torchvision-style transforms, poison generators, dataset cleaning."""

from .transforms.base import BPDA, PureTransform
from .transforms.baselines import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur
from .transforms.coin import COINInterpolate

__all__ = [
    "BPDA",
    "BitDepthReduce",
    "COINInterpolate",
    "GaussianBlur",
    "Grayscale",
    "JPEGCompress",
    "MedianBlur",
    "PureTransform",
]

__version__ = "0.1.0"

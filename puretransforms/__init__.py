"""Purify poisoned image data before training: torchvision-style transforms, poison generators, dataset cleaning."""

from .cleaning.run import CleanResult, clean
from .cleaning.verify import verify
from .data.loader import GPUTransformLoader
from .hub.registry import get_weights, list_weights
from .poisons.dataset import PoisonedDataset
from .transforms.base import BPDA, PureTransform
from .transforms.baselines import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur
from .transforms.coin import COINInterpolate
from .transforms.ebm import EBMPurify
from .transforms.vae import VAEPurify

__all__ = [
    "BPDA",
    "BitDepthReduce",
    "COINInterpolate",
    "CleanResult",
    "EBMPurify",
    "GPUTransformLoader",
    "GaussianBlur",
    "Grayscale",
    "JPEGCompress",
    "MedianBlur",
    "PoisonedDataset",
    "PureTransform",
    "VAEPurify",
    "clean",
    "get_weights",
    "list_weights",
    "verify",
]

__version__ = "0.1.0"

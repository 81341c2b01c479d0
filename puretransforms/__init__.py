"""Purify poisoned image data before training: torchvision-style transforms, poison generators, dataset cleaning."""

from .auto import AutoPurify
from .cleaning.clean import CleanResult, clean
from .cleaning.verify import verify
from .data.loader import GPUTransformLoader
from .hub.registry import get_weights, list_weights
from .poisons.dataset import PoisonedDataset
from .scanning.scan import ScanResult, scan
from .transforms.base import BPDA, PureTransform
from .transforms.baselines import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur
from .transforms.coin import COINInterpolate
from .transforms.ebm import EBMPurify
from .transforms.vae import VAEPurify

__all__ = [  # noqa: RUF022 (plain sorting)
    "AutoPurify",
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
    "ScanResult",
    "VAEPurify",
    "clean",
    "get_weights",
    "list_weights",
    "scan",
    "verify",
]

__version__ = "0.1.0"

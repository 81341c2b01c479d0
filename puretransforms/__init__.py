"""Purify poisoned image data before training: torchvision-style transforms, poison generators, dataset cleaning."""

from difflib import get_close_matches as _close
from typing import TYPE_CHECKING as _TYPE_CHECKING

from . import poisons as _poisons
from .auto import AutoPurify
from .cleaning.clean import CleanResult, clean, clean_in_memory, estimate_clean
from .cleaning.verify import verify
from .data.loader import GPUTransformLoader
from .hub.weights import get_weights, list_weights
from .poisons.dataset import PoisonedDataset
from .registry import create, list_poisons, list_purifiers, register
from .scanning.scan import ScanResult, scan
from .transforms.base import BPDA, PureTransform
from .transforms.baselines import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur
from .transforms.chain import PurifierChain
from .transforms.coin import COINInterpolate
from .transforms.decoy import DecoyNoise
from .transforms.ebm import EBMPurify
from .transforms.projection import OrthogonalProjection
from .transforms.unet import UNetPurify
from .transforms.vae import VAEPurify

__all__ = [  # noqa: RUF022 (plain sorting)
    "AutoPurify",
    "BPDA",
    "BitDepthReduce",
    "COINInterpolate",
    "CleanResult",
    "DecoyNoise",
    "EBMPurify",
    "GPUTransformLoader",
    "GaussianBlur",
    "Grayscale",
    "JPEGCompress",
    "MedianBlur",
    "OrthogonalProjection",
    "PoisonedDataset",
    "PureTransform",
    "PurifierChain",
    "ScanResult",
    "UNetPurify",
    "VAEPurify",
    "clean",
    "clean_in_memory",
    "create",
    "estimate_clean",
    "get_weights",
    "list_poisons",
    "list_purifiers",
    "list_weights",
    "register",
    "scan",
    "verify",
]

__version__ = "0.2.0"


if not _TYPE_CHECKING:  # a type checker would take it for a promise of any name

    def __getattr__(name: str) -> object:
        """Say which public name is the nearest, as ``COINInterpolate`` is to ``COIN``."""
        near = [known for known in __all__ if known.lower().startswith(name.lower())] or _close(name, __all__, 1)
        near = [f"poisons.{name}"] if name in _poisons.__all__ else near
        hint = f": did you mean {__name__}.{near[0]}?" if near and not name.startswith("_") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name)

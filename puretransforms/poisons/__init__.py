"""Poison generators, one paper a file."""

from .autoregressive import AR
from .backdoor import Backdoor
from .badnets import BadNets
from .base import Poison
from .blend import Blend
from .bpp import BPP
from .convolution import CUDA, HUDA, VUDA
from .dataset import PoisonedDataset, asr_test_set
from .em import EMClasswise, EMSamplewise
from .lsp import LSP
from .noise import ClasswiseNoise, SamplewiseNoise
from .ops import OPS
from .record import PoisonRecord, load_poison_record
from .sig import SIG
from .wanet import WaNet

__all__ = [
    "AR",
    "BPP",
    "CUDA",
    "HUDA",
    "LSP",
    "OPS",
    "SIG",
    "VUDA",
    "Backdoor",
    "BadNets",
    "Blend",
    "ClasswiseNoise",
    "EMClasswise",
    "EMSamplewise",
    "Poison",
    "PoisonRecord",
    "PoisonedDataset",
    "SamplewiseNoise",
    "WaNet",
    "asr_test_set",
    "load_poison_record",
]

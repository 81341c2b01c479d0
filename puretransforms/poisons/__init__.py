"""Poison generators, one paper a file."""

from .autoregressive import AR
from .backdoor import Backdoor
from .badnets import BadNets
from .base import Poison
from .blend import Blend
from .bpp import BPP
from .bullseye_polytope import BullseyePolytope
from .convolution import CUDA, HUDA, VUDA
from .dataset import PoisonedDataset, asr_test_set
from .em import EMClasswise, EMSamplewise
from .gradient_matching import GradientMatching
from .lsp import LSP
from .narcissus import Narcissus
from .noise import ClasswiseNoise, SamplewiseNoise
from .ops import OPS
from .record import PoisonRecord, load_poison_record
from .rem import REM
from .sep import SEP
from .sig import SIG
from .tap import HYPO, TAP
from .targeted import TargetedPerturbation, TargetedSetup
from .wanet import WaNet

__all__ = [
    "AR",
    "BPP",
    "CUDA",
    "HUDA",
    "HYPO",
    "LSP",
    "OPS",
    "REM",
    "SEP",
    "SIG",
    "TAP",
    "VUDA",
    "Backdoor",
    "BadNets",
    "Blend",
    "BullseyePolytope",
    "ClasswiseNoise",
    "EMClasswise",
    "EMSamplewise",
    "GradientMatching",
    "Narcissus",
    "Poison",
    "PoisonRecord",
    "PoisonedDataset",
    "SamplewiseNoise",
    "TargetedPerturbation",
    "TargetedSetup",
    "WaNet",
    "asr_test_set",
    "load_poison_record",
]

"""Poison generators, one paper a file."""

from .availability.autoregressive import AR
from .availability.colour import ColourShift
from .availability.convolution import CUDA, HUDA, VUDA
from .availability.em import EMClasswise, EMSamplewise
from .availability.lsp import LSP
from .availability.mix import Mix
from .availability.noise import ClasswiseNoise, SamplewiseNoise
from .availability.ops import OPS
from .availability.pil import PIL
from .availability.rem import REM
from .availability.sep import SEP
from .availability.tap import HYPO, TAP
from .backdoor.badnets import BadNets
from .backdoor.base import Backdoor
from .backdoor.blend import Blend
from .backdoor.bpp import BPP
from .backdoor.narcissus import Narcissus
from .backdoor.sig import SIG
from .backdoor.wanet import WaNet
from .base import Poison
from .dataset import PoisonedDataset, asr_test_set
from .export import PoisonRecord, export, load_poison_record
from .targeted.base import TargetedPoison, TargetedSetup
from .targeted.bullseye_polytope import BullseyePolytope
from .targeted.gradient_matching import GradientMatching

__all__ = [
    "AR",
    "BPP",
    "CUDA",
    "HUDA",
    "HYPO",
    "LSP",
    "OPS",
    "PIL",
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
    "ColourShift",
    "EMClasswise",
    "EMSamplewise",
    "GradientMatching",
    "Mix",
    "Narcissus",
    "Poison",
    "PoisonRecord",
    "PoisonedDataset",
    "SamplewiseNoise",
    "TargetedPoison",
    "TargetedSetup",
    "WaNet",
    "asr_test_set",
    "export",
    "load_poison_record",
]

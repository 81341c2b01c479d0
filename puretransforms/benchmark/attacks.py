"""The poisons of the benchmark by name, and the poisoned data set that each makes of a clean one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..data.samples import LabelledImages
from ..errors import BenchmarkError, LabelError
from ..functional.shapes import Bool, Int, Tensor, UInt8
from ..poisons.availability.autoregressive import AR
from ..poisons.availability.convolution import CUDA, HUDA, VUDA
from ..poisons.availability.em import EMClasswise, EMSamplewise
from ..poisons.availability.lsp import LSP
from ..poisons.availability.noise import ClasswiseNoise, SamplewiseNoise
from ..poisons.availability.ops import OPS
from ..poisons.availability.rem import REM
from ..poisons.availability.sep import SEP
from ..poisons.availability.tap import HYPO, TAP
from ..poisons.backdoor.badnets import BadNets
from ..poisons.backdoor.base import Backdoor
from ..poisons.backdoor.blend import Blend
from ..poisons.backdoor.bpp import BPP
from ..poisons.backdoor.narcissus import Narcissus
from ..poisons.backdoor.sig import SIG
from ..poisons.backdoor.wanet import WaNet
from ..poisons.base import Poison
from ..poisons.dataset import PoisonedDataset
from ..poisons.targeted.base import TargetedPoison, TargetedSetup
from ..poisons.targeted.bullseye_polytope import BullseyePolytope
from ..poisons.targeted.gradient_matching import GradientMatching

CLEAN = "clean"
_BLOCK = 1000


@dataclass(frozen=True)
class Attacked:
    """A data set under attack, and the test images on which the attacker wants to win.

    Attributes:
        images, targets: what the victim is given to train on, uint8 ``[N, C, H, W]`` and int64 ``[N]``.
        mask: bool ``[N]``, the samples that the attacker changed.
        triggered: uint8 ``[M, C, H, W]``, test images as the attacker will show them: with the trigger of a backdoor,
            or the one target of a targeted attack. ``M = 0`` for an attack on the accuracy itself.
        wanted, truth: int64 ``[M]``, the classes that the attacker wants them to be taken for, and the true ones.
    """

    images: UInt8[Tensor, "n c h w"]
    targets: Int[Tensor, " n"]
    mask: Bool[Tensor, " n"]
    triggered: UInt8[Tensor, "m c h w"]
    wanted: Int[Tensor, " m"]
    truth: Int[Tensor, " m"]


@dataclass(frozen=True)
class Attack:
    """One row of the benchmark: ``make(train, test, num_classes, **options) -> Attacked``."""

    kind: str  # "availability", "backdoor" or "targeted"
    make: Callable[..., Attacked]


def poison_with(
    poison_class: Callable[..., Poison],
    train: LabelledImages,
    test: LabelledImages,
    num_classes: int,
    *,
    rate: float | None = None,
    **options: object,
) -> Attacked:
    """Poison a share ``rate`` of ``train``: the poison's own default if not given.

    A poison that must see the data first is fitted on them, on a GPU if there is one.
    """
    poison = poison_class(num_classes=num_classes, **options)
    if poison.needs_fit:
        device = _work_device() if not poison.fits_in_parts else "cpu"
        poison.fit(train.images.to(device), train.targets.to(device))
    dataset = PoisonedDataset(train, poison, rate=rate)
    images = torch.empty_like(train.images)
    for i in range(0, len(train), _BLOCK):
        block = list(range(i, min(i + _BLOCK, len(train))))
        images[block] = torch.stack([image for image, _ in dataset.__getitems__(block)])
    goal = triggered_test(poison, test) if isinstance(poison, Backdoor) else no_goal(train)
    return Attacked(images, dataset.targets, dataset.mask | dataset.cover_mask, *goal)


def target_with(
    poison_class: Callable[..., TargetedPoison],
    train: LabelledImages,
    test: LabelledImages,
    num_classes: int,
    *,
    setup: int = 0,
    rate: float = 0.01,
    **options: object,
) -> Attacked:
    """Aim at one test image by altering a share ``rate`` of ``train``, all of one class; see :func:`drawn_setup`."""
    chosen = drawn_setup(train, test, num_classes, setup, rate)
    poison = poison_class(num_classes=num_classes, **options)
    device = _work_device()
    crafted = poison.craft(train.images.to(device), train.targets.to(device), chosen)
    mask = torch.zeros(len(train), dtype=torch.bool)
    mask[chosen.base_indices] = True
    wanted, truth = (torch.tensor([label]) for label in (chosen.base_class, chosen.target_class))
    return Attacked(crafted.apply(train.images), train.targets, mask, chosen.target[None], wanted, truth)


def drawn_setup(
    train: LabelledImages, test: LabelledImages, num_classes: int, number: int, rate: float
) -> TargetedSetup:
    """Setup ``number`` of these data: two classes, a test image of one and training images of the other, at random.

    Raises:
        LabelError: the base class has fewer images than ``rate`` of the training set, or the target class none.
    """
    draw = torch.Generator().manual_seed(number)
    target_class, base_class = torch.randperm(num_classes, generator=draw)[:2].tolist()
    targets = (test.targets == target_class).nonzero()[:, 0]
    bases = (train.targets == base_class).nonzero()[:, 0]
    count = max(1, round(rate * len(train)))
    if not len(targets) or len(bases) < count:
        raise LabelError(
            f"expected a test image of class {target_class} and {count} training images of class {base_class}, got "
            f"{len(targets)} and {len(bases)}: lower the rate, or choose another setup."
        )
    target = test.images[targets[torch.randint(len(targets), (), generator=draw)]]
    chosen = bases[torch.randperm(len(bases), generator=draw)[:count]].sort().values
    return TargetedSetup(target, target_class, base_class, chosen)


def _work_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def triggered_test(poison: Backdoor, test: LabelledImages) -> tuple[Tensor, Tensor, Tensor]:
    """``triggered, wanted, truth`` of the test images whose true class is not already the wanted one."""
    wanted = poison.wanted(test.targets)
    kept = wanted != test.targets
    if not kept.any():
        raise LabelError(f"expected test images of other classes than the target {poison.target}, got none.")
    images = torch.cat([poison.trigger(part) for part in test.images[kept].split(_BLOCK)])
    return images, wanted[kept], test.targets[kept]


def no_goal(train: LabelledImages) -> tuple[Tensor, Tensor, Tensor]:
    """``triggered, wanted, truth`` of an attack that aims at no test image in particular."""
    return train.images[:0], train.targets[:0], train.targets[:0]


def _untouched(train: LabelledImages, test: LabelledImages, num_classes: int) -> Attacked:
    return Attacked(train.images, train.targets, torch.zeros(len(train), dtype=torch.bool), *no_goal(train))


def _availability(poison_class: Callable[..., Poison]) -> Attack:
    return Attack("availability", partial(poison_with, poison_class))


def _backdoor(poison_class: Callable[..., Poison]) -> Attack:
    return Attack("backdoor", partial(poison_with, poison_class))


def _targeted(poison_class: Callable[..., TargetedPoison]) -> Attack:
    return Attack("targeted", partial(target_with, poison_class))


ATTACKS: dict[str, Attack] = {
    CLEAN: Attack("availability", _untouched),
    "ar": _availability(AR),
    "badnets": _backdoor(BadNets),
    "blend": _backdoor(Blend),
    "bpp": _backdoor(BPP),
    "bullseye_polytope": _targeted(BullseyePolytope),
    "classwise": _availability(ClasswiseNoise),
    "cuda": _availability(CUDA),
    "em_classwise": _availability(EMClasswise),
    "em_samplewise": _availability(EMSamplewise),
    "gradient_matching": _targeted(GradientMatching),
    "huda": _availability(HUDA),
    "hypo": _availability(HYPO),
    "lsp": _availability(LSP),
    "narcissus": _backdoor(Narcissus),
    "ops": _availability(OPS),
    "rem": _availability(REM),
    "samplewise": _availability(SamplewiseNoise),
    "sep": _availability(SEP),
    "sig": _backdoor(SIG),
    "tap": _availability(TAP),
    "vuda": _availability(VUDA),
    "wanet": _backdoor(WaNet),
}
"""A new poison is one line here. The targeted ones take ``setup=0``, ``setup=1``, ...: one target each."""


def find_attack(spec: str) -> tuple[Attack, dict[str, object]]:
    """The attack and the options of ``name`` or ``name:option=value:option=value``, values in JSON or plain text.

    Raises:
        BenchmarkError: no such attack, or an option that is no ``option=value``.
    """
    name, *options = spec.split(":")
    if name not in ATTACKS:
        raise BenchmarkError(f"expected a poison among {', '.join(ATTACKS)}, got {name!r}.")
    given = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise BenchmarkError(f"expected options of a poison as name:option=value, got {spec!r}.")
        try:
            given[key] = json.loads(value)
        except ValueError:
            given[key] = value
    return ATTACKS[name], given

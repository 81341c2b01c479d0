"""The grid as plain data: which poison, purifier, classifier and seed; nothing runs here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from ..models.resnet import ResNet18
from ..train.settings import DIGITS_SETTING, ClassifierSetting

AVAILABILITY = ("clean", "lsp", "ops", "ar", "cuda", "vuda", "huda", "classwise", "em_classwise")
BACKDOORS = ("badnets", "blend", "sig", "wanet")
BASELINES = ("none", "jpeg10", "jpeg75", "gray", "bitdepth2", "median", "gaussian", "projection", "mixup", "cutmix")
OTHERS = ("coin", "coin_once", "ebm", "vae", "adversarial")


@dataclass(frozen=True, order=True)
class Case:
    """One training run. A poison may carry options (``badnets:target=3``), a purifier its weights (``ebm=folder``)."""

    poison: str
    purifier: str
    setting: str
    seed: int


@dataclass(frozen=True)
class Preset:
    """A grid and what it runs on.

    Attributes:
        setting: the classifier and its schedule.
        poisons, purifiers: names in the tables of ``attacks`` and ``defences``; ``clean`` is no poison, ``none`` no
            purifier.
        seeds: of training: order, augmentation, initial weights. The poison of a row is the same for all of them.
        train_size, test_size: a random part of the data, always the same; ``None`` for all of it.
        device: where to train and purify.
    """

    name: str
    setting: ClassifierSetting
    poisons: tuple[str, ...]
    purifiers: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    train_size: int | None = None
    test_size: int | None = None
    device: str = "cpu"

    def cases(self) -> Iterator[Case]:
        """Every case, all of the first seed before the next: a table is complete early, its spread comes later."""
        for seed, poison, purifier in product(self.seeds, self.poisons, self.purifiers):
            yield Case(poison, purifier, self.setting.name, seed)

    def with_grid(
        self,
        poisons: Sequence[str] | None = None,
        purifiers: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> "Preset":
        """The same preset with other rows and columns; the clean row and the undefended column are always there."""
        return replace(
            self,
            poisons=_first("clean", poisons or self.poisons),
            purifiers=_first("none", purifiers or self.purifiers),
            seeds=tuple(self.seeds if seeds is None else seeds),
        )


def _first(name: str, names: Sequence[str]) -> tuple[str, ...]:
    return (name, *(other for other in dict.fromkeys(names) if other != name))


_RESNET10 = partial(ResNet18, blocks=1)
NARROW_8 = ClassifierSetting("narrow", width=8, epochs=8, network=_RESNET10, batch_size=64, max_lr=0.1)
"""ResNet-10 of width 8, for CPUs: one minute a case. Poisons that are learned late look weak in eight epochs."""

NARROW_24 = replace(NARROW_8, name="narrow-24", epochs=24)
"""The same with the epochs in which such poisons (AR, class-wise noise) show."""

WIDE = ClassifierSetting("wide", width=64, epochs=15, batch_size=512, max_lr=0.4)
"""The published ResNet-18; bfloat16 and channels_last as every setting."""

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("tiny", DIGITS_SETTING, ("clean", "lsp", "cuda"), ("none", "gray", "coin"), seeds=(0,)),
        Preset(
            "cpu",
            NARROW_24,
            ("clean", "lsp", "ops", "ar", "cuda", "classwise", "em_classwise"),
            ("none", "jpeg10", "gray", "coin"),
            train_size=10_000,
            test_size=5_000,
        ),
        Preset(
            "short",
            NARROW_8,
            ("clean", "lsp", "badnets:margin=4"),
            ("none", "jpeg10", "coin", "ebm"),
            train_size=10_000,
            test_size=5_000,
        ),
        Preset("gpu", WIDE, (*AVAILABILITY, *BACKDOORS), (*BASELINES, *OTHERS), device="cuda"),
    )
}

"""The grid as plain data: which poison, purifier, classifier and seed; nothing runs here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ..train.settings import DIGITS_SETTING, FULL, QUARTER, ClassifierSetting

AVAILABILITY = (
    "clean",
    "lsp",
    "ops",
    "ar",
    "cuda",
    "vuda",
    "huda",
    "classwise",
    "em_classwise",
    "pil",
    "colour_shift",
    "mix",
    "mix:rate=0.2",
    "mix:rate=0.5",
    "mix:rate=0.8",
)
BACKDOORS = ("badnets", "blend", "sig", "wanet", "bpp")
OPTIMISED = (  # against a deep network, at a size that asks for a GPU
    "em_samplewise",
    "rem",
    "tap",
    "sep",
    "hypo",
    "narcissus",
    "gradient_matching",
    "bullseye_polytope",
)
BASELINES = (
    "none",
    "jpeg:quality=10",
    "jpeg:quality=30:chroma_quality=10",
    "jpeg:quality=75",
    "grayscale",
    "bitdepth",
    "median",
    "gaussian",
    "projection",
    "mixup",
    "cutmix",
    "grey_noise",
)
PURIFIERS = (
    "coin",
    "coin@once",
    "ebm",
    "vae",
    "unet",
    "unet@test",
    "unet:jitter=true@access",
    "decoy@access",
    'chain:steps=["unet","decoy"]@access',
    "auto",
)
COSTLY = (  # a network at every step of the training, or one that is fitted first
    "jpeg:quality=10@access",
    "ebm@access",
    "vae@access",
    "vae:weights=null",
    "adversarial",
    "error_max",
)


@dataclass(frozen=True, order=True)
class Case:
    """One training run.

    Attributes:
        poison: a registered name with its options, such as ``badnets:target=3``; or ``clean``.
        purifier: a registered name with its options and perhaps a place, such as ``jpeg:quality=10`` or ``coin@once``;
            or ``none``, or a training-time defence (:mod:`puretransforms.benchmark.defences`).
        setting: the name of the classifier and its schedule.
        seed: of training.
    """

    poison: str
    purifier: str
    setting: str
    seed: int


@dataclass(frozen=True)
class Preset:
    """A grid and what it runs on.

    Attributes:
        setting: the classifier and its schedule.
        poisons, purifiers: rows and columns as in :class:`Case`; ``clean`` is no poison, ``none`` no purifier.
        seeds: of training: order, augmentation, initial weights. The poison of a row is the same for all of them.
        train_size, test_size: a random part of the data, always the same; ``None`` for all of it.
        device: where to train and purify.
        digits: made for the digits, which are used where no data is given; other presets must be given some.
    """

    name: str
    setting: ClassifierSetting
    poisons: tuple[str, ...]
    purifiers: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    train_size: int | None = None
    test_size: int | None = None
    device: str = "cpu"
    digits: bool = False

    def cases(self) -> Iterator[Case]:
        """Every case, all of the first seed before the next: a table is complete early, its spread comes later."""
        for seed, poison, purifier in product(self.seeds, self.poisons, self.purifiers):
            yield Case(poison, purifier, self.setting.name, seed)

    def with_grid(
        self,
        poisons: Sequence[str] | None = None,
        purifiers: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        epochs: int | None = None,
    ) -> "Preset":
        """The same preset with other rows and columns; the clean row and the undefended column are always there.

        Another number of ``epochs`` makes another victim, with the number in its name.
        """
        setting = self.setting
        if epochs is not None and epochs != setting.epochs:
            setting = replace(setting, name=f"{setting.name}-{epochs}", epochs=epochs)
        return replace(
            self,
            setting=setting,
            poisons=_first("clean", poisons or self.poisons),
            purifiers=_first("none", purifiers or self.purifiers),
            seeds=tuple(self.seeds if seeds is None else seeds),
        )


def _first(name: str, names: Sequence[str]) -> tuple[str, ...]:
    return (name, *(other for other in dict.fromkeys(names) if other != name))


WIDE = ClassifierSetting("wide", width=64, epochs=15, batch_size=512, max_lr=0.4)
"""The published ResNet-18, as in most papers, on a short schedule; channels_last as every setting."""

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("tiny", DIGITS_SETTING, ("clean", "cuda"), ("none", "coin"), (0,), digits=True),
        Preset("quarter", QUARTER, (*AVAILABILITY, *BACKDOORS), (*BASELINES, *PURIFIERS)),
        Preset("full", FULL, (*AVAILABILITY, *BACKDOORS), (*BASELINES, *PURIFIERS)),
        Preset(
            "gpu",
            WIDE,
            (*AVAILABILITY, *BACKDOORS, *OPTIMISED),
            (*BASELINES, *PURIFIERS, *COSTLY),
            device="cuda",
        ),
    )
}

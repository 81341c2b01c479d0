"""Run a case of the benchmark to a frozen :class:`Result`: poison, purify, train, test after every epoch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import stdev
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..data.samples import LabelledImages
from ..train.classifier import Adapt, EpochRecord, Transform, evaluate, predict
from ..train.settings import ClassifierSetting
from .attacks import Attacked, find_attack
from .cache import Cache
from .cases import Case
from .defences import Defence, apply_purifier, find_defence
from .fidelity import Fidelity, measure_fidelity
from .sources import fingerprint

_BLOCK = 1000


@dataclass(frozen=True)
class Outcome:
    """How well training went; accuracies are fractions.

    All epochs matter: several poisons are weak under early stopping, which needs clean test data (Sandoval-Segura et
    al. 2022, arXiv 2204.08615).
    """

    train: float  # on the training data as the network saw them, last epoch
    test: list[float]  # on clean test data, after each epoch
    seconds: float  # of training, without the tests


def run_case(
    train: LabelledImages,
    test: LabelledImages,
    setting: ClassifierSetting,
    *,
    seed: int,
    transform: Transform | None = None,
    adapt: Adapt | None = None,
    num_classes: int = 10,
    device: str | None = None,
    probe: Callable[[nn.Module], object] | None = None,
    on_epoch: Callable[[int, float], object] | None = None,
) -> Outcome:
    """Train by ``setting`` on ``train``, each batch through ``transform`` (and ``adapt``), and test after each epoch.

    The test images stay as they are; ``probe`` is shown the network after each epoch too, and ``on_epoch``
    told its number (from 1) and the accuracy.
    """
    model, records = setting.train(
        train.images, train.targets, num_classes=num_classes, seed=seed, transform=transform, adapt=adapt, device=device
    )
    seconds, accuracies, record = 0.0, [], None
    for record in records:
        seconds += record.seconds
        accuracies.append(evaluate(model, test.images, test.targets, device=device))
        if probe is not None:
            probe(model)
        if on_epoch is not None:
            on_epoch(record.epoch, accuracies[-1])
    return Outcome(cast(EpochRecord, record).accuracy, accuracies, seconds)


def spread(values: list[float]) -> float:
    """Sample standard deviation; 0 of one value."""
    return stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Result:
    """What came of a case; accuracies are fractions of clean test images, one for each epoch.

    ``success`` is the share of triggered test images (backdoor) or of targets (targeted attack) that the network takes
    for what the attacker wants, one for each epoch, empty for other attacks; ``success_by_class`` is the last of them
    by true class. ``place`` is where the purifier acted.
    """

    poison: str
    purifier: str
    setting: str
    seed: int
    kind: str
    test: list[float]
    train: float  # on the training data as the network saw them, last epoch
    success: list[float]
    success_by_class: dict[str, float]
    seconds: float  # of training, without the tests
    place: str = ""

    @property
    def case(self) -> Case:
        """The case that this is the result of."""
        return Case(self.poison, self.purifier, self.setting, self.seed)


class Bench:
    """The data of a benchmark, and what its cases share: each poisoned and purified set is made once.

    Args:
        train, test: clean.
        device: where to purify and train.
        cache: where sets are kept.
    """

    def __init__(
        self, train: LabelledImages, test: LabelledImages, *, device: str = "cpu", cache: Cache | None = None
    ) -> None:
        self.train, self.test = train, test
        self.device = device
        self.cache = cache or Cache()
        self.num_classes = int(max(train.targets.max(), test.targets.max())) + 1
        self.fingerprint = fingerprint(train, test)
        self._fitted: dict[tuple[str, str], Any] = {}

    def run(
        self, case: Case, setting: ClassifierSetting, on_epoch: Callable[[int, float], object] | None = None
    ) -> Result:
        """Train and test; ``on_epoch`` is told the epoch (1, 2, ...) and the test accuracy after it, a fraction."""
        attack, defence = find_attack(case.poison), find_defence(case.purifier)
        attacked = self.attacked(case.poison)
        place = self._place(case, defence)
        images, test = attacked.images, self.test
        if place in ("once", "test"):
            images = self._purified(case, attacked.images, attacked.targets, "train")
        if place == "test":
            test = LabelledImages(self._purified(case, test.images, None, "test"), test.targets, test.classes)
            triggered = self._purified(case, attacked.triggered, None, "triggered")
            attacked = replace(attacked, triggered=triggered)
        transform, adapt = None, None
        if place == "access":
            purifier = self._purifier(case.poison, case.purifier)
            transform, adapt = (None, _with_labels(purifier)) if purifier.reads_labels else (purifier, None)
        if place == "training":
            adapt = defence.training(self.num_classes)
        success = _Success(attacked, self.num_classes)
        kept = torch.ones(len(images), dtype=torch.bool)
        if defence.drops:
            kept[[int(name) for name in self._purifier(case.poison, case.purifier).dropped]] = False
        outcome = run_case(
            LabelledImages(images[kept], attacked.targets[kept]),
            test,
            setting,
            seed=case.seed,
            transform=transform,
            adapt=adapt,
            num_classes=self.num_classes,
            device=self.device,
            probe=success if len(attacked.wanted) else None,
            on_epoch=on_epoch,
        )
        return Result(
            **vars(case),
            kind=attack.kind,
            **vars(outcome),
            success=success.shares,
            success_by_class=success.by_class,
            place=place,
        )

    def fidelity(self, poison: str, purifier: str, sample: int = 500) -> Fidelity | None:
        """What the purifier does to (at most ``sample`` of the) poisoned images; ``None`` if it changes no image."""
        defence = find_defence(purifier)
        if defence.place == "training":
            return None
        attacked = self.attacked(poison)
        rows = (attacked.mask.nonzero()[:, 0] if attacked.mask.any() else torch.arange(len(self.train)))[:sample]
        return measure_fidelity(
            poison,
            purifier,
            None if defence.place == "nowhere" else self._purifier(poison, purifier),
            self.train.images[rows].to(self.device),
            attacked.images[rows].to(self.device),
            attacked.targets[rows],
        )

    def attacked(self, poison: str) -> Attacked:
        """The training set under this attack."""

        def make() -> dict[str, Tensor]:
            return vars(find_attack(poison).run(self.train, self.test, self.num_classes))

        return Attacked(**self.cache.get([self.fingerprint, poison], make))

    def _place(self, case: Case, defence: Defence) -> str:
        if defence.place != "advised":
            return defence.place
        return "access" if getattr(self._purifier(case.poison, case.purifier), "online", False) else "once"

    def _purifier(self, poison: str, purifier: str) -> Any:
        """The purifier of a column, fitted to the poisoned set if it has to be; those of one poison are kept."""
        key = (poison, purifier)
        if key not in self._fitted:
            self._fitted = {known: made for known, made in self._fitted.items() if known[0] == poison}
            attacked = self.attacked(poison)
            poisoned = LabelledImages(attacked.images, attacked.targets, self.train.classes)
            self._fitted[key] = find_defence(purifier).purifier(
                poisoned, self.cache.path([self.fingerprint, poison, purifier, "fit"], ".fit.safetensors")
            )
        return self._fitted[key]

    def _purified(self, case: Case, images: Tensor, labels: Tensor | None, part: str) -> Tensor:
        """``images`` purified once, in blocks; the labels that they carry are for a purifier that reads them."""

        def make() -> dict[str, Tensor]:
            purifier = self._purifier(case.poison, case.purifier)
            blocks = [slice(i, i + _BLOCK) for i in range(0, len(images), _BLOCK)]
            purified = [
                apply_purifier(purifier, images[block].to(self.device), None if labels is None else labels[block]).cpu()
                for block in blocks
            ]
            return {"images": torch.cat(purified) if purified else images}

        return self.cache.get([self.fingerprint, case.poison, case.purifier, part], make)["images"]


class _Success:
    """Asks the network after each epoch what it takes the attacker's test images for."""

    def __init__(self, attacked: Attacked, num_classes: int) -> None:
        self.attacked = attacked
        self.shares: list[float] = []
        self.by_class: dict[str, float] = {}

    def __call__(self, model: nn.Module) -> None:
        attacked = self.attacked
        hits = (predict(model, attacked.triggered) == attacked.wanted).double()
        self.shares.append(float(hits.mean()))
        classes = attacked.truth.unique().tolist()
        self.by_class = {str(label): float(hits[attacked.truth == label].mean()) for label in classes}


def _with_labels(purifier: Any) -> Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A purifier that reads labels, as a step of the training: there the labels are at hand."""

    def adapt(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return apply_purifier(purifier, x, y), y

    return adapt

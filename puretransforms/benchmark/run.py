"""Run a case of the benchmark to a frozen :class:`Result`: poison, purify, train, test."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.samples import LabelledImages
from ..train.classifier import predict
from ..train.settings import ClassifierSetting
from .attacks import Attacked, find_attack
from .cases import Case
from .defences import Defence, find_defence
from .fidelity import Fidelity, measure_fidelity
from .outcome import run_case
from .sources import fingerprint
from .store import Store


@dataclass(frozen=True)
class Result:
    """What came of a case; accuracies are fractions of clean test images, one for each epoch.

    ``success`` is the share of triggered test images (backdoor) or of targets (targeted attack) that the network takes
    for what the attacker wants, one for each epoch, empty for other attacks; ``success_by_class`` is the last of them
    by true class.
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

    @property
    def case(self) -> Case:
        """The case that this is the result of."""
        return Case(self.poison, self.purifier, self.setting, self.seed)


class Bench:
    """The data of a benchmark, and what its cases share: each poisoned and purified set is made once.

    Args:
        train, test: clean.
        device: where to purify and train.
        store: where sets are kept.
    """

    def __init__(
        self, train: LabelledImages, test: LabelledImages, *, device: str = "cpu", store: Store | None = None
    ) -> None:
        self.train, self.test = train, test
        self.device = device
        self.store = store or Store()
        self.num_classes = int(max(train.targets.max(), test.targets.max())) + 1
        self.fingerprint = fingerprint(train, test)

    def run(self, case: Case, setting: ClassifierSetting) -> Result:
        """Train and test; the purifier sees the training images alone."""
        attack, _ = find_attack(case.poison)
        defence, _ = find_defence(case.purifier)
        attacked = self.attacked(case.poison)
        made = None if defence.place in ("nowhere", "stored") else self._defence(case.purifier, attacked)
        if defence.place == "advised":
            defence = replace(defence, place="after" if made.online else "stored")
        victim = LabelledImages(self._stored(case, defence, attacked, made), attacked.targets)
        if defence.place == "before":
            setting = replace(setting, augment=_before(made, setting.augment))
        success = _Success(attacked, self.num_classes)
        outcome = run_case(
            case.poison,
            victim,
            self.test,
            setting,
            seed=case.seed,
            transform=made if defence.place == "after" else None,
            adapt=made if defence.place == "step" else None,
            num_classes=self.num_classes,
            device=self.device,
            probe=success if len(attacked.wanted) else None,
        )
        return Result(
            case.poison,
            case.purifier,
            case.setting,
            case.seed,
            attack.kind,
            outcome.test,
            outcome.train,
            success.shares,
            success.by_class,
            outcome.seconds,
        )

    def fidelity(self, poison: str, purifier: str, sample: int = 500) -> Fidelity | None:
        """What the purifier does to (at most ``sample`` of the) poisoned images; ``None`` if it changes no image."""
        defence, _ = find_defence(purifier)
        if defence.place == "step":
            return None
        attacked = self.attacked(poison)
        rows = (attacked.mask.nonzero()[:, 0] if attacked.mask.any() else torch.arange(len(self.train)))[:sample]
        transform = _bound(self._defence(purifier, attacked), defence, attacked.targets[rows])
        return measure_fidelity(
            poison, purifier, transform, self.train.images[rows].to(self.device), attacked.images[rows].to(self.device)
        )

    def attacked(self, poison: str) -> Attacked:
        """The training set under this attack."""
        attack, options = find_attack(poison)

        def make() -> dict[str, Tensor]:
            return vars(attack.make(self.train, self.test, self.num_classes, **options))

        return Attacked(**self.store.get([self.fingerprint, poison], make))

    def _stored(self, case: Case, defence: Defence, attacked: Attacked, made: Any) -> Tensor:
        if defence.place != "stored":
            return attacked.images

        def make() -> dict[str, Tensor]:
            transform = self._defence(case.purifier, attacked) if made is None else made
            parts = zip(attacked.images.split(1000), attacked.targets.split(1000), strict=True)
            bound = (_bound(transform, defence, labels)(part.to(self.device)).cpu() for part, labels in parts)
            return {"images": torch.cat(list(bound))}

        return self.store.get([self.fingerprint, case.poison, case.purifier], make)["images"]

    def _defence(self, purifier: str, attacked: Attacked) -> Any:
        defence, weights = find_defence(purifier)
        return defence.make(LabelledImages(attacked.images, attacked.targets), self.num_classes, weights)


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


def _bound(transform: Any, defence: Defence, labels: Tensor) -> Any:
    """``transform`` as a function of images alone, also where it reads the labels that they carry."""
    return (lambda images: transform(images, labels)[0]) if defence.labelled else transform


def _before(transform: Any, augment: Any) -> Any:
    """``transform`` on the float images, then ``augment``, both in ``0 .. 255``."""

    def both(images: Tensor, generator: torch.Generator) -> Tensor:
        x = transform(images.float().div_(255)).mul_(255)
        return x if augment is None else augment(x, generator)

    return both

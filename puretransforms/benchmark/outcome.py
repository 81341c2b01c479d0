"""A training run tested after every epoch, and what several runs say together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import cast

from torch import nn

from ..data.samples import LabelledImages
from ..train.classifier import Adapt, EpochRecord, Transform, evaluate
from ..train.settings import ClassifierSetting


@dataclass(frozen=True)
class Outcome:
    """How well training went; accuracies are fractions.

    Both ``last`` and ``peak`` matter: several poisons are weak under early stopping, which needs clean test data
    (Sandoval-Segura et al. 2022, arXiv 2204.08615).
    """

    data: str
    setting: str
    seed: int
    train: float  # on the training data, last epoch
    test: list[float]  # on clean test data, after each epoch
    seconds: float  # of training, without the tests

    @property
    def last(self) -> float:
        """Test accuracy after the last epoch."""
        return self.test[-1]

    @property
    def peak(self) -> float:
        """Best test accuracy of all epochs."""
        return max(self.test)


def run_case(
    data: str,
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
        train.images,
        train.targets,
        num_classes=num_classes,
        seed=seed,
        transform=transform,
        adapt=adapt,
        device=device,
    )
    seconds, accuracies, record = 0.0, [], None
    for record in records:
        seconds += record.seconds
        accuracies.append(evaluate(model, test.images, test.targets, device=device))
        if probe is not None:
            probe(model)
        if on_epoch is not None:
            on_epoch(record.epoch, accuracies[-1])
    return Outcome(data, setting.name, seed, cast(EpochRecord, record).accuracy, accuracies, seconds)


@dataclass(frozen=True)
class Row:
    """One kind of data over its seeds, in percent: means, and sample standard deviations (0 for one seed)."""

    data: str
    seeds: int
    last: float
    last_std: float
    peak: float
    peak_std: float
    train: float
    seconds: float


def summarize(outcomes: Iterable[Outcome]) -> list[Row]:
    """One row for each kind of data, in the order of first appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.data, []).append(outcome)
    return [_row(data, group) for data, group in groups.items()]


def recovery(rows: Iterable[Row], purified: str, clean: str = "clean", poisoned: str = "poisoned") -> str:
    """One sentence: the share of the accuracy lost to the poison (last epoch) that purification wins back."""
    last = {row.data: row.last for row in rows}
    lost, back = last[clean] - last[poisoned], last[purified] - last[poisoned]
    if lost <= 0:
        return f"{purified}: {back:+.1f} points; the poison cost nothing ({0 - lost:+.1f} points)"
    return f"{purified}: {back:+.1f} points, {back / lost:.0%} of the {lost:.1f} that the poison cost"


def _row(data: str, group: list[Outcome]) -> Row:
    last, peak = ([100 * value for value in values] for values in zip(*((o.last, o.peak) for o in group), strict=True))
    return Row(
        data=data,
        seeds=len(group),
        last=mean(last),
        last_std=spread(last),
        peak=mean(peak),
        peak_std=spread(peak),
        train=mean(100 * outcome.train for outcome in group),
        seconds=mean(outcome.seconds for outcome in group),
    )


def spread(values: list[float]) -> float:
    """Sample standard deviation; 0 of one value."""
    return stdev(values) if len(values) > 1 else 0.0

"""Named settings: which classifier, trained how, so that a benchmark row can say it in one word."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from ..functional.augment import random_crop_flip, random_shift
from ..functional.shapes import Tensor
from ..models.airbench import AirbenchNet
from ..models.resnet import ResNet18, SmallConvNet
from .classifier import Adapt, Augment, EpochRecord, Transform, train_classifier
from .recipes import MuonRecipe, OneCycleSGD, Recipe


@dataclass(frozen=True)
class ClassifierSetting:
    """A network, its width, and its schedule (:func:`~puretransforms.train.classifier.train_classifier`)."""

    name: str
    width: int | tuple[int, int, int]
    epochs: int
    network: Callable[..., nn.Module] = ResNet18  # network(num_classes, width=...)
    batch_size: int = 128
    max_lr: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augment: Augment | None = random_crop_flip
    alternating_flip: bool = False
    recipe: Recipe | None = None  # None: OneCycleSGD(max_lr, weight_decay)

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        num_classes: int = 10,
        seed: int = 0,
        transform: Transform | None = None,
        adapt: Adapt | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[nn.Module, Iterator[EpochRecord]]:
        """A fresh model, initialised by ``seed``, and the generator that trains it."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = self.network(num_classes, width=self.width)
        records = train_classifier(
            model,
            images,
            labels,
            epochs=self.epochs,
            batch_size=self.batch_size,
            recipe=self.recipe or OneCycleSGD(self.max_lr, self.weight_decay),
            label_smoothing=self.label_smoothing,
            augment=self.augment,
            alternating_flip=self.alternating_flip,
            transform=transform,
            adapt=adapt,
            seed=seed,
            device=device,
        )
        return model, records

    def describe(self) -> dict[str, str | int | float]:
        """Its names and numbers, for a line of results; functions stand as their source says them."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: object) -> str | int | float:
    if isinstance(value, partial):
        given = ", ".join(f"{key}={setting!r}" for key, setting in value.keywords.items())
        return f"{_plain(value.func)}({given})"
    return value if isinstance(value, str | int | float) else getattr(value, "__name__", repr(value))


CPU_SETTING = ClassifierSetting("cpu", width=16, epochs=5)
"""CIFAR-10 on one core with bfloat16 instructions: some 85 seconds an epoch; 80.2 % test accuracy (docs/results)."""

DIGITS_SETTING = ClassifierSetting(
    "digits",
    width=16,
    epochs=12,
    network=SmallConvNet,
    batch_size=64,
    max_lr=0.05,
    augment=partial(random_crop_flip, padding=2, flip=False),
)
"""Five seconds on one core for the 1,297 digits of the demonstration."""

QUARTER = ClassifierSetting(
    "quarter",
    width=(16, 64, 64),
    epochs=8,
    network=AirbenchNet,
    batch_size=2000,
    label_smoothing=0.2,
    augment=random_shift,
    alternating_flip=True,
    recipe=MuonRecipe(),
)
"""All of CIFAR-10 in some ten minutes of one core without bfloat16."""

FULL = replace(QUARTER, name="full", width=(32, 128, 128))
"""The same with four times the parameters and three times the time."""

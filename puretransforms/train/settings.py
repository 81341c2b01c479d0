"""Named settings: which classifier, trained how, so that a benchmark row can say it in one word."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ..functional.augment import random_crop_flip
from ..functional.shapes import Tensor
from ..models.resnet import ResNet18, SmallConvNet
from .classifier import Adapt, Augment, EpochRecord, Transform, train_classifier


@dataclass(frozen=True)
class ClassifierSetting:
    """A network, its width, and its schedule (:func:`~puretransforms.train.classifier.train_classifier`)."""

    name: str
    width: int
    epochs: int
    network: Callable[..., nn.Module] = ResNet18  # network(num_classes, width=...)
    batch_size: int = 128
    max_lr: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augment: Augment | None = random_crop_flip

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
            max_lr=self.max_lr,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            augment=self.augment,
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

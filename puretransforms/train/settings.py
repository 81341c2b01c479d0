"""Named settings: which classifier, trained how, so that a benchmark row can say it in one word."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..functional.shapes import Tensor
from ..models.resnet import ResNet18
from .classifier import EpochRecord, Transform, train_classifier


@dataclass(frozen=True)
class ClassifierSetting:
    """A ResNet-18 width and a schedule under one name, so that a benchmark row can say how it was trained."""

    name: str
    width: int
    epochs: int
    batch_size: int = 128
    max_lr: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        num_classes: int = 10,
        seed: int = 0,
        transform: Transform | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[ResNet18, Iterator[EpochRecord]]:
        """A fresh model, initialised by ``seed``, and the generator that trains it (:func:`train_classifier`)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ResNet18(num_classes, width=self.width)
        records = train_classifier(
            model,
            images,
            labels,
            epochs=self.epochs,
            batch_size=self.batch_size,
            max_lr=self.max_lr,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            transform=transform,
            seed=seed,
            device=device,
        )
        return model, records


CPU_SETTING = ClassifierSetting("cpu", width=16, epochs=5)

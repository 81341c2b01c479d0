"""Purify in Lightning's ``on_after_batch_transfer``.

Where it runs: in the main process, on the device that the batch was moved to, in training alone.
What it costs: a call for every batch, not overlapped with the training step.
"""

import sys
from typing import Any

import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from puretransforms import COINInterpolate


class Classifier(lightning.LightningModule):
    """A linear classifier that never sees an unpurified training image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, classes))
        self.purify = COINInterpolate()
        self.batches: list[torch.Tensor] = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.purify(batch) if self.trainer.training else batch

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        self.batches.append(images)
        return F.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), 0.01)


def main(folder: str) -> torch.Tensor:
    """Trains for an epoch; the first batch that the network saw, float ``[B, 3, 32, 32]`` in ``[0, 1]``."""
    dataset = ImageFolder(folder, v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]))
    model = Classifier(len(dataset.classes))
    trainer = lightning.Trainer(max_epochs=1, devices=1, logger=False, enable_checkpointing=False)
    trainer.fit(model, DataLoader(dataset, batch_size=8))
    return model.batches[0]


if __name__ == "__main__":
    print(main(sys.argv[1]).shape)

"""Purify for transformers' ``Trainer``, in its ``data_collator``.

Where it runs: in the DataLoader's workers (``dataloader_num_workers``), on the CPU.
What it costs: a call for every batch. ``remove_unused_columns=False`` is needed, or the Trainer drops the image column.
"""

import sys
import tempfile
from typing import Any

import torch
from datasets import load_dataset
from torchvision.transforms.v2 import functional as F
from transformers import Trainer, TrainingArguments

from puretransforms import COINInterpolate


class Classifier(torch.nn.Module):
    """A linear classifier as the Trainer expects it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, classes))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(pixel_values)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Collate:
    """PIL images to a purified float batch."""

    def __init__(self) -> None:
        self.purify = COINInterpolate()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = self.purify(torch.stack([F.pil_to_tensor(row["image"].convert("RGB")) for row in rows]))
        return {"pixel_values": images.float() / 255, "labels": torch.tensor([row["label"] for row in rows])}


def main(folder: str) -> torch.Tensor:
    """Trains for two steps; one batch as the network sees it, float ``[B, 3, 32, 32]`` in ``[0, 1]``."""
    source = load_dataset("imagefolder", data_dir=folder, split="train")
    with tempfile.TemporaryDirectory() as out:
        options = TrainingArguments(
            out,
            max_steps=2,
            per_device_train_batch_size=8,
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
        )
        model = Classifier(source.features["label"].num_classes)
        trainer = Trainer(model, options, data_collator=Collate(), train_dataset=source)
        trainer.train()
        return next(iter(trainer.get_train_dataloader()))["pixel_values"].cpu()


if __name__ == "__main__":
    print(main(sys.argv[1]).shape)

"""Does what denoising removes tell the class better than what it leaves?"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from ...functional.detect.probe import patch_filters, probe, texture_features
from ...functional.detect.residual import flat_level
from ...functional.shapes import Tensor
from ..sample import Sample, to_tiles
from .base import ENOUGH, Detector, Finding, Kind, too_few_classes

PROBED = 2000  # images
LEAST = 200  # images: with fewer, accuracies left out one by one vary too much to be compared
FLAT = "residual level where images are flattest (of 255; 10th percentile over the images)"
_FILLED = 1.25  # levels of 255: above, flat places carry noise; photographs come to about 1, convolved ones to 1.15


class Shortcut(Detector):
    """Accuracy of a linear classifier on the residual, less that of one on the rest of the picture."""

    @abstractmethod
    def features(self, sample: Sample, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, D]`` of the residuals and of the rest."""

    def more(self, sample: Sample) -> dict[str, Any]:
        """Further evidence."""
        return {}

    def look(self, sample: Sample) -> Finding:
        rows = torch.arange(min(len(sample), PROBED))
        tested = (sample.labels[rows].bincount() >= ENOUGH).nonzero()[:, 0]
        if len(tested) < 2:
            return self.untested(too_few_classes(len(tested)))
        rows = rows[torch.isin(sample.labels[rows], tested)]
        if len(rows) < LEAST:
            return self.untested(
                f"it needs at least {LEAST} images in classes of at least {ENOUGH}, and the sample has {len(rows)}"
            )
        labels = torch.searchsorted(tested, sample.labels[rows])
        fine, rest = self.features(sample, rows)
        of_fine, of_rest = probe(fine, labels), probe(rest, labels)
        gain = of_fine.hits.float() - of_rest.hits.float()
        chance = float(labels.bincount().max()) / len(labels)
        evidence = {
            "accuracy on the residual (samples, accuracy)": of_fine.curve,
            "accuracy on the rest (samples, accuracy)": of_rest.curve,
            "accuracy on the residual, labels shuffled": of_fine.shuffled,
            "chance": chance,
        }
        return Finding(
            self,
            min(float(gain.mean()), of_fine.curve[-1][1] - chance),  # a rest below chance is no yardstick
            float(gain.std()) / len(gain) ** 0.5,
            {sample.classes[label]: float(gain[labels == i].mean()) for i, label in enumerate(tested.tolist())},
            evidence=evidence | self.more(sample),
        )


@dataclass(frozen=True, kw_only=True)
class TextureShortcut(Shortcut):
    """Accuracy on local patterns of the whitened residual, less that on local patterns of the rest."""

    name = "texture shortcut"
    question = "Does the fine texture that denoising removes tell the class better than the picture that is left?"
    weight = 4

    def features(self, sample: Sample, rows: Tensor) -> tuple[Tensor, Tensor]:
        out = []
        for view in (sample.whitened, sample.pictures):
            views = view(rows)
            filters = patch_filters(to_tiles(views) if sample.tiled else views)
            out.append(texture_features(views, filters))
        return out[0], out[1]

    def more(self, sample: Sample) -> dict[str, Any]:
        rows = torch.arange(min(len(sample), PROBED))
        return {FLAT: float(flat_level(sample.residuals(rows)).quantile(0.1)) * 255}

    def kind(self, finding: Finding) -> Kind | None:
        return Kind.BOUNDED if finding.evidence.get(FLAT, 0.0) > _FILLED else Kind.CONVOLVED


@dataclass(frozen=True, kw_only=True)
class PixelShortcut(Shortcut):
    """Accuracy of a linear classifier on the whitened residual, less that of one on the rest."""

    name = "pixel shortcut"
    question = "Does a linear classifier on the pixels that denoising removes beat one on the picture that is left?"
    weight = 3

    def features(self, sample: Sample, rows: Tensor) -> tuple[Tensor, Tensor]:
        return sample.whitened(rows).flatten(1), sample.pictures(rows).flatten(1)

    def kind(self, finding: Finding) -> Kind | None:
        return Kind.BOUNDED

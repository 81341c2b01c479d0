"""Are the residuals nearest to that of an image all of its own class? A part of the images is enough."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import cast

import torch

from ...errors import WeightsCorruptedError, WeightsUnavailableError
from ...functional.detect.neighbours import autocorrelations, decorrelated, flat_spectrum, own_among_nearest
from ...functional.detect.residual import whitened
from ...functional.shapes import Tensor
from ...transforms.unet import UNetPurify
from ..sample import Sample, from_tiles, to_tiles
from .base import ENOUGH, Detector, Finding, Kind, too_few_classes, wilson

LOOKED_AT = 2000  # images
LEAST = 200  # images: among fewer, a part of a class is a handful
_CHUNK = 128


@dataclass(frozen=True, kw_only=True)
class Neighbours(Detector):
    """The share of the images whose nearest residuals, among unlike pictures, are all of their own class.

    Nearest by the pixels of the residual, or by its autocorrelations: a pattern that repeats, or noise of one kind. The
    residual is what a small network takes away that was trained to remove faint unstructured noise. By chance alone one
    image in 50,000 scores. An image scores the larger share of its nearest that are of its own class; 1 is a suspect.

    Args:
        unet: a purifier, or the name or folder of its weights.
        looked_at: images, the first of the sample.
    """

    name = "neighbours"
    question = "Are there images whose nearest residuals, among unlike pictures, are all of their own class?"
    weight = 6
    gap = 0.0  # what it is for, a part of the images, scores far below wholly poisoned sets
    image_level = 0.999
    unet: str | PathLike[str] | UNetPurify = "unet-small"
    looked_at: int = LOOKED_AT

    def look(self, sample: Sample) -> Finding:
        images = torch.full((len(sample),), float("nan"))
        rows = torch.arange(min(len(sample), self.looked_at))
        tested = (sample.labels[rows].bincount() >= ENOUGH).nonzero()[:, 0]
        rows = rows[torch.isin(sample.labels[rows], tested)]
        if len(tested) < 2:
            return self.untested(too_few_classes(len(tested)), images=images)
        if len(rows) < LEAST:
            return self.untested(
                f"it needs at least {LEAST} images in classes of at least {ENOUGH}, and the sample has {len(rows)}",
                images=images,
            )
        try:
            model = self.unet if isinstance(self.unet, UNetPurify) else UNetPurify(cast(str | Path, self.unet))
        except (WeightsUnavailableError, WeightsCorruptedError) as error:
            return self.untested(f"no weights: {error}", images=images)
        residuals = flat_spectrum(torch.cat([_residuals(sample, part, model) for part in rows.split(_CHUNK)]))
        kinds = autocorrelations(residuals)
        if sample.tiled:
            residuals, kinds = from_tiles(residuals, len(rows)), kinds.view(len(rows), -1)
        labels = torch.searchsorted(tested, sample.labels[rows])
        forms = sample.forms(rows)
        shares = [own_among_nearest(view, forms, labels) for view in (residuals.flatten(1), decorrelated(kinds))]
        images[rows] = torch.maximum(*shares)
        hits = images[rows] > self.image_level
        score, n = float(hits.float().mean()), len(rows)
        own = {sample.classes[i]: hits[labels == k] for k, i in enumerate(tested.tolist())}
        classes = {name: wilson(int(part.sum()), len(part))[0] for name, part in own.items()}  # one hit flags no class
        return Finding(self, score, (score - wilson(score * n, n)[0]) / 2, classes, images)

    def kind(self, finding: Finding) -> Kind | None:
        return Kind.BOUNDED if finding.widespread else Kind.TRIGGERED


def _residuals(sample: Sample, rows: Tensor, model: UNetPurify) -> Tensor:
    x = to_tiles(sample.images(rows)) if sample.tiled else sample.images(rows)
    return whitened(x - model(x))

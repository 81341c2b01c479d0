"""The two detectors that ask a trained network: evidence, and an order of suspects; never an alarm."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import cast

import torch

from ...errors import WeightsCorruptedError, WeightsUnavailableError
from ...functional.detect.class_pattern import class_patterns, magnitudes
from ...functional.detect.ranking import higher_than_rest, ranks_within
from ...functional.detect.residual import residual
from ...transforms.ebm import EBMPurify
from ...transforms.vae import VAEPurify
from ..sample import Sample, to_tiles
from .base import ENOUGH, Detector, Finding, too_few_classes

WHOLE = "class pattern with its smooth part (levels of 255, the largest class)"
PREDICTED = "perturbation predicted from image and label (levels of 255, mean over the images)"
_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Energy(Detector):
    """How much more often than not an image of a class has a higher energy than one of the others, at its largest.

    An image scores the share of its class that it outranks. Classes of clean photographs differ by what they show, so
    there is no threshold.

    Args:
        ebm: a purifier, or the name or folder of its weights; ``None`` leaves this detector out.
        ranked: the images that are ranked, the first of the sample.
    """

    name = "energy"
    question = "Do the images of a class look less natural to an energy-based model than those of the others?"
    ebm: str | PathLike[str] | EBMPurify | None = "ebm-small-32"
    ranked: int = 2000

    def look(self, sample: Sample) -> Finding:
        if self.ebm is None:
            return self.untested("no energy-based model was given")
        try:
            model = self.ebm if isinstance(self.ebm, EBMPurify) else EBMPurify(cast(str | Path, self.ebm))
        except (WeightsUnavailableError, WeightsCorruptedError) as error:
            return self.untested(f"no weights: {error}")
        rows = torch.arange(min(len(sample), self.ranked))
        labels = sample.labels[rows]
        energies = torch.cat([_energies(sample, part, model) for part in rows.split(_CHUNK)])
        images = torch.full((len(sample),), float("nan"))
        images[rows] = ranks_within(energies, labels)
        tested = [label for label, n in enumerate(labels.bincount().tolist()) if n >= ENOUGH]
        if len(tested) < 2:
            return self.untested(too_few_classes(len(tested)), images=images)
        classes = {sample.classes[label]: higher_than_rest(energies, labels == label) - 0.5 for label in tested}
        worst = max(classes, key=lambda name: classes[name])
        n = int((labels == sample.classes.index(worst)).sum())
        spread = ((len(rows) + 1) / (12 * n * (len(rows) - n))) ** 0.5  # of the area under a ROC, by chance alone
        return Finding(self, classes[worst], spread, classes, images)


def _energies(sample: Sample, rows: torch.Tensor, model: EBMPurify) -> torch.Tensor:
    x = sample.images(rows)
    return model.energy(to_tiles(x)).view(-1, 4).mean(1) if sample.tiled else model.energy(x)


@dataclass(frozen=True, kw_only=True)
class ClassPattern(Detector):
    """Root mean square of the fine part of what the predicted perturbations of a class share; the largest class.

    In levels of 255. The mean colours of a class (sky, grass) are as predictable as a poison, but smooth: what a blur
    leaves of the pattern does not count. An image scores the magnitude of its own perturbation, the whole of it. A
    short fit finds a part only, so there is no threshold: compare with a fit to data that is known to be clean.

    Args:
        vae: fitted to the images of the scan; ``None`` leaves this detector out.
        looked_at: images, the first of the sample.
    """

    name = "class pattern"
    question = "How large is the pattern that a D-VAE, fitted to these images, predicts from the label alone?"
    vae: VAEPurify | None = None
    looked_at: int = 1000

    def look(self, sample: Sample) -> Finding:
        if self.vae is None:
            return self.untested("no fit given: scan(dataset, vae=VAEPurify(weights=None).fit(dataset))")
        rows = torch.arange(min(len(sample), self.looked_at))
        counts = sample.labels[rows].bincount()
        rows = rows[torch.isin(sample.labels[rows], (counts >= ENOUGH).nonzero()[:, 0])]
        reason = _unfit(sample, rows, self.vae)
        if reason:
            return self.untested(reason)
        present, labels = sample.labels[rows].unique(return_inverse=True)
        numbers = torch.tensor(sample.numbers)[sample.labels[rows]]
        perturbations = self.vae.perturbation(sample.pixels[rows], numbers) * 255
        images = torch.full((len(sample),), float("nan"))
        images[rows] = magnitudes(perturbations)
        patterns = class_patterns(perturbations, labels)
        sizes = magnitudes(residual(patterns)).tolist()
        classes = {sample.classes[label]: size for label, size in zip(present.tolist(), sizes, strict=True)}
        evidence = {WHOLE: float(magnitudes(patterns).max()), PREDICTED: float(images[rows].mean())}
        return Finding(self, max(sizes), classes=classes, images=images, evidence=evidence)


def _unfit(sample: Sample, rows: torch.Tensor, vae: VAEPurify) -> str:
    """Why the fit cannot be used on this sample."""
    if vae.num_classes is None:
        return "the VAEPurify given was not fitted with labels: VAEPurify(weights=None).fit(dataset)"
    if sample.tiled or (vae.spatial and sample.pixels.shape[2:] != (vae.size, vae.size)):
        height, width = sample.sizes[1]
        return f"the fit is for images of {vae.size} x {vae.size}, and there are some of {height} x {width} pixels"
    if max(sample.numbers) >= vae.num_classes:
        return f"the fit is for labels below {vae.num_classes}, and the sample has {max(sample.numbers)}"
    for number, name in zip(sample.numbers, sample.classes, strict=True):
        known = vae.classes[number] if vae.classes else name
        if known not in (name, str(number)) and name != str(number):
            return f"the fit numbers the classes otherwise: its {number} is {known!r}, that of the sample {name!r}"
    if len(sample.labels[rows].unique()) < 2:
        return f"it needs two classes with at least {ENOUGH} images"
    return ""

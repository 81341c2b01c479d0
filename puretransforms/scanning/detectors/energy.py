"""Which images look least natural to an energy-based model? Evidence, and an order of suspects; never an alarm."""

from os import PathLike

import torch

from ...errors import WeightsCorruptedError, WeightsUnavailableError
from ...functional.detect.ranking import higher_than_rest, ranks_within
from ...transforms.ebm import EBMPurify
from ..finding import ENOUGH, Finding
from ..sample import Sample, to_tiles

NAME = "energy"
QUESTION = "Do the images of a class look less natural to an energy-based model than those of the others?"
RANKED = 2000  # images
_CHUNK = 256


def energy(
    sample: Sample, ebm: str | PathLike[str] | EBMPurify | None = "ebm-small-32", ranked: int = RANKED
) -> Finding:
    """How much more often than not an image of a class has a higher energy than one of the others, at its largest.

    An image scores the share of its class that it outranks. Classes of clean photographs differ by what they show, so
    there is no threshold.
    """
    found = Finding(NAME, QUESTION)
    if ebm is None:
        found.untested = "no energy-based model was given"
        return found
    try:
        model = ebm if isinstance(ebm, EBMPurify) else EBMPurify(ebm)
    except (WeightsUnavailableError, WeightsCorruptedError) as error:
        found.untested = f"no weights: {error}"
        return found
    rows = torch.arange(min(len(sample), ranked))
    labels = sample.labels[rows]
    energies = torch.cat([_energies(sample, part, model) for part in rows.split(_CHUNK)])
    found.images = torch.full((len(sample),), float("nan"))
    found.images[rows] = ranks_within(energies, labels)
    tested = [label for label, n in enumerate(labels.bincount().tolist()) if n >= ENOUGH]
    if len(tested) < 2:
        found.untested = f"it needs two classes with at least {ENOUGH} images, and the sample has {len(tested)}"
        return found
    for label in tested:
        found.classes[sample.classes[label]] = higher_than_rest(energies, labels == label) - 0.5
    found.score = max(found.classes.values())
    n = int((labels == sample.classes.index(max(found.classes, key=found.classes.__getitem__))).sum())
    found.error = ((len(rows) + 1) / (12 * n * (len(rows) - n))) ** 0.5  # of the area under a ROC, by chance alone
    return found


def _energies(sample: Sample, rows: torch.Tensor, model: EBMPurify) -> torch.Tensor:
    x = sample.images(rows)
    return model.energy(to_tiles(x)).view(-1, 4).mean(1) if sample.tiled else model.energy(x)

"""Do unlike pictures of one class carry the same residual: all of them, or a few?"""

import torch

from ..finding import ENOUGH, Finding
from ..sample import PAIRED, Sample

AGREEMENT = "Do pictures of a class that show different things carry the same residual pattern?"
LOOKALIKES = "Do a few pictures of a class that show different things carry the very same residual pattern?"


def agreement(sample: Sample) -> Finding:
    """The largest mean correlation over the classes.

    An image scores the mean over its own pairs, over that of its class: carriers come to more than half.
    """
    found = Finding("agreement", AGREEMENT, images=torch.full((len(sample),), float("nan")), image_threshold=0.5)
    for label, name, rows in _classes(sample, found):
        result = sample.agreement_of(label)
        found.classes[name] = result.mean
        if result.mean > 0:
            found.images[rows] = result.each / result.mean
        if len(found.classes) == 1 or result.mean > found.score:
            found.score, found.error = result.mean, result.error
    return found


def lookalikes(sample: Sample) -> Finding:
    """The largest of the second highest correlations: an image and two others, unlike, with the same residual."""
    found = Finding("lookalikes", LOOKALIKES, images=torch.full((len(sample),), float("nan")))
    for label, name, rows in _classes(sample, found):
        result = sample.agreement_of(label)
        found.images[rows] = result.nearest
        found.classes[name] = float(result.nearest.max())
    found.score = max(found.classes.values(), default=0.0)
    return found


def _classes(sample: Sample, found: Finding) -> list[tuple[int, str, torch.Tensor]]:
    groups = [(label, name, sample.members(label)[:PAIRED]) for label, name in enumerate(sample.classes)]
    enough = [group for group in groups if len(group[2]) >= ENOUGH]
    if not enough:
        most = max(len(group[2]) for group in groups)
        found.untested = f"it needs at least {ENOUGH} images of a class, and the largest class of the sample has {most}"
    return enough

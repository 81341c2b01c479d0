"""Do unlike pictures of one class carry the same residual: all of them, or a few?"""

from dataclasses import dataclass

import torch

from ..sample import PAIRED, Sample
from .base import ENOUGH, Detector, Finding, Kind, too_few


@dataclass(frozen=True, kw_only=True)
class Agreement(Detector):
    """The largest mean correlation over the classes.

    An image scores the mean over its own pairs, over that of its class: carriers come to more than half. Images of a
    class beyond the first 1,000 are compared with those where the class is above the threshold.
    """

    name = "agreement"
    question = "Do pictures of a class that show different things carry the same residual pattern?"
    weight = 2
    image_level = 0.5

    def look(self, sample: Sample) -> Finding:
        images = torch.full((len(sample),), float("nan"))
        groups = _groups(sample)
        if not groups:
            return self.untested(_most(sample), images=images)
        classes, score, error = {}, 0.0, 0.0
        for label, name, rows in groups:
            result = sample.agreement_of(label)
            classes[name] = result.mean
            if result.mean > 0:
                images[rows] = result.each / result.mean
            if result.mean > self.threshold:
                rest, each, _ = sample.agreement_of_rest(label)
                images[rest] = each / result.mean
            if len(classes) == 1 or result.mean > score:
                score, error = result.mean, result.error
        return Finding(self, score, error, classes, images)

    def kind(self, finding: Finding) -> Kind | None:
        return Kind.BOUNDED if finding.widespread else Kind.TRIGGERED


@dataclass(frozen=True, kw_only=True)
class Lookalikes(Detector):
    """The largest of the second highest correlations: an image and two others, unlike, with the same residual.

    The interval is that of this one correlation ``r``: its standard error is ``(1 - r^2) s`` (Fisher, 1921), with
    ``s`` the robust deviation of the correlations of all unlike pairs of its class. The score itself is compared with
    the threshold, which was fitted to highest values of clean sets and so allows for their spread.
    """

    name = "lookalikes"
    question = "Do a few pictures of a class that show different things carry the very same residual pattern?"
    weight = 5
    cautious = False

    def look(self, sample: Sample) -> Finding:
        images = torch.full((len(sample),), float("nan"))
        groups = _groups(sample)
        if not groups:
            return self.untested(_most(sample), images=images)
        classes, errors = {}, {}
        for label, name, rows in groups:
            result = sample.agreement_of(label)
            images[rows] = result.nearest
            classes[name] = float(result.nearest.max())
            if classes[name] > self.threshold:
                rest, _, nearest = sample.agreement_of_rest(label)
                images[rest] = nearest
            errors[name] = (1 - classes[name] ** 2) * result.spread
        worst = max(classes, key=lambda name: classes[name])
        return Finding(self, classes[worst], errors[worst], classes, images)

    def kind(self, finding: Finding) -> Kind | None:
        return Kind.BOUNDED if finding.widespread else Kind.TRIGGERED


def _groups(sample: Sample) -> list[tuple[int, str, torch.Tensor]]:
    groups = [(label, name, sample.members(label)[:PAIRED]) for label, name in enumerate(sample.classes)]
    return [group for group in groups if len(group[2]) >= ENOUGH]


def _most(sample: Sample) -> str:
    return too_few(int(sample.labels.bincount().max()))

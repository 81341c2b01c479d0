"""Does one class hold images of far fewer levels than the others?"""

from dataclasses import dataclass

import torch

from ...functional.detect.levels import level_occupancy
from ..sample import Sample
from .base import ENOUGH, Detector, Finding, Kind, too_few_classes, wilson

FEW = 0.25


@dataclass(frozen=True, kw_only=True)
class Levels(Detector):
    """The share of a class that uses less than a quarter of its levels, less the median of that over the classes.

    Where all classes are alike (a source of few levels), that says nothing.
    """

    name = "levels"
    question = "Does a class hold images of reduced colour depth, and the others not?"
    weight = 1
    image_level = 1 - FEW

    def look(self, sample: Sample) -> Finding:
        occupancy = torch.cat([level_occupancy(part) for part in sample.pixels.split(512)])
        shares, sizes = {}, {}
        for label, name in enumerate(sample.classes):
            rows = sample.members(label)
            if len(rows) >= ENOUGH:
                shares[name] = float((occupancy[rows] < FEW).float().mean())
                sizes[name] = len(rows)
        evidence = {"share of all images with few levels": float((occupancy < FEW).float().mean())}
        if len(shares) < 2:
            return self.untested(too_few_classes(len(shares)), images=1 - occupancy, evidence=evidence)
        usual = float(torch.tensor(sorted(shares.values())).median())
        classes = {name: share - usual for name, share in shares.items()}
        worst = max(shares, key=lambda name: shares[name])
        error = (shares[worst] - wilson(shares[worst] * sizes[worst], sizes[worst])[0]) / 2
        return Finding(self, classes[worst], error, classes, 1 - occupancy, evidence)

    def kind(self, finding: Finding) -> Kind | None:
        return Kind.TRIGGERED

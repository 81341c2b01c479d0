"""Does one class hold images of far fewer levels than the others?"""

import torch

from ...functional.detect.levels import level_occupancy
from ..finding import ENOUGH, Finding, wilson
from ..sample import Sample

QUESTION = "Does a class hold images of reduced colour depth, and the others not?"
FEW = 0.25


def levels(sample: Sample) -> Finding:
    """The share of a class that uses less than a quarter of its levels, less the median of that over the classes.

    Where all classes are alike (a source of few levels), that says nothing.
    """
    found = Finding("levels", QUESTION, image_threshold=1 - FEW)
    occupancy = torch.cat([level_occupancy(part) for part in sample.pixels.split(512)])
    found.images = 1 - occupancy
    shares, sizes = {}, {}
    for label, name in enumerate(sample.classes):
        rows = sample.members(label)
        if len(rows) >= ENOUGH:
            shares[name] = float((occupancy[rows] < FEW).float().mean())
            sizes[name] = len(rows)
    found.evidence["share of all images with few levels"] = float((occupancy < FEW).float().mean())
    if len(shares) < 2:
        found.untested = f"it needs two classes with at least {ENOUGH} images, and the sample has {len(shares)}"
        return found
    usual = float(torch.tensor(sorted(shares.values())).median())
    found.classes = {name: share - usual for name, share in shares.items()}
    worst = max(shares, key=lambda name: shares[name])
    found.score = found.classes[worst]
    found.error = (shares[worst] - wilson(shares[worst] * sizes[worst], sizes[worst])[0]) / 2
    return found

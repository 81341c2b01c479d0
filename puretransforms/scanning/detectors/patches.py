"""Does the same small patch stand at the same place in many images of a class?"""

from dataclasses import dataclass

import torch

from ...functional.detect.patches import RepeatedPatch, holds, repeated_patch
from ...functional.shapes import Tensor
from ..sample import Sample
from .base import ENOUGH, Detector, Finding, Kind, too_few, wilson

SIZES = (1, 3)
LOOKED_AT = 1000  # images of a class
FLAT = 0.3


@dataclass(frozen=True, kw_only=True)
class Patches(Detector):
    """The largest share of a class that holds one patch, less the share that is usual at other places of that class.

    Counted among pairs of unlike pictures: strokes of drawings stand at the same place too, but in drawings that look
    alike. The images that hold the patch score 1; those beyond the first 1,000 are looked at in a class above the
    threshold.
    """

    name = "patches"
    question = "Does the same striking pixel or small patch stand at the same place in many images of a class?"
    weight = 1
    image_level = 0.5

    def look(self, sample: Sample) -> Finding:
        images = torch.full((len(sample),), float("nan"))
        flat = _flat_share(sample)
        if flat > FLAT:
            return self.untested(
                f"half of the pictures are flat on more than {flat:.0%} of their area: in drawings on an even ground "
                "strokes repeat by themselves",
                images=images,
            )
        most, score, error = 0, 0.0, 0.0
        classes, evidence = {}, {}
        for label, name in enumerate(sample.classes):
            rows = sample.members(label)[:LOOKED_AT]
            most = max(most, len(rows))
            if len(rows) < ENOUGH:
                continue
            best = max((repeated_patch(sample.pixels[rows], size) for size in SIZES), key=_excess)
            classes[name] = min(_excess(best), _among_unlike(sample.forms(rows), best))
            images[rows] = best.carriers.float()
            if classes[name] > self.threshold:
                rest = sample.members(label)[LOOKED_AT:]
                images[rest] = holds(sample.pixels[rest], best).float()
            evidence[name] = {"side": best.size, "row": best.row, "column": best.column, "share": best.share}
            if classes[name] > score:
                score = classes[name]
                error = (best.share - wilson(best.share * len(rows), len(rows))[0]) / 2
        if not classes:
            return self.untested(too_few(most), images=images)
        return Finding(self, score, error, classes, images, evidence)

    def kind(self, finding: Finding) -> Kind | None:
        return Kind.TRIGGERED

    def place(self, finding: Finding, name: str) -> tuple[int, int, int] | None:
        patch = finding.evidence.get(name)
        return None if patch is None or name not in finding.flagged else (patch["row"], patch["column"], patch["side"])


def _flat_share(sample: Sample) -> float:
    """Median over the images of the share of pixels whose neighbourhood is of one colour."""
    residuals = sample.residuals(torch.arange(min(len(sample), 500)))
    return float((residuals.abs().amax(1) < 0.5 / 255).float().mean((1, 2)).median())


def _excess(patch: RepeatedPatch) -> float:
    return patch.share - patch.usual


def _among_unlike(forms: Tensor, patch: RepeatedPatch) -> float:
    """The root of the share of unlike pairs that both hold the patch: the share itself, if that has nothing to do with
    what they show."""
    unlike = (forms @ forms.T < 0).float()
    both = patch.carriers.float() @ unlike @ patch.carriers.float()
    return float(both / unlike.sum().clamp_min(1)) ** 0.5

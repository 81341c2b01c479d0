"""Are images darker along an edge than just inside it? The trace of a zero-padded convolution."""

from dataclasses import dataclass

from ...functional.detect.edges import EDGES, darkened_excess
from ..sample import Sample
from .base import ENOUGH, Detector, Finding, Kind


@dataclass(frozen=True, kw_only=True)
class Edges(Detector):
    """Mean over the classes of the excess of darkened images at the edge where it is largest.

    The score of an image is the negative log-ratio at the edge that is darkened in its class. Without classes of at
    least 30 images, all images count as one class.
    """

    name = "edges"
    question = (
        "Are the images of a class darker along an edge than just inside it, as a zero-padded convolution leaves them?"
    )
    weight = 0
    image_level = 0.1

    def look(self, sample: Sample) -> Finding:
        groups = {name: sample.members(label) for label, name in enumerate(sample.classes)}
        groups = {name: rows for name, rows in groups.items() if len(rows) >= ENOUGH}
        if not groups:
            groups = {"(all images)": (sample.labels >= 0).nonzero()[:, 0]}
        images = sample.ratios.new_full((len(sample),), float("nan"))
        classes, where, variance = {}, {}, 0.0
        for name, rows in groups.items():
            excess = darkened_excess(sample.ratios[rows])
            edge = int(excess.argmax())
            ratios = sample.ratios[rows].view(-1, 3, 4).mean(1)[:, edge]
            moved = float((ratios.abs() > 0.1).float().mean())
            classes[name] = float(excess[edge])
            images[rows] = -ratios
            where[name] = EDGES[edge]
            variance += max(moved - classes[name] ** 2, 1 / len(rows)) / len(rows)
        score = sum(classes.values()) / len(groups)
        error = variance**0.5 / len(groups)
        return Finding(self, score, error, classes, images, {"darkest edge": where})

    def kind(self, finding: Finding) -> Kind | None:
        return Kind.CONVOLVED if finding.widespread else None

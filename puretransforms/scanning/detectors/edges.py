"""Are images darker along an edge than just inside it? The trace of a zero-padded convolution."""

from ...functional.detect.edges import EDGES, darkened_excess
from ..finding import ENOUGH, Finding
from ..sample import Sample

QUESTION = (
    "Are the images of a class darker along an edge than just inside it, as a zero-padded convolution leaves them?"
)


def edges(sample: Sample) -> Finding:
    """Mean over the classes of the excess of darkened images at the edge where it is largest.

    The score of an image is the negative log-ratio at the edge that is darkened in its class. Without classes of at
    least 30 images, all images count as one class.
    """
    groups = {name: sample.members(label) for label, name in enumerate(sample.classes)}
    groups = {name: rows for name, rows in groups.items() if len(rows) >= ENOUGH}
    if not groups:
        groups = {"(all images)": (sample.labels >= 0).nonzero()[:, 0]}
    found = Finding("edges", QUESTION, images=sample.ratios.new_full((len(sample),), float("nan")), image_threshold=0.1)
    variance, where = 0.0, {}
    for name, rows in groups.items():
        excess = darkened_excess(sample.ratios[rows])
        edge = int(excess.argmax())
        ratios = sample.ratios[rows].view(-1, 3, 4).mean(1)[:, edge]
        moved = float((ratios.abs() > 0.1).float().mean())
        found.classes[name] = float(excess[edge])
        found.images[rows] = -ratios
        where[name] = EDGES[edge]
        variance += max(moved - found.classes[name] ** 2, 1 / len(rows)) / len(rows)
    found.score = sum(found.classes.values()) / len(groups)
    found.error = variance**0.5 / len(groups)
    found.evidence["darkest edge"] = where
    return found

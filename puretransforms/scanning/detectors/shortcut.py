"""Does what denoising removes tell the class better than what it leaves?"""

import torch

from ...functional.detect.probe import patch_filters, probe, texture_features
from ...functional.detect.residual import flat_level
from ...functional.shapes import Tensor
from ..finding import ENOUGH, Finding
from ..sample import Sample, to_tiles

TEXTURE = "Does the fine texture that denoising removes tell the class better than the picture that is left?"
PIXELS = "Does a linear classifier on the pixels that denoising removes beat one on the picture that is left?"
PROBED = 2000  # images
LEAST = 200  # images: with fewer, accuracies left out one by one vary too much to be compared
FLAT = "residual level where images are flattest (of 255; 10th percentile over the images)"


def texture_shortcut(sample: Sample) -> Finding:
    """Accuracy on local patterns of the whitened residual, less that on local patterns of the rest."""

    def features(sample: Sample, rows: Tensor) -> tuple[Tensor, Tensor]:
        out = []
        for view in (sample.whitened, sample.pictures):
            views = view(rows)
            filters = patch_filters(to_tiles(views) if sample.tiled else views)
            out.append(texture_features(views, filters))
        return out[0], out[1]

    found = _compare(sample, "texture shortcut", TEXTURE, features)
    if not found.untested:
        rows = torch.arange(min(len(sample), PROBED))
        found.evidence[FLAT] = float(flat_level(sample.residuals(rows)).quantile(0.1)) * 255
    return found


def pixel_shortcut(sample: Sample) -> Finding:
    """Accuracy of a linear classifier on the whitened residual, less that of one on the rest."""

    def features(sample: Sample, rows: Tensor) -> tuple[Tensor, Tensor]:
        return sample.whitened(rows).flatten(1), sample.pictures(rows).flatten(1)

    return _compare(sample, "pixel shortcut", PIXELS, features)


def _compare(sample: Sample, name: str, question: str, features: object) -> Finding:
    found = Finding(name, question)
    rows = torch.arange(min(len(sample), PROBED))
    counts = sample.labels[rows].bincount()
    tested = (counts >= ENOUGH).nonzero()[:, 0]
    if len(tested) < 2:
        found.untested = f"it needs two classes with at least {ENOUGH} images, and the sample has {len(tested)}"
        return found
    rows = rows[torch.isin(sample.labels[rows], tested)]
    if len(rows) < LEAST:
        found.untested = (
            f"it needs at least {LEAST} images in classes of at least {ENOUGH}, and the sample has {len(rows)}"
        )
        return found
    labels = torch.searchsorted(tested, sample.labels[rows])
    fine, rest = features(sample, rows)
    of_fine, of_rest = probe(fine, labels), probe(rest, labels)
    gain = of_fine.hits.float() - of_rest.hits.float()
    chance = float(labels.bincount().max()) / len(labels)
    found.score = min(float(gain.mean()), of_fine.curve[-1][1] - chance)  # a rest below chance is no yardstick
    found.error = float(gain.std()) / len(gain) ** 0.5
    for i, label in enumerate(tested.tolist()):
        found.classes[sample.classes[label]] = float(gain[labels == i].mean())
    found.images = torch.full((len(sample),), float("nan"))
    found.evidence |= {
        "accuracy on the residual (samples, accuracy)": of_fine.curve,
        "accuracy on the rest (samples, accuracy)": of_rest.curve,
        "accuracy on the residual, labels shuffled": of_fine.shuffled,
        "chance": chance,
    }
    return found

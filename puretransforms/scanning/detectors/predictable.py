"""How large is the perturbation that the label predicts, by a D-VAE that was fitted to the data? Evidence only."""

import torch

from ...functional.detect.predictable import class_patterns, magnitudes
from ...functional.detect.residual import residual
from ...transforms.vae import VAEPurify
from ..finding import ENOUGH, Finding
from ..sample import Sample

NAME = "class pattern"
QUESTION = "How large is the pattern that a D-VAE, fitted to these images, predicts from the label alone?"
LOOKED_AT = 1000  # images
WHOLE = "class pattern with its smooth part (levels of 255, the largest class)"
PREDICTED = "perturbation predicted from image and label (levels of 255, mean over the images)"


def class_pattern(sample: Sample, vae: VAEPurify | None = None) -> Finding:
    """Root mean square of the fine part of what the predicted perturbations of a class share; the largest class.

    In levels of 255. The mean colours of a class (sky, grass) are as predictable as a poison, but smooth: what a blur
    leaves of the pattern does not count. An image scores the magnitude of its own perturbation, the whole of it. A
    short fit finds a part only, so there is no threshold: compare with a fit to data that is known to be clean.
    """
    found = Finding(NAME, QUESTION)
    if vae is None:
        found.untested = "no fit given: scan(dataset, vae=VAEPurify.fit(dataset))"
        return found
    rows = torch.arange(min(len(sample), LOOKED_AT))
    counts = sample.labels[rows].bincount()
    rows = rows[torch.isin(sample.labels[rows], (counts >= ENOUGH).nonzero()[:, 0])]
    found.untested = _unfit(sample, rows, vae)
    if found.untested:
        return found
    present, labels = sample.labels[rows].unique(return_inverse=True)
    perturbations = vae.perturbation(sample.pixels[rows], torch.tensor(sample.numbers)[sample.labels[rows]]) * 255
    found.images = torch.full((len(sample),), float("nan"))
    found.images[rows] = magnitudes(perturbations)
    patterns = class_patterns(perturbations, labels)
    sizes = magnitudes(residual(patterns)).tolist()
    found.classes = {sample.classes[label]: size for label, size in zip(present.tolist(), sizes, strict=True)}
    found.score = max(sizes)
    found.evidence[WHOLE] = float(magnitudes(patterns).max())
    found.evidence[PREDICTED] = float(found.images[rows].mean())
    return found


def _unfit(sample: Sample, rows: torch.Tensor, vae: VAEPurify) -> str:
    """Why the fit cannot be used on this sample."""
    if vae.num_classes is None:
        return "the VAEPurify given was not fitted with labels: VAEPurify.fit(dataset)"
    if sample.tiled or (vae.spatial and sample.pixels.shape[2:] != (vae.size, vae.size)):
        height, width = sample.sizes[1]
        return f"the fit is for images of {vae.size} x {vae.size}, and there are some of {height} x {width} pixels"
    if max(sample.numbers) >= vae.num_classes:
        return f"the fit is for labels below {vae.num_classes}, and the sample has {max(sample.numbers)}"
    if len(sample.labels[rows].unique()) < 2:
        return f"it needs two classes with at least {ENOUGH} images"
    return ""

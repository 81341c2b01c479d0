"""The purifiers and training-time defences of the benchmark by name, each with the place in training where it acts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from ..auto import AutoPurify
from ..data.samples import LabelledImages
from ..errors import BenchmarkError
from ..train.classifier import Adapt
from ..transforms.base import PureTransform
from ..transforms.baselines import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur
from ..transforms.coin import COINInterpolate
from ..transforms.ebm import EBMPurify
from ..transforms.projection import OrthogonalProjection
from ..transforms.vae import VAEPurify

NONE = "none"
PLACES = ("nowhere", "stored", "before", "after", "step", "advised")


@dataclass(frozen=True)
class Defence:
    """What is done, and where.

    Attributes:
        place: ``"stored"``: once, on the stored 8-bit images; ``"before"``: at each access, before crop and flip, in
            floats that may leave ``[0, 1]``; ``"after"``: at each access, after crop and flip, with new draws;
            ``"step"``: on batch and labels in the training step; ``"advised"``: ``"after"`` or ``"stored"``, as the
            attribute ``online`` of what was made says; ``"nowhere"``.
        make: ``make(train, num_classes, weights)`` gives the transform, or for ``"step"`` the
            :data:`~puretransforms.train.classifier.Adapt`; ``train`` is the poisoned set, for those that learn from it.
        labelled: a ``"stored"`` transform of images and labels, which the poisoned set carries.
    """

    place: str
    make: Callable[[LabelledImages, int, Path | None], Any]
    labelled: bool = False

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ValueError(f"expected a place among {', '.join(PLACES)}, got {self.place!r}.")


def mixing(transform: type[v2.MixUp] | type[v2.CutMix], num_classes: int) -> Adapt:
    """Torchvision's batch mixing, Beta(1, 1), on every batch."""
    mix = transform(num_classes=num_classes, alpha=1.0)
    return lambda model, x, y: mix(x, y)


def adversarial(epsilon: float = 8 / 255, steps: int = 10, step_size: float = 2 / 255) -> Adapt:
    """Adversarial training (Madry et al., ICLR 2018): sign-gradient ascent within an L-infinity ball, random start.

    The network stands in evaluation mode while its examples are sought.
    """

    def adapt(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        model.eval()
        delta = torch.empty_like(x).uniform_(-epsilon, epsilon)
        for _ in range(steps):
            delta.requires_grad_(True)
            with torch.enable_grad():
                loss = cross_entropy(model((x + delta).clamp(0, 1)).float(), y)
                (slope,) = torch.autograd.grad(loss, delta)
            delta = (delta.detach() + step_size * slope.sign()).clamp(-epsilon, epsilon)
        model.train()
        return (x + delta).clamp(0, 1), y

    return adapt


def _stored(purifier: type[PureTransform], **options: Any) -> Defence:
    return Defence("stored", lambda train, num_classes, weights: purifier(seed=0, **options))


def _auto(train: LabelledImages, num_classes: int, weights: Path | None) -> AutoPurify:
    auto = AutoPurify(seed=0).fit(train, progress=False)
    if auto.online:
        auto.seed = None
    return auto


def _ebm(train: LabelledImages, num_classes: int, weights: Path | None) -> EBMPurify:
    return EBMPurify(seed=0) if weights is None else EBMPurify(weights, seed=0)


def _projection(train: LabelledImages, num_classes: int, weights: Path | None) -> OrthogonalProjection:
    return OrthogonalProjection(num_classes=num_classes, seed=0).fit(train.images, train.targets)


def _vae(train: LabelledImages, num_classes: int, weights: Path | None) -> VAEPurify:
    return VAEPurify(seed=0) if weights is None else VAEPurify(weights, seed=0)


def _vae_fitted(train: LabelledImages, num_classes: int, weights: Path | None, size: str) -> VAEPurify:
    """D-VAE: ``"published"``, on a GPU if there is one, or the ``"small"`` network and the short schedule."""
    schedule = "published" if size == "published" else "short"
    device = "cuda" if torch.cuda.is_available() else None
    samples = (train.images, train.targets)
    return VAEPurify.fit(samples, num_classes=num_classes, seed=0, schedule=schedule, arch=size, device=device)


DEFENCES: dict[str, Defence] = {
    NONE: Defence("nowhere", lambda *_: None),
    "adversarial": Defence("step", lambda *_: adversarial()),
    "auto": Defence("advised", _auto),
    "bitdepth2": _stored(BitDepthReduce, bits=2),
    "coin": Defence("after", lambda *_: COINInterpolate()),
    "coin_once": _stored(COINInterpolate),
    "cutmix": Defence("step", lambda train, num_classes, weights: mixing(v2.CutMix, num_classes)),
    "ebm": Defence("stored", _ebm),
    "gaussian": _stored(GaussianBlur, kernel_size=3, sigma=1.0),
    "gray": _stored(Grayscale),
    "jpeg10": _stored(JPEGCompress, quality=10),
    "jpeg75": _stored(JPEGCompress, quality=75),
    "median": _stored(MedianBlur, kernel_size=3),
    "mixup": Defence("step", lambda train, num_classes, weights: mixing(v2.MixUp, num_classes)),
    "projection": Defence("before", _projection),
    "vae": Defence("stored", _vae),
    "vae_fitted": Defence("stored", partial(_vae_fitted, size="published"), labelled=True),
    "vae_fitted_small": Defence("stored", partial(_vae_fitted, size="small"), labelled=True),
}
"""A new purifier is one line here."""


def find_defence(spec: str) -> tuple[Defence, Path | None]:
    """The defence, and the folder of weights, of ``name`` or ``name=folder``.

    Raises:
        BenchmarkError: no such defence.
    """
    name, _, folder = spec.partition("=")
    if name not in DEFENCES:
        raise BenchmarkError(f"expected a purifier among {', '.join(DEFENCES)}, got {name!r}.")
    return DEFENCES[name], Path(folder) if folder else None

"""A column of the benchmark: a purifier that the registry knows, and its place; or a defence of the training itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..data.samples import LabelledImages
from ..errors import BenchmarkError
from ..registry import create, find, parameters, parse
from ..train.classifier import Adapt

NONE = "none"
PLACES = ("once", "access", "test")
"""Where a purifier acts: ``once`` on the stored 8-bit training images, as ``clean`` writes them; anew at every
``access``, after crop and flip; or once on the training images and on the ``test`` images."""

_OWN_PLACE = {"coin": "access", "auto": "advised"}  # of all others: once


@dataclass(frozen=True)
class Defence:
    """What is done, and where.

    Attributes:
        name: of the purifier, as registered or ``module:Class``; of a training-time defence; or ``"none"``.
        place: one of :data:`PLACES`; ``"advised"``: ``access`` or ``once``, as the attribute ``online`` of the fitted
            purifier says; ``"training"``: on batch and labels in the training step; ``"nowhere"``.
        options: arguments of the purifier or defence.
    """

    name: str
    place: str
    options: dict[str, Any]

    @property
    def drops(self) -> bool:
        """Does the fitted purifier name images to leave out of the training?"""
        return self.place not in ("nowhere", "training") and "drop" in parameters(find(self.name, "purifier"))

    def training(self, num_classes: int) -> Adapt:
        """The training-time defence."""
        return TRAINING[self.name](num_classes=num_classes, **self.options)

    def purifier(self, poisoned: LabelledImages, checkpoint: Path | None = None) -> Any:
        """The purifier, fitted to the poisoned set where it has to be, on a GPU if there is one.

        Where it acts once its draw follows from the pixels (``seed=0``); at every access it draws anew.

        Args:
            poisoned: the training set that the victim is given.
            checkpoint: file from which a fit goes on after a break.

        Raises:
            RegistryError: arguments that it does not take.
        """
        known = parameters(find(self.name, "purifier"))
        preset = {"seed": None if self.place == "access" else 0} if "seed" in known else {}
        purifier = create(self.name, "purifier", **(preset | self.options))
        if not purifier.fitted:
            purifier = purifier.fit(poisoned, device=work_device(), checkpoint=checkpoint)
        if self.place == "advised" and getattr(purifier, "online", False) and "seed" not in self.options:
            purifier.seed = None
        return purifier


def find_defence(spec: str) -> Defence:
    """The defence of ``none``, ``name:option=value`` or ``name:option=value@place``.

    Raises:
        RegistryError: no such purifier, or text that is no such list of options.
        BenchmarkError: no such place, or a place of something that is no purifier.
    """
    text, place = _split_place(spec)
    name, options = parse(text)
    if name == NONE or name in TRAINING:
        if place or (name == NONE and options):
            raise BenchmarkError(f"expected {name!r} without a place (it is no purifier), got {spec!r}.")
        if name != NONE:
            _check_options(spec, name, options)
        return Defence(name, "nowhere" if name == NONE else "training", options)
    try:
        find(name, "purifier")
    except ValueError as error:
        raise type(error)(f"{error} A column may also be {NONE}, {', '.join(sorted(TRAINING))}.") from error
    return Defence(name, place or _OWN_PLACE.get(name, "once"), options)


def canonical(spec: str) -> str:
    """``spec`` without a place that is the purifier's own: ``coin@access`` and ``coin`` are one column."""
    text, place = _split_place(spec)
    return text if place and find_defence(text).place == place else spec


def apply_purifier(purifier: Any, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """Purify a batch ``[N, C, H, W]``; the labels are for a purifier that reads them."""
    if labels is None or not getattr(purifier, "reads_labels", False):
        return purifier(images)
    return purifier((images, labels.to(images.device)))[0]


def work_device() -> str | None:
    """Where to fit: a GPU if there is one, else where the images are."""
    return "cuda" if torch.cuda.is_available() else None


def _split_place(spec: str) -> tuple[str, str]:
    text, at, place = spec.rpartition("@")
    if at and place in PLACES:
        return text, place
    last = text.rpartition(":")[2]
    if at and "=" not in last:  # else it belongs to the value of an option, such as a revision
        raise BenchmarkError(f"expected a place among {', '.join(PLACES)} after @, got {spec!r}.")
    return spec, ""


# --- defences of the training itself ----------------------------------------------------------------------------------


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


def grey_and_noise(p: float = 0.4, sigma: float = 0.05) -> Adapt:
    """What ECLIPSE does in its training loop (ESORICS 2024): grey with probability ``p``, then Gaussian noise."""

    def adapt(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        grey = torch.rand(len(x), 1, 1, 1, device=x.device) < p
        x = torch.where(grey, F.rgb_to_grayscale(x, x.shape[1]), x)
        return (x + sigma * torch.randn_like(x)).clamp(0, 1), y

    return adapt


def error_maximizing(views: int = 5) -> Adapt:
    """Of several random augmentations of each image, the one with the largest loss.

    After UEraser (Qin et al. 2023, arXiv 2303.15127), with TrivialAugment and a random order of the channels; its
    plasma augmentation is left out.
    """
    policy = v2.TrivialAugmentWide()

    def one_view(x: Tensor) -> Tensor:
        levels = x.mul(255).round().to(torch.uint8)
        views = [policy(image[torch.randperm(len(image), device=image.device)]) for image in levels]
        return torch.stack(views).float().div_(255)

    def adapt(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        model.eval()
        with torch.no_grad():
            candidates = torch.stack([one_view(x) for _ in range(views)])
            losses = [cross_entropy(model(view).float(), y, reduction="none") for view in candidates]
        model.train()
        worst = torch.stack(losses).argmax(0)
        return candidates[worst, torch.arange(len(x), device=x.device)], y

    return adapt


TRAINING: dict[str, Callable[..., Adapt]] = {
    "adversarial": lambda num_classes, **options: adversarial(**options),
    "cutmix": lambda num_classes: mixing(v2.CutMix, num_classes),
    "error_max": lambda num_classes, **options: error_maximizing(**options),
    "grey_noise": lambda num_classes, **options: grey_and_noise(**options),
    "mixup": lambda num_classes: mixing(v2.MixUp, num_classes),
}


def _check_options(spec: str, name: str, options: dict[str, Any]) -> None:
    try:
        TRAINING[name](num_classes=2, **options)
    except TypeError as error:
        raise BenchmarkError(f"{spec!r} makes no defence: {error}.") from error

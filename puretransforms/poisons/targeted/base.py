"""Triggerless targeted poisons: one test image shall be taken for another class, by a few altered training images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import PIL.Image
import torch
from torch import nn
from torch.utils.data import Dataset

from ...data.images import round_to_uint8, to_unit, unwrap
from ...data.samples import class_names, gather, labels_of, pair_of
from ...errors import LabelError, NoImageError, NotFittedError, SourceError
from ...functional.checks import whole
from ...functional.random import KeyedNoise
from ...functional.shapes import Bool, Float, Images, Int, Labels, Tensor, UInt8
from ..optimise import frozen, trained_checkpoints
from ..progress import OnProgress, Progress
from ..stored import StoredPoison

KEYS = {"target_index", "target_image", "target_class", "base_class", "base_indices", "bases", "seed"}


@dataclass(frozen=True)
class TargetedSetup:
    """Who attacks what: the image ``target`` of ``target_class`` shall be classified as ``base_class``.

    ``base_indices`` ``[P]`` are the places of the training images of ``base_class`` that may be altered.
    """

    target: UInt8[Tensor, "c h w"]
    target_class: int
    base_class: int
    base_indices: Int[Tensor, " p"]

    @classmethod
    def from_json(cls, path: str | Path, train: Any, test: Any = None) -> "TargetedSetup":
        """Read a setup as data, for example ``{"target_index": 17, "base_class": "ship", "bases": 25}``.

        The keys of the file, one JSON object:

        - ``target_index``, the place of the target in ``test``; or ``target_image``, an image file, relative to the
          folder of the JSON file.
        - ``target_class``, a number or a name; needed with ``target_image``.
        - ``base_class``, a number or a name.
        - ``base_indices``, places in ``train``; or ``bases``, how many to draw from the base class, by ``seed`` (0).

        Args:
            path: the JSON file.
            train: the clean training set: what :func:`puretransforms.data.samples.gather` takes.
            test: a map-style dataset of ``(image, label)`` that holds the target, where the file names its place.

        Raises:
            SourceError: no such file, no JSON object of these keys, or a target that is not there.
            LabelError: no such class, fewer images of it than bases, or a target of another class than stated.
        """
        path = Path(path)
        stored = _stored(path)
        train = train if isinstance(train, Dataset) else gather(train, channels=None)
        labels, names = labels_of(train), class_names(train)
        base_class = _number(stored["base_class"], names, labels, f"base_class of {path}")
        stated = stored.get("target_class")
        target_class = None if stated is None else _number(stated, names, labels, f"target_class of {path}")
        target, label = _target(stored, path, test)
        if label is None and target_class is None:
            raise SourceError(f"expected a target_class beside the target_image in {path}, got none: add it.")
        if None not in (label, target_class) and label != target_class:
            raise LabelError(
                f"expected a target of class {target_class}, as {path} says, got one of class {label}: correct "
                "target_index or target_class."
            )
        if "base_indices" in stored:
            bases = torch.as_tensor(stored["base_indices"], dtype=torch.int64).reshape(-1)
        else:
            bases = _drawn(labels, base_class, whole("bases", stored["bases"], least=1), stored.get("seed", 0))
        stated_or_read = cast(int, label if target_class is None else target_class)  # both None is refused above
        return cls(target, stated_or_read, base_class, bases)


T = TypeVar("T", bound="TargetedPoison")


class TargetedPoison(StoredPoison):
    """Base of targeted poisons: the stored perturbation belongs to the base images; all others pass unchanged.

    :meth:`fit` takes a :class:`TargetedSetup`. Afterwards ``poison(images, labels, index)`` alters the bases, found by
    their index or else by their pixels, and a :class:`~puretransforms.poisons.dataset.PoisonedDataset` poisons them
    and no others. Labels stay as they are. A subclass writes :meth:`optimise`.

    Args:
        epsilon: L-infinity bound in pixel units of ``[0, 1]``.
        width, epochs: of the library's ResNet-18 surrogate.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`; ``seed`` fixes the surrogate and
            every draw.
    """

    default_rate = None
    takes_several: ClassVar[bool] = True

    def __init__(
        self, *, epsilon: float, width: int, epochs: int, num_classes: int, seed: int, quantize: str | None
    ) -> None:
        super().__init__(epsilon=epsilon, num_classes=num_classes, seed=seed, quantize=quantize)
        self.width = whole("width", width, least=1)
        self.epochs = whole("epochs", epochs, least=1)

    def optimise(
        self,
        bases: Float[Tensor, "p c h w"],
        target: Float[Tensor, "1 c h w"],
        setup: TargetedSetup,
        surrogates: Sequence[nn.Module],
        progress: Progress,
    ) -> tuple[Float[Tensor, "p c h w"], float]:
        """The perturbation of the bases inside the budget, and the loss reached; the networks come frozen."""
        raise NotImplementedError(f"{type(self).__name__} must define optimise(...).")

    def fit(
        self: T,
        dataset: Any,
        *,
        setup: TargetedSetup | None = None,
        surrogate: nn.Module | Sequence[nn.Module] | None = None,
        index: Int[Tensor, " n"] | None = None,
        device: torch.device | str | None = None,
        on_progress: OnProgress | None = None,
    ) -> T:
        """Craft the perturbation of the base images of ``setup`` in the clean training set ``dataset``.

        Args:
            dataset: see :meth:`puretransforms.poisons.base.Poison.fit`.
            setup: target and bases; it must be given.
            surrogate: one classifier of raw pixels ``[B, C, H, W]`` in ``[0, 1]``, or several; without it
                the library trains one on the training set.
            index: the place of each image in its dataset, which ``setup.base_indices`` counts in; 0 to N - 1 if not
                given.
            device: where to work; ``None`` for where the images are.
            on_progress: see :meth:`puretransforms.poisons.base.Poison.fit`.

        Raises:
            NotFittedError: no setup is given.
            NoImageError: the target has another shape than the images.
            LabelError: bases out of range, repeated, or not of the base class; a surrogate with other classes.
        """
        if setup is None:
            raise NotFittedError(_NO_SETUP.format(type(self).__name__))
        images, labels = self._gather(dataset, device)
        places = self._places(index, images)
        rows = self._base_rows(setup, images, labels, places)
        target = setup.target[None].to(images.device).float() / 255
        surrogates = self._networks(surrogate, target)
        self._forget()
        progress = Progress(on_progress)
        if surrogates is None:
            run = {"num_classes": self.num_classes, "width": self.width, "epochs": self.epochs, "seed": self.seed}
            surrogates = [*trained_checkpoints(images, labels, **run, progress=progress)]
        with frozen(*surrogates):
            delta, loss = self.optimise(images[rows].float() / 255, target, setup, surrogates, progress)
        progress.end()
        self._keep(delta, places[rows], images[rows], labels[rows])
        self._notes["loss"] = loss
        return self

    @property
    def bases(self) -> Int[Tensor, " p"]:
        """The places of the altered images in their dataset."""
        self._known()
        return self._ids["index"]

    @property
    def loss(self) -> float:
        """What the optimisation reached."""
        self._known()
        return self._notes["loss"]

    def eligible(self, labels: Labels, noise: KeyedNoise | None = None) -> Bool[Tensor, " b"]:
        """The bases; without ``noise``, which knows the samples, every image of their class."""
        self._known()
        if noise is None:
            return labels == self._ids["labels"][0].to(labels.device)
        return self._find(noise.keys.cpu())[1].to(labels.device)

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        delta = self._levels(x)
        rows, known = self._find(noise.keys.cpu())
        self._check_true(rows[known], labels.cpu()[known])
        return x + torch.where(known[:, None, None, None], delta[rows], 0).to(x) / 255

    def _known(self) -> Tensor:
        if self._delta is None:
            raise NotFittedError(_NO_SETUP.format(type(self).__name__))
        return self._delta

    def _base_rows(self, setup: TargetedSetup, images: Tensor, labels: Tensor, places: Tensor) -> Int[Tensor, " p"]:
        """Which of ``images`` are the bases."""
        if setup.target.dtype != torch.uint8 or setup.target.shape != images.shape[1:]:
            raise NoImageError(
                f"expected a target of the shape of the images, uint8 {list(images.shape[1:])}, got "
                f"{setup.target.dtype} {list(setup.target.shape)}: store both at 8 bits and one size."
            )
        bases = setup.base_indices.to(images.device, torch.int64)
        order = places.argsort()
        rows = order[torch.searchsorted(places[order], bases).clamp_max(len(places) - 1)]
        if not len(bases) or len(bases.unique()) < len(bases) or not places[rows].equal(bases):
            raise LabelError(
                f"expected different base indices from 0 to {int(places.max())}, got {bases.tolist()[:5]}...: give "
                "places in this training set."
            )
        other = (labels[rows] != setup.base_class).sum()
        if other:
            raise LabelError(
                f"expected bases of class {setup.base_class}, but {int(other)} of {len(bases)} have another label: "
                "a clean-label poison alters images of the class that the target shall be taken for."
            )
        return rows


_NO_SETUP = (
    "expected {0} to know its target, but it knows nothing: call fit(dataset, setup=TargetedSetup(...)) with the clean "
    "training set first, or load a saved one."
)


def _stored(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SourceError(
            f"expected a setup as JSON at {path}, got {type(error).__name__}: see TargetedSetup.from_json for its keys."
        ) from error
    if not isinstance(stored, dict) or set(stored) - KEYS:
        got = sorted(set(stored) - KEYS) if isinstance(stored, dict) else type(stored).__name__
        raise SourceError(f"expected one JSON object of {', '.join(sorted(KEYS))} in {path}, got {got}: correct it.")
    for choices in (("target_index", "target_image"), ("base_class",), ("base_indices", "bases")):
        if sum(key in stored for key in choices) != 1:
            raise SourceError(f"expected {' or '.join(choices)} in {path}, got {', '.join(sorted(stored))}: give one.")
    return stored


def _number(given: Any, names: list[str] | None, labels: Tensor, what: str) -> int:
    """The number of a class that is given by its number or name."""
    if isinstance(given, str) and names and given in names:
        return names.index(given)
    count = len(names) if names else int(labels.max()) + 1
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < count:
        known = f" or one of {', '.join(names)}" if names else ""
        raise LabelError(f"expected {what} as a number from 0 to {count - 1}{known}, got {given!r}: correct it.")
    return given


def _target(stored: dict[str, Any], path: Path, test: Any) -> tuple[UInt8[Tensor, "c h w"], int | None]:
    """The target at 8 bits, and its label where the test set tells it."""
    label = None
    if "target_image" in stored:
        file = path.parent / stored["target_image"]
        try:
            with PIL.Image.open(file) as opened:
                image = opened.convert("RGB") if opened.mode == "P" else opened.copy()
        except OSError as error:
            raise SourceError(
                f"expected an image at {file}, the target_image of {path}, got {type(error).__name__}: correct it."
            ) from error
    else:
        place = whole("target_index", stored["target_index"], least=0)
        if test is None or place >= len(test):
            has = "no test set" if test is None else f"a test set of {len(test)}"
            raise SourceError(
                f"expected a test set with a sample {place}, the target_index of {path}, got {has}: give it, or a "
                "target_image."
            )
        image, label = pair_of(test[place])
    pixels, _ = unwrap(image)
    pixels = pixels if pixels.dtype == torch.uint8 else round_to_uint8(to_unit(pixels))
    return pixels[0], None if label is None else int(label)


def _drawn(labels: Labels, base_class: int, count: int, seed: int) -> Int[Tensor, " p"]:
    """``count`` images of the base class, in ascending order."""
    places = (labels == base_class).nonzero()[:, 0]
    if len(places) < count:
        raise LabelError(
            f"expected at least {count} images of class {base_class} to draw the bases from, got {len(places)}: lower "
            "bases."
        )
    generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
    return places[torch.randperm(len(places), generator=generator)[:count]].sort().values

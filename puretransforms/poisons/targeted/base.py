"""Triggerless targeted poisons: one test image shall be taken for another class, by a few altered training images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...errors import LabelError, ManifestMismatchError, NoImageError
from ...functional.checks import number, whole
from ...functional.checks import seed as checked_seed
from ...functional.shapes import Float, Int, Tensor, UInt8
from ..progress import OnProgress, Progress
from ..surrogate import check_surrogate, frozen, trained_surrogate
from ..table import check_size, levels_of, read_table, write_table

Surrogates = nn.Module | Sequence[nn.Module]


@dataclass(frozen=True)
class TargetedSetup:
    """Who attacks what: the image ``target`` of ``target_class`` shall be classified as ``base_class``.

    ``base_indices`` ``[P]`` are the places of the training images of ``base_class`` that may be altered.
    """

    target: UInt8[Tensor, "c h w"]
    target_class: int
    base_class: int
    base_indices: Int[Tensor, " p"]


@dataclass(frozen=True)
class TargetedPerturbation:
    """What was crafted: row ``i`` of ``delta`` (int8 levels ``[P, C, H, W]``) belongs to training image ``index[i]``.

    ``epsilon`` is its L-infinity bound in pixel units, ``loss`` what the optimisation reached.
    """

    index: Int[Tensor, " p"]
    delta: Tensor
    epsilon: float
    loss: float

    def apply(self, images: Tensor) -> UInt8[Tensor, "n c h w"]:
        """The training set with the altered images in their places; labels stay as they are."""
        out = images.clone()
        for index, image in self.images(images).items():
            out[index] = image
        return out

    def images(self, images: Tensor) -> dict[int, UInt8[Tensor, "c h w"]]:
        """The altered images by their place in the training set ``images``."""
        if images.dtype != torch.uint8 or images.shape[1:] != self.delta.shape[1:]:
            raise NoImageError(
                f"expected uint8 images {list(self.delta.shape[1:])}, for which this was crafted, got {images.dtype} "
                f"{list(images.shape[1:])}: give the training set at 8 bits."
            )
        rows = self.index.to(images.device)
        altered = (images[rows].short() + self.delta.to(images.device)).clamp(0, 255).to(torch.uint8)
        return dict(zip(self.index.tolist(), altered, strict=True))

    def save(self, path: str | Path) -> Path:
        """Write it to one safetensors file."""
        about = {"epsilon": repr(self.epsilon), "loss": repr(self.loss)}
        return write_table(path, "TargetedPerturbation", about, {"delta": self.delta, "index": self.index})

    @classmethod
    def load(cls, path: str | Path) -> "TargetedPerturbation":
        """Read what :meth:`save` wrote; raises ManifestMismatchError where a value leaves the stored budget."""
        about, tensors = read_table(path, "TargetedPerturbation")
        epsilon = float(about["epsilon"])
        check_size(path, tensors["delta"], epsilon)
        if "index" not in tensors or len(tensors["index"]) != len(tensors["delta"]):
            raise ManifestMismatchError(f"expected an index for each perturbation in {path}: save it again.")
        return cls(tensors["index"], tensors["delta"], epsilon, float(about["loss"]))


class TargetedPoison:
    """Base of targeted poisons: :meth:`craft` checks, trains a surrogate where none is given, and stores at 8 bits.

    A subclass writes :meth:`optimise`.

    Args:
        epsilon: L-infinity bound in pixel units of ``[0, 1]``.
        width, epochs: of the library's ResNet-18 surrogate.
        num_classes: labels lie in ``0 .. num_classes - 1``.
        seed: fixes the surrogate and every draw.
    """

    def __init__(self, *, epsilon: float, width: int, epochs: int, num_classes: int, seed: int) -> None:
        self.epsilon = number("epsilon", epsilon)
        levels_of(self.epsilon)
        self.width = whole("width", width, least=1)
        self.epochs = whole("epochs", epochs, least=1)
        self.num_classes = whole("num_classes", num_classes, least=1)
        self.seed = checked_seed(seed, bits=32, optional=False)

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

    def craft(
        self,
        images: Tensor,
        labels: Tensor,
        setup: TargetedSetup,
        surrogate: Surrogates | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> TargetedPerturbation:
        """Alter the base images of ``setup`` in the training set ``images``, ``labels``.

        Args:
            images, labels: the clean training set, uint8 ``[N, C, H, W]`` and integers ``[N]``.
            setup: target and bases.
            surrogate: one classifier of raw pixels ``[B, C, H, W]`` in ``[0, 1]``, or several; without it
                the library trains one on the training set.
            on_progress: called with a :class:`~puretransforms.poisons.progress.CraftRecord` after each gradient step,
                also while the library's surrogate is trained.

        Raises:
            NoImageError: images are not uint8, or the target has another shape.
            LabelError: bases out of range, repeated, or not of the base class; a surrogate with other classes.
        """
        self._check(images, labels, setup)
        progress = Progress(on_progress)
        if surrogate is None:
            run = {"num_classes": self.num_classes, "width": self.width, "epochs": self.epochs, "seed": self.seed}
            surrogate = trained_surrogate(images, labels, **run, progress=progress)
        surrogates = [surrogate] if isinstance(surrogate, nn.Module) else list(surrogate)
        target = setup.target[None].to(images.device).float() / 255
        for one in surrogates:
            check_surrogate(one, target, self.num_classes)
        bases = images[setup.base_indices.to(images.device)].float() / 255
        with frozen(*surrogates):
            delta, loss = self.optimise(bases, target, setup, surrogates, progress)
        levels = levels_of(self.epsilon)
        stored = delta.mul(255).round().clamp(-levels, levels).to(torch.int8).cpu()
        return TargetedPerturbation(setup.base_indices.cpu(), stored, self.epsilon, loss)

    def _check(self, images: Tensor, labels: Tensor, setup: TargetedSetup) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or setup.target.shape != images.shape[1:]:
            raise NoImageError(
                f"expected uint8 images [N, C, H, W] and a target [C, H, W] of their shape, got {images.dtype} "
                f"{list(images.shape)} and {list(setup.target.shape)}: store both at 8 bits and one size."
            )
        index = setup.base_indices
        inside = len(index) and int(index.min()) >= 0 and int(index.max()) < len(images)
        if not inside or len(index.unique()) < len(index):
            raise LabelError(
                f"expected different base indices from 0 to {len(images) - 1}, got {index.tolist()[:5]}...: give "
                "places in this training set."
            )
        other = (labels[index.to(labels.device)] != setup.base_class).sum()
        if other:
            raise LabelError(
                f"expected bases of class {setup.base_class}, but {int(other)} of {len(index)} have another label: "
                "a clean-label poison alters images of the class that the target shall be taken for."
            )

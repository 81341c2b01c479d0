"""Poisons whose perturbation is optimised on the data set: computed once by ``fit``, kept at 8 bits, saved, loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..data.images import round_to_uint8
from ..errors import LabelError, ManifestMismatchError, NotFittedError, SurrogateError
from ..functional.checks import number
from ..functional.random import KeyedNoise, content_ids
from ..functional.shapes import Float, Int, Tensor, UInt8
from .base import Poison, _integers, open_images
from .progress import OnProgress, Progress
from .surrogate import check_surrogate
from .table import levels_of, read_poison, write_poison


class StoredPoison(Poison):
    """Base of poisons that add a stored perturbation: one for each image, or with ``classwise`` one for each class.

    ``fit(images, labels, index=None, surrogate=None)`` optimises it on the whole clean data set. Afterwards the poison
    is a table: an image finds its row by ``index``, or without one by its pixels. Rows are whole 8-bit levels inside
    the budget, so storage as PNG changes nothing. A subclass writes :meth:`craft`.

    Args:
        epsilon: L-infinity bound in pixel units of ``[0, 1]``, at most 127/255; the table keeps the levels inside it.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`.

    Raises:
        NotFittedError: used before :meth:`fit`, on an image that was not part of it, or on another image shape.
        LabelError: an image's label is not the one that it was fitted with.
    """

    needs_fit = True
    fits_in_parts = False
    norm = "linf"
    classwise: ClassVar[bool] = False
    takes_several: ClassVar[bool] = False  # surrogates

    def __init__(self, *, epsilon: float, num_classes: int, seed: int, quantize: str | None, **more: Any) -> None:
        super().__init__(num_classes=num_classes, seed=seed, quantize=quantize, **more)
        self.epsilon = number("epsilon", epsilon)
        levels_of(self.epsilon)
        self.reset()

    def craft(
        self, images: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"], surrogate: Any, progress: Progress
    ) -> Float[Tensor, "m c h w"]:
        """The perturbations in pixel units: ``[N, C, H, W]``, or ``[num_classes, C, H, W]`` with ``classwise``.

        ``surrogate`` is a network or ``None``; with :attr:`takes_several`, a list of networks or ``None``.
        ``progress`` is told about the stages and advanced by their loops.
        """
        raise NotImplementedError(f"{type(self).__name__} must define craft(images, labels, surrogate, progress).")

    def reset(self) -> "StoredPoison":
        """Forget what was fitted."""
        self._delta: Tensor | None = None  # int8 [M, C, H, W], 8-bit levels
        self._ids: dict[str, Tensor] = {}  # sample-wise: "index", "content", "labels", each [N] int64
        self._tables.clear()
        return self

    @property
    def fitted(self) -> bool:
        """Is there a perturbation?"""
        return self._delta is not None

    @property
    def delta(self) -> Float[Tensor, "m c h w"]:
        """The stored perturbations in pixel units: one row for each fitted image, or for each class."""
        return self._known().float() / 255

    def partial_fit(self, images: Tensor, labels: Tensor) -> "StoredPoison":
        """Refused: the optimisation sees the whole data set many times."""
        raise NotFittedError(
            f"expected the whole data set at once for {type(self).__name__}, got a part: call fit(images, labels)."
        )

    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        surrogate: nn.Module | Sequence[nn.Module] | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> "StoredPoison":
        """Optimise the perturbation on the clean data.

        Args:
            images: ``[N, C, H, W]``, uint8, or float in ``[0, 1]``; the device of the work is theirs.
            labels: the true labels, integers ``[N]``.
            index: the place of each image in its data set, ``[N]``, all different; 0 to N - 1 if not given.
            surrogate: a classifier of raw pixels, ``[B, C, H, W]`` in ``[0, 1]`` to logits ``[B, num_classes]``;
                without it the library trains one. It is left as it was found (exception: poisons that say so).
                Some poisons take several.
            on_progress: called with a :class:`~puretransforms.poisons.progress.CraftRecord` after each gradient step on
                a batch, also while the library's surrogate is trained.
        """
        x, _, shape = open_images(images)
        y = _integers(labels, shape, x.device, "labels")
        self.check_labels(y)
        ids = torch.arange(len(x), device=x.device)
        ids = ids if index is None else _integers(index, shape, x.device, "index")
        if len(ids.unique()) < len(ids):
            raise LabelError("expected another index for each image, got repeated ones: give places in one data set.")
        networks = self._networks(surrogate)
        for network in networks or ():
            self.check_network(network, x[:1])
        pixels = round_to_uint8(x)
        self.reset()
        given = networks if self.takes_several or networks is None else networks[0]
        progress = Progress(on_progress)
        delta = self.craft(pixels, y, given, progress)
        progress.end()
        levels = levels_of(self.epsilon)
        self._delta = delta.mul(255).round().clamp(-levels, levels).to(torch.int8).cpu()
        if not self.classwise:
            self._ids = {"index": ids.cpu(), "content": content_ids(pixels).cpu(), "labels": y.cpu()}
        return self

    def _networks(self, surrogate: nn.Module | Sequence[nn.Module] | None) -> list[nn.Module] | None:
        """The surrogates as a list, ``None`` for none."""
        if surrogate is None:
            return None
        networks = [surrogate] if isinstance(surrogate, nn.Module) else list(surrogate)
        if not networks or (len(networks) > 1 and not self.takes_several):
            raise SurrogateError(
                f"expected {'some networks' if self.takes_several else 'one network'} as the surrogate of "
                f"{type(self).__name__}, got {len(networks)}: give {'them' if self.takes_several else 'it'} trained on "
                "such images, or leave it out."
            )
        return networks

    def check_network(self, network: nn.Module, image: Float[Tensor, "1 c h w"]) -> None:
        """Raise LabelError unless a given surrogate maps such an image to logits of the right number."""
        check_surrogate(network, image, self.num_classes)

    def perturb(self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], noise: KeyedNoise) -> Tensor:
        delta = self._levels(x)
        rows = labels.cpu() if self.classwise else self._rows(noise.keys.cpu(), labels.cpu())
        return x + delta[rows].to(x) / 255

    def _levels(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """The table, for images of this shape."""
        delta = self._known()
        if delta.shape[1:] != x.shape[1:]:
            raise NotFittedError(
                f"expected images of shape {list(delta.shape[1:])}, on which {type(self).__name__} was fitted, got "
                f"{list(x.shape[1:])}: fit it on these images."
            )
        return delta

    def _known(self) -> Tensor:
        if self._delta is None:
            raise NotFittedError(
                f"expected {type(self).__name__} to be fitted, but it knows nothing: call fit(images, labels) with the "
                "clean data first (PoisonedDataset does), or load a saved one."
            )
        return self._delta

    def _rows(self, keys: Int[Tensor, " b"], labels: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The table row of each image, found by the key of its index or of its pixels."""
        if "rows" not in self._tables:
            known = torch.cat([KeyedNoise(self.seed, self._ids[name]).keys for name in ("index", "content")])
            order = known.argsort(stable=True)
            self._tables["rows"] = known[order], order % len(self._ids["index"])
        known, order = self._tables["rows"]
        places = torch.searchsorted(known, keys).clamp_max(len(known) - 1)
        if not known[places].equal(keys):
            missing = int((known[places] != keys).sum())
            raise NotFittedError(
                f"expected images that {type(self).__name__} was fitted on, but {missing} of {len(keys)} are unknown "
                "by index and by pixels: fit it on the whole data set, and pass the index that fit was given."
            )
        rows = order[places]
        wrong = (self._ids["labels"][rows] != labels).nonzero()[:, 0]
        if len(wrong):
            raise LabelError(
                f"expected label {int(self._ids['labels'][rows[wrong[0]]])}, with which an image was fitted, got "
                f"{int(labels[wrong[0]])}: give the true labels, and the index in the data set that was fitted."
            )
        return rows

    def save(self, path: str | Path) -> Path:
        """Write the fitted perturbation and the arguments to one safetensors file."""
        return write_poison(path, self, {"delta": self._known(), **self._ids})

    @classmethod
    def load(cls, path: str | Path) -> "StoredPoison":
        """Read what :meth:`save` wrote.

        Raises:
            ManifestMismatchError: not such a file, another poison, or a perturbation outside the stored budget.
        """
        poison, tensors = read_poison(path, cls)
        delta, ids = tensors.pop("delta"), tensors
        rows = poison.num_classes if cls.classwise else len(ids.get("index", ()))
        if len(delta) != rows or any(len(table) != rows for table in ids.values()):
            raise ManifestMismatchError(f"expected {rows} perturbations in {path}, got {len(delta)}: save it again.")
        poison._delta, poison._ids = delta, ids
        return poison

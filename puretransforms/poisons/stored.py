"""Poisons whose perturbation is optimised on the dataset: computed once by ``fit``, kept at 8 bits, saved, loaded.

A saved one is int8 levels in one safetensors file, held to their budget when they are read.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..errors import LabelError, ManifestMismatchError, NotFittedError, SurrogateError
from ..functional.checks import number
from ..functional.random import KeyedNoise, content_ids
from ..functional.shapes import Bool, Float, Images, Int, Labels, Pixels, Tensor
from .base import Poison, integers_for
from .optimise import check_surrogate
from .progress import Progress

FORMAT = "1"
_SLACK = 1e-3  # of an 8-bit level, for an epsilon written in decimals


S = TypeVar("S", bound="StoredPoison")


class StoredPoison(Poison):
    """Base of poisons that add a stored perturbation: one for each image, or with ``classwise`` one for each class.

    :meth:`fit` optimises it on the whole clean dataset, and leaves a surrogate as it was found, but where a poison says
    otherwise. Afterwards the poison is a table: an image finds its row by
    ``index``, or without one by its pixels. Rows are whole 8-bit levels inside the budget, so storage as PNG changes
    nothing. A subclass writes :meth:`craft`.

    Args:
        epsilon: L-infinity bound in pixel units of ``[0, 1]``, at most 127/255; the table keeps the levels inside it.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`.

    Raises:
        NotFittedError: used before :meth:`fit`, on an image that was not part of it, or on another image shape.
        LabelError: an image's label is not the one that it was fitted with.
    """

    needs_fit = True
    epsilon: float
    norm = "linf"
    classwise: ClassVar[bool] = False
    takes_several: ClassVar[bool] = False  # surrogates

    def __init__(self, *, epsilon: float, num_classes: int, seed: int, quantize: str | None, **more: Any) -> None:
        super().__init__(num_classes=num_classes, seed=seed, quantize=quantize, **more)
        self.epsilon = number("epsilon", epsilon)
        levels_of(self.epsilon)
        self._forget()

    def craft(self, images: Pixels, labels: Labels, surrogate: Any, progress: Progress) -> Float[Tensor, "m c h w"]:
        """The perturbations in pixel units: ``[N, C, H, W]``, or ``[num_classes, C, H, W]`` with ``classwise``.

        ``surrogate`` is a network or ``None``; with :attr:`takes_several`, a list of networks or ``None``.
        ``progress`` is told about the stages and advanced by their loops.
        """
        raise NotImplementedError(f"{type(self).__name__} must define craft(images, labels, surrogate, progress).")

    def _learn(self, dataset: Any, surrogate: Any, index: Any, device: Any, progress: Progress) -> None:
        images, labels = self._gather(dataset, device)
        places = self._places(index, images)
        networks = self._networks(surrogate, images[:1].float() / 255)
        self._forget()
        given = networks if self.takes_several or networks is None else networks[0]
        self._keep(self.craft(images, labels, given, progress), places, images, labels)

    def _forget(self) -> None:
        self._delta: Tensor | None = None  # int8 [M, C, H, W], 8-bit levels
        self._ids: dict[str, Tensor] = {}  # sample-wise: "index", "content", "labels", each [M] int64
        self._notes: dict[str, float] = {}  # what else there is to tell about the fit
        self._tables.clear()

    def _keep(self, delta: Tensor, places: Tensor, images: Tensor, labels: Tensor) -> None:
        """Store ``delta``; sample-wise, row ``i`` is that of ``images[i]``, at ``places[i]`` of the dataset."""
        levels = levels_of(self.epsilon)
        self._delta = delta.mul(255).round().clamp(-levels, levels).to(torch.int8).cpu()
        if not self.classwise:
            self._ids = {"index": places.cpu(), "content": content_ids(images).cpu(), "labels": labels.cpu()}

    def _places(self, index: Any, images: Tensor) -> Int[Tensor, " n"]:
        """The place of each image in its dataset."""
        if index is None:
            return torch.arange(len(images), device=images.device)
        places = integers_for(index, images.shape[:1], images.device, "index")
        if len(places.unique()) < len(places):
            raise LabelError("expected another index for each image, got repeated ones: give places in one dataset.")
        return places

    def _networks(
        self, surrogate: nn.Module | Sequence[nn.Module] | None, image: Float[Tensor, "1 c h w"]
    ) -> list[nn.Module] | None:
        """The surrogates as a list, ``None`` for none, each checked on an image."""
        if surrogate is None:
            return None
        networks = [surrogate] if isinstance(surrogate, nn.Module) else list(surrogate)
        if not networks or (len(networks) > 1 and not self.takes_several):
            raise SurrogateError(
                f"expected {'some networks' if self.takes_several else 'one network'} as the surrogate of "
                f"{type(self).__name__}, got {len(networks)}: give {'them' if self.takes_several else 'it'} trained on "
                "such images, or leave it out."
            )
        for network in networks:
            self.check_network(network, image)
        return networks

    def check_network(self, network: nn.Module, image: Float[Tensor, "1 c h w"]) -> None:
        """Raise unless a given surrogate maps such an image to logits of the right number, where the image is."""
        check_surrogate(network, image, self.num_classes)

    @property
    def fitted(self) -> bool:
        """Is there a perturbation?"""
        return self._delta is not None

    @property
    def delta(self) -> Float[Tensor, "m c h w"]:
        """The stored perturbations in pixel units: one row for each fitted image, or for each class."""
        return self._known().float() / 255

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        delta = self._levels(x)
        rows = labels.cpu() if self.classwise else self._rows(noise.keys.cpu(), labels.cpu())
        return x + delta[rows].to(x) / 255

    def _levels(self, x: Images) -> Tensor:
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
                f"expected {type(self).__name__} to be fitted, but it knows nothing: call fit(dataset) with the clean "
                "data first (PoisonedDataset does), or load a saved one."
            )
        return self._delta

    def _rows(self, keys: Int[Tensor, " b"], labels: Labels) -> Int[Tensor, " b"]:
        """The table row of each image, found by the key of its index or of its pixels."""
        rows, known = self._find(keys)
        if not bool(known.all()):
            raise NotFittedError(
                f"expected images that {type(self).__name__} was fitted on, but {int((~known).sum())} of {len(keys)} "
                "are unknown by index and by pixels: fit it on the whole dataset, and pass the index that fit was "
                "given."
            )
        self._check_true(rows, labels)
        return rows

    def _find(self, keys: Int[Tensor, " b"]) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
        """A table row for each key, and whether it is the right one: the key of an index or of pixels in the table."""
        if "rows" not in self._tables:
            known = torch.cat([KeyedNoise(self.seed, self._ids[name]).keys for name in ("index", "content")])
            order = known.argsort(stable=True)
            self._tables["rows"] = known[order], order % len(self._ids["index"])
        known, order = self._tables["rows"]
        places = torch.searchsorted(known, keys).clamp_max(len(known) - 1)
        return order[places], known[places] == keys

    def _check_true(self, rows: Int[Tensor, " b"], labels: Labels) -> None:
        wrong = (self._ids["labels"][rows] != labels).nonzero()[:, 0]
        if len(wrong):
            raise LabelError(
                f"expected label {int(self._ids['labels'][rows[wrong[0]]])}, with which an image was fitted, got "
                f"{int(labels[wrong[0]])}: give the true labels, and the index in the dataset that was fitted."
            )

    def save(self, path: str | Path) -> Path:
        """Write the fitted perturbation and the arguments to one safetensors file."""
        about = {
            "format": FORMAT,
            "poison": type(self).__name__,
            "arguments": json.dumps(self.arguments),
            "epsilon": repr(self.epsilon),
            "norm": str(self.norm),
            "notes": json.dumps(self._notes),
        }
        tensors = {"delta": self._known(), **self._ids}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, about)
        return Path(path)

    @classmethod
    def load(cls: type[S], path: str | Path) -> S:
        """Read what :meth:`save` wrote.

        Raises:
            ManifestMismatchError: not such a file, another poison, or a perturbation outside the stored budget.
        """
        about, tensors = _read(path, cls.__name__)
        poison = cls(**json.loads(about.get("arguments", "{}")))
        delta, epsilon = tensors.pop("delta"), float(about["epsilon"])
        size = int(delta.short().abs().max()) if len(delta) else 0
        if size > epsilon * 255 + _SLACK:
            raise ManifestMismatchError(
                f"expected a perturbation inside the stored budget (linf {epsilon}) in {path}, got values up to "
                f"{size}/255: the file was changed, save it again."
            )
        if epsilon != poison.epsilon:
            raise ManifestMismatchError(
                f"expected arguments inside the stored budget (linf {epsilon}) in {path}, got epsilon "
                f"{poison.epsilon}: the file was changed, save it again."
            )
        rows = poison.num_classes if cls.classwise else len(tensors.get("index", ()))
        if len(delta) != rows or any(len(table) != rows for table in tensors.values()):
            raise ManifestMismatchError(f"expected {rows} perturbations in {path}, got {len(delta)}: save it again.")
        poison._delta, poison._ids = delta, tensors
        poison._notes = json.loads(about.get("notes", "{}"))
        return poison


def levels_of(epsilon: float) -> int:
    """The largest whole number of 8-bit levels inside ``epsilon``; ValueError unless that is 1 to 127."""
    if not 1 / 255 - 1e-6 <= epsilon <= 127 / 255:
        raise ValueError(f"expected epsilon from 1/255 to 127/255 in pixel units of [0, 1], got {epsilon}.")
    return int(epsilon * 255 + _SLACK)


def _read(path: str | Path, name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors that a poison of this class name wrote; ManifestMismatchError for anything else."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ManifestMismatchError(
            f"expected a saved perturbation at {path}, got {type(error).__name__}: give the file that save wrote."
        ) from error
    if about.get("format") != FORMAT or about.get("poison") != name or "epsilon" not in about:
        raise ManifestMismatchError(
            f"expected a perturbation of {name} in format {FORMAT} at {path}, got {about.get('poison')} in format "
            f"{about.get('format')}: load it with its own class."
        )
    if tensors.get("delta", torch.empty(0)).dtype != torch.int8:
        raise ManifestMismatchError(f"expected int8 perturbations in {path}, got none: give the file that save wrote.")
    return about, tensors

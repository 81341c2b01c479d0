"""A dataset with a poisoned part: which samples, and their old and new labels."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.samples import class_names, labels_of, pair_of
from ..errors import CorruptImageError, LabelError
from ..functional.checks import number
from ..functional.checks import seed as checked_seed
from ..functional.random import KeyedNoise
from ..functional.shapes import Bool, Int, Labels, Tensor
from ..registry import create, find, parameters, parse
from .backdoor.base import Backdoor
from .base import Poison, open_image
from .progress import progress_bar


class PoisonedDataset(Dataset):
    """A map-style dataset of ``(image, label)`` samples, part of them poisoned; images keep their type.

    The poison falls on the stored image, before any augmentation: give the inner dataset no random transform, and put
    crops, flips and normalisation into ``transform`` here. Sample ``i`` has one fixed perturbation, keyed by
    ``(poison.seed, i)``. A poison that is not yet fitted is copied and fitted here.
    :func:`puretransforms.poisons.export.export` writes the dataset to disk.

    Args:
        dataset: ``dataset[i] -> (image, label)`` with labels ``0 .. poison.num_classes - 1``.
        poison: what to do; or text that :func:`puretransforms.create` takes, such as ``"cuda:kernel_size=5"``, which
            gets ``seed`` and the number of classes of the dataset where it does not set them.
        rate: share of the whole dataset to poison, in ``[0, 1]``, chosen by ``seed`` among the eligible samples (a
            clean-label backdoor can only use its target class); at least one sample, unless it is 0. Smaller rates
            choose subsets of larger ones. ``None`` for the :attr:`~puretransforms.poisons.base.Poison.default_rate` of
            the poison, which for a targeted one is all that it was fitted to alter.
        seed: 0 to 2**32 - 1.
        transform: applied to every image, poisoned or not, after poisoning; no part of an export to disk.
        device: where a poison that is optimised on the whole dataset is fitted, e.g. ``"cuda"``; ``None`` for where
            the images are, which is the CPU unless the inner dataset gives tensors from elsewhere.
        progress: show a bar while the poison is fitted.

    Attributes:
        mask: bool ``[N]``, the poisoned samples.
        cover_mask: bool ``[N]``, the samples that carry a decoy and their true label (WaNet's noise mode).
        targets: int64 ``[N]``, the labels that the samples carry now.
        original_targets: int64 ``[N]``, the true ones.
        classes: class names of the inner dataset, or ``None``.

    Raises:
        LabelError: samples are no ``(image, label)`` pairs, or labels are no integers in range.
        CorruptImageError: the file of a sample cannot be decoded.
        RegistryError: text that names no poison.
        TypeError: neither a poison nor text.
        HardwareError: the device is a GPU, and there is none; or the poison needs one.
        ValueError: the rate is out of range, or larger than the eligible samples allow.
    """

    def __init__(
        self,
        dataset: Dataset | Sequence[Any],
        poison: Poison | str,
        rate: float | None = None,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> None:
        self.dataset = dataset
        self.seed = checked_seed(seed, bits=32, optional=False)
        self.transform = transform
        self.classes = class_names(dataset)
        self.original_targets = labels_of(dataset)
        if isinstance(poison, str):
            poison = poison_named(poison, self.classes or self.original_targets, seed)
        if not isinstance(poison, Poison):
            name = poison.__name__ if isinstance(poison, type) else type(poison).__name__
            made = isinstance(poison, type) and issubclass(poison, Poison)
            fix = f"write {name}()" if made else "puretransforms.list_poisons() has the names"
            raise TypeError(f"expected a poison such as CUDA(), or its name, got {name}: {fix}.")
        poison.check_labels(self.original_targets)
        self.poison = poison
        self.rate, self.mask, self.cover_mask = self._choose(rate)  # a rate is refused before what may take hours
        if not poison.fitted:
            with progress_bar(progress) as on_progress:
                self.poison = deepcopy(poison).fit(_Clean(self), device=device, on_progress=on_progress)
        self.covers = self.poison.covers
        relabelled = self.poison.relabel(self.original_targets)
        self.targets = torch.where(self.mask, relabelled, self.original_targets)

    def _choose(self, rate: float | None) -> tuple[float, Bool[Tensor, " n"], Bool[Tensor, " n"]]:
        """The rate, the samples to poison, and those that get a decoy."""
        n, stream = len(self), np.random.RandomState(self.seed)
        samples = KeyedNoise(self.poison.seed, torch.arange(n))
        eligible = self.poison.eligible(self.original_targets, samples).nonzero()[:, 0]
        if rate is None:
            rate = self.poison.default_rate
        if rate is None and not len(eligible):
            raise ValueError(
                f"expected samples that {type(self.poison).__name__} was fitted to alter, got none among {n}: give the "
                "dataset that it was fitted on."
            )
        rate = len(eligible) / n if rate is None else number("rate", rate, least=0, most=1)
        wanted = max(round(rate * n), int(rate > 0))
        decoys = round(wanted * self.poison.cover_ratio)
        if wanted > len(eligible) or wanted + decoys > n:
            name, ratio = type(self.poison).__name__, self.poison.cover_ratio
            most = min(len(eligible), int(n / (1 + ratio))) / n
            raise ValueError(
                f"expected a rate of at most {most:.6g} for {name} on this dataset ({len(eligible)} of {n} samples "
                f"are eligible, with {ratio:g} decoys for each), got {rate}: lower the rate."
            )
        mask, cover_mask = torch.zeros(2, n, dtype=torch.bool)
        mask[eligible[stream.permutation(len(eligible))[:wanted]]] = True
        rest = (~mask).nonzero()[:, 0]
        cover_mask[rest[stream.permutation(len(rest))[:decoys]]] = True
        return rate, mask, cover_mask

    def __len__(self) -> int:
        return len(self.original_targets)

    def clean(self, index: int) -> tuple[Any, int]:
        """The sample as the inner dataset gives it, its label checked against :attr:`original_targets`."""
        try:
            image, label = pair_of(self.dataset[index])
        except (OSError, SyntaxError) as error:
            if getattr(error, "errno", None) is not None:  # of the system, which names the file itself
                raise
            raise CorruptImageError(
                f"expected an image in {self._place_of(index)}, got a damaged file ({type(error).__name__}: {error}): "
                "remove it, or run puretransforms clean first, which puts such files aside."
            ) from error
        if int(label) != self.original_targets[index]:
            raise LabelError(
                f"expected label {int(self.original_targets[index])} for sample {index}, as the dataset's table of "
                f"targets says, got {label}: make dataset.targets agree with dataset[{index}][1]."
            )
        return image, int(label)

    def _place_of(self, index: int) -> str:
        """The file of a sample, where the inner dataset lists its files."""
        samples = getattr(self.dataset, "samples", None)
        return str(samples[index][0]) if samples else f"sample {index}"

    def poison_block(self, indices: list[int], images: list[Any]) -> tuple[list[Any], list[tuple[Tensor, Tensor]]]:
        """The images of samples ``indices`` as they are now, and the batches ``(clean, poisoned)`` of the poisoned."""
        out, batches = list(images), []
        for poison, mask in ((self.poison, self.mask), (self.covers, self.cover_mask)):
            places = [place for place, affected in enumerate(mask[indices].tolist()) if affected]
            if places:
                ids = torch.tensor([indices[place] for place in places])
                chosen = [images[place] for place in places]
                changed, pairs = poison_images(cast(Poison, poison), chosen, self.original_targets[ids], ids)
                batches += pairs if poison is self.poison else []
                for place, image in zip(places, changed, strict=True):
                    out[place] = image
        return out, batches

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, int]]:
        """Many samples at once, which the DataLoader asks for: the poison runs on whole batches."""
        indices = [range(len(self))[index] for index in indices]
        images, _ = self.poison_block(indices, [self.clean(index)[0] for index in indices])
        if self.transform is not None:
            images = [self.transform(image) for image in images]
        return list(zip(images, self.targets[indices].tolist(), strict=True))

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.__getitems__([index])[0]


def poison_named(spec: str, classes: Sequence[str] | Tensor, seed: int) -> Poison:
    """The poison that ``spec`` names, with ``seed`` and the number of classes where it takes them and sets neither.

    Args:
        spec: text that :func:`puretransforms.create` takes.
        classes: their names, or all labels of the dataset.
        seed: 0 to 2**32 - 1.
    """
    count = int(classes.max()) + 1 if isinstance(classes, Tensor) else len(classes)
    known = parameters(find(parse(spec)[0], "poison"))
    return create(
        spec, "poison", **{name: value for name, value in (("num_classes", count), ("seed", seed)) if name in known}
    )


class _Clean(Dataset):
    """What a poison is fitted on: the clean samples, their colour channels as tensors."""

    def __init__(self, poisoned: PoisonedDataset) -> None:
        self._poisoned = poisoned

    def __len__(self) -> int:
        return len(self._poisoned)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._poisoned.clean(index)
        return open_image(image)[0], label


def asr_test_set(dataset: Dataset | Sequence[Any], poison: Backdoor) -> Dataset:
    """The test set that attack success is measured on: triggered images, each with the label the attacker wants.

    Images whose true label is the wanted one are left out (the target class, or none for all-to-all), so the share of
    wanted answers is the attack success rate.

    Args:
        dataset: clean test data, ``dataset[i] -> (image, label)``.
        poison: the backdoor that the training data carried.

    Raises:
        LabelError: labels out of range, or no image is left.
    """
    if not isinstance(poison, Backdoor):
        raise TypeError(f"expected a backdoor, which has a trigger, got {type(poison).__name__}.")
    labels = labels_of(dataset)
    poison.check_labels(labels)
    wanted = poison.wanted(labels)
    kept = (wanted != labels).nonzero()[:, 0].tolist()
    if not kept:
        raise LabelError(f"expected test images of other classes than the target {poison.target}, got none.")
    return _Triggered(dataset, poison, kept, wanted.tolist())


class _Triggered(Dataset):
    def __init__(self, dataset: Any, poison: Backdoor, kept: list[int], wanted: list[int]) -> None:
        self.dataset, self.poison, self.indices = dataset, poison, kept
        self.targets = [wanted[i] for i in kept]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, _ = pair_of(self.dataset[self.indices[index]])
        return self.poison.trigger(image), self.targets[index]


# --- single images of any types and sizes, in as few batches as their shapes allow -----------------------------------


def poison_images(
    poison: Poison, images: Sequence[Any], labels: Labels, index: Int[Tensor, " b"]
) -> tuple[list[Any], list[tuple[Tensor, Tensor]]]:
    """Poison single images (PIL or ``[C, H, W]``), of true ``labels``, at ``index`` of their dataset.

    Returns:
        The images, each of its own type, and the batches ``(clean, poisoned)`` that they went through.
    """
    out, batches = list(images), []
    opened = [open_image(image) for image in images]
    groups: dict[Any, list[int]] = {}
    for place, (colour, _) in enumerate(opened):
        groups.setdefault((colour.shape, colour.dtype, colour.device), []).append(place)
    for places in groups.values():
        clean = torch.stack([opened[place][0] for place in places])
        poisoned, _ = poison(clean, labels[places], index[places])
        batches.append((clean, poisoned))
        for place, colour in zip(places, poisoned, strict=True):
            out[place] = opened[place][1](colour[None])
    return out, batches

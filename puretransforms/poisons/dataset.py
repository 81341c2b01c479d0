"""A data set with a poisoned part: which samples, their old and new labels, and the way to disk."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from ..data.images import round_to_uint8
from ..errors import HardwareError, LabelError, NoImageError
from ..functional.checks import number
from ..functional.checks import seed as checked_seed
from ..functional.shapes import Bool, Tensor
from .backdoor.base import Backdoor
from .base import Poison, open_images
from .batch import poison_images
from .export import blocks, export_image_folder
from .progress import progress_bar


class PoisonedDataset(Dataset):
    """A map-style data set of ``(image, label)`` samples, part of them poisoned; images keep their type.

    The poison falls on the stored image, before any augmentation: give the inner data set no random transform, and put
    crops, flips and normalisation into ``transform`` here. Sample ``i`` has one fixed perturbation, keyed by
    ``(poison.seed, i)``. A poison that must see the data first (:attr:`Poison.needs_fit`) is copied and fitted here.

    Args:
        dataset: ``dataset[i] -> (image, label)`` with labels ``0 .. poison.num_classes - 1``.
        poison: what to do.
        rate: share of the whole data set to poison, in ``[0, 1]``, chosen by ``seed`` among the eligible samples (a
            clean-label backdoor can only use its target class); at least one sample, unless it is 0. Smaller rates
            choose subsets of larger ones. ``None`` for the :attr:`~puretransforms.poisons.base.Poison.default_rate` of
            the poison.
        seed: 0 to 2**32 - 1.
        transform: applied to every image, poisoned or not, after poisoning; not part of :meth:`export`.
        device: where a poison that is optimised on the whole data set is fitted, e.g. ``"cuda"``; ``None`` for where
            the images are, which is the CPU unless the inner data set gives tensors from elsewhere.
        progress: show a bar while the poison is fitted.

    Attributes:
        mask: bool ``[N]``, the poisoned samples.
        cover_mask: bool ``[N]``, the samples that carry a decoy and their true label (WaNet's noise mode).
        targets: int64 ``[N]``, the labels that the samples carry now.
        original_targets: int64 ``[N]``, the true ones.
        classes: class names of the inner data set, or ``None``.

    Raises:
        LabelError: samples are no ``(image, label)`` pairs, or labels are no integers in range.
        HardwareError: the device is a GPU, and there is none; or the poison needs one.
        ValueError: the rate is out of range, or larger than the eligible samples allow.
    """

    def __init__(
        self,
        dataset: Dataset | Sequence[Any],
        poison: Poison,
        rate: float | None = None,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> None:
        rate = poison.default_rate if rate is None else rate
        self.dataset = dataset
        self.rate = number("rate", rate, least=0, most=1)
        self.seed = checked_seed(seed, bits=32, optional=False)
        self.transform = transform
        whole = dataset.dataset if isinstance(dataset, Subset) else dataset
        self.classes = getattr(whole, "classes", None)
        self.original_targets = labels_of(dataset)
        poison.check_labels(self.original_targets)
        self.poison = poison
        self.mask, self.cover_mask = self._choose()  # a rate is refused before what may take hours
        if not poison.fitted:
            self.poison = self._fit(deepcopy(poison), device, progress)
        self.covers = self.poison.covers
        relabelled = self.poison.relabel(self.original_targets)
        self.targets = torch.where(self.mask, relabelled, self.original_targets)

    def _fit(self, poison: Poison, device: torch.device | str | None, progress: bool) -> Poison:
        if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise HardwareError(
                f"expected a GPU that torch can use for device={str(device)!r}, got none: leave the device out to fit "
                f"{type(poison).__name__} on the CPU, or install a build of torch for this GPU."
            )
        poison.reset()
        whole = []
        for indices in blocks(self):
            pixels = [open_images(self.clean(i)[0])[0] for i in indices]
            shapes = {tuple(x.shape[1:]) for x in pixels}
            if len(shapes) > 1:
                raise NoImageError(
                    f"expected images of one size to fit {type(poison).__name__}, got {sorted(shapes)}: resize them."
                )
            if poison.fits_in_parts:
                poison.partial_fit(torch.cat(pixels), self.original_targets[indices].to(pixels[0].device))
            else:
                whole.append(round_to_uint8(torch.cat(pixels)))
        if poison.fits_in_parts:
            return poison
        images = torch.cat(whole).to(device)
        with progress_bar(progress) as on_progress:
            return poison.fit(images, self.original_targets.to(images.device), on_progress=on_progress)

    def _choose(self) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
        n, stream = len(self), np.random.RandomState(self.seed)
        eligible = self.poison.eligible(self.original_targets).nonzero()[:, 0]
        wanted = max(round(self.rate * n), int(self.rate > 0))
        decoys = round(wanted * self.poison.cover_ratio)
        if wanted > len(eligible) or wanted + decoys > n:
            name, ratio = type(self.poison).__name__, self.poison.cover_ratio
            most = min(len(eligible), int(n / (1 + ratio))) / n
            raise ValueError(
                f"expected a rate of at most {most:.6g} for {name} on this data set ({len(eligible)} of {n} samples "
                f"are eligible, with {ratio:g} decoys for each), got {self.rate}: lower the rate."
            )
        mask, cover_mask = torch.zeros(2, n, dtype=torch.bool)
        mask[eligible[stream.permutation(len(eligible))[:wanted]]] = True
        rest = (~mask).nonzero()[:, 0]
        cover_mask[rest[stream.permutation(len(rest))[:decoys]]] = True
        return mask, cover_mask

    def __len__(self) -> int:
        return len(self.original_targets)

    def clean(self, index: int) -> tuple[Any, int]:
        """The sample as the inner data set gives it, its label checked against :attr:`original_targets`."""
        image, label = _pair(self.dataset[index])
        if int(label) != self.original_targets[index]:
            raise LabelError(
                f"expected label {int(self.original_targets[index])} for sample {index}, as the data set's table of "
                f"targets says, got {label}: make dataset.targets agree with dataset[{index}][1]."
            )
        return image, int(label)

    def poison_block(self, indices: list[int], images: list[Any]) -> tuple[list[Any], list[tuple[Tensor, Tensor]]]:
        """The images of samples ``indices`` as they are now, and the batches ``(clean, poisoned)`` of the poisoned."""
        out, batches = list(images), []
        for poison, mask in ((self.poison, self.mask), (self.covers, self.cover_mask)):
            places = [place for place, affected in enumerate(mask[indices].tolist()) if affected]
            if places:
                ids = torch.tensor([indices[place] for place in places])
                chosen = [images[place] for place in places]
                changed, pairs = poison_images(poison, chosen, self.original_targets[ids], ids)
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

    def export(self, directory: str | Path, *, workers: int = 2) -> Path:
        """Write everything as an ImageFolder of lossless PNG with a ``poison.json``.

        See :func:`puretransforms.poisons.export.export_image_folder`.
        """
        return export_image_folder(self, directory, workers=workers)


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
        image, _ = _pair(self.dataset[self.indices[index]])
        return self.poison.trigger(image), self.targets[index]


def labels_of(dataset: Dataset | Sequence[Any]) -> Tensor:
    """The int64 labels ``[N]`` of a map-style data set, from its table of targets or else sample by sample."""
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices)]
    table = None
    if getattr(dataset, "target_transform", None) is None:
        table = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if table is None or len(table) != len(dataset):
        table = [_pair(dataset[i])[1] for i in range(len(dataset))]
    try:
        labels = torch.as_tensor(np.asarray(table))
    except (TypeError, ValueError):
        labels = torch.empty(0)
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype == torch.bool or not len(labels):
        raise LabelError(
            f"expected one integer label for each of {len(dataset)} samples, got {labels.dtype} labels of shape "
            f"{list(labels.shape)}: give the data set as (image, int) pairs."
        )
    return labels.to(torch.int64)


def _pair(sample: Any) -> tuple[Any, Any]:
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[0], sample[1]
    got = f"a {type(sample).__name__}" + (f" of {len(sample)}" if hasattr(sample, "__len__") else "")
    raise LabelError(f"expected samples (image, label), got {got}: wrap the data set so that it yields such pairs.")

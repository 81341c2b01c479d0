"""A row of the benchmark: the dataset under attack, made by a poison of the registry or read from a published set."""

import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.samples import LabelledImages
from ..errors import BenchmarkError, LabelError, SourceError
from ..functional.shapes import Bool, Int, Tensor, UInt8
from ..poisons.backdoor.base import Backdoor
from ..poisons.base import Poison
from ..poisons.dataset import PoisonedDataset
from ..poisons.targeted.base import TargetedPoison, TargetedSetup
from ..registry import create, find, parameters, parse
from .defences import work_device

CLEAN = "clean"
PUBLISHED = "published"
_BLOCK = 1000
_TARGETED_RATE = 0.01


@dataclass(frozen=True)
class Attacked:
    """A dataset under attack, and the test images on which the attacker wants to win.

    Attributes:
        images, targets: what the victim is given to train on, uint8 ``[N, C, H, W]`` and int64 ``[N]``.
        mask: bool ``[N]``, the samples that the attacker changed.
        triggered: uint8 ``[M, C, H, W]``, test images as the attacker will show them: with the trigger of a backdoor,
            or the one target of a targeted attack. ``M = 0`` for an attack on the accuracy itself.
        wanted, truth: int64 ``[M]``, the classes that the attacker wants them to be taken for, and the true ones.
    """

    images: UInt8[Tensor, "n c h w"]
    targets: Int[Tensor, " n"]
    mask: Bool[Tensor, " n"]
    triggered: UInt8[Tensor, "m c h w"]
    wanted: Int[Tensor, " m"]
    truth: Int[Tensor, " m"]


@dataclass(frozen=True)
class Attack:
    """A poison and how it is used.

    Attributes:
        name: as registered, or ``module:Class``; ``"clean"`` is no poison, ``"published"`` a file of poisoned images.
        kind: ``"availability"``, ``"backdoor"`` or ``"targeted"``.
        options: arguments of the poison; ``path`` of the file.
        rate: share of the training set to poison; ``None`` for the poison's own default.
        setup: number of the target that a targeted attack aims at.
    """

    name: str
    kind: str
    options: dict[str, Any]
    rate: float | None = None
    setup: int = 0

    def run(self, train: LabelledImages, test: LabelledImages, num_classes: int) -> Attacked:
        """Poison ``train``; ``test`` is what the attacker aims at."""
        if self.name == CLEAN:
            return Attacked(train.images, train.targets, torch.zeros(len(train), dtype=torch.bool), *no_goal(train))
        if self.name == PUBLISHED:
            return read_published(self.options["path"], train)
        poison = self.poison(num_classes)
        if self.kind != "targeted":
            return _poisoned(poison, train, test, self.rate)
        rate = _TARGETED_RATE if self.rate is None else self.rate
        return _aimed(poison, train, drawn_setup(train, test, num_classes, self.setup, rate))

    def poison(self, num_classes: int) -> Any:
        """The poison, not fitted.

        Raises:
            RegistryError: arguments that it does not take.
        """
        known = parameters(find(self.name, "poison"))
        preset = {"num_classes": num_classes} if "num_classes" in known else {}
        return create(self.name, "poison", **preset, **self.options)


def find_attack(spec: str) -> Attack:
    """The attack of ``clean``, ``published:path=FILE`` or ``name:option=value:option=value``.

    Two options are of the benchmark, not of the poison: ``rate``, the share of the training set to poison, and
    ``setup``, the number of a target (targeted attacks only).

    Raises:
        RegistryError: no such poison, or text that is no such list of options.
        BenchmarkError: ``rate`` or ``setup`` where it has no meaning.
    """
    name, options = parse(spec)
    if name == CLEAN:
        if options:
            raise BenchmarkError(f"expected 'clean' without options, got {spec!r}.")
        return Attack(CLEAN, "availability", {})
    if name == PUBLISHED:
        if set(options) != {"path"}:
            raise BenchmarkError(f"expected published:path=FILE.npz and no other option, got {spec!r}.")
        return Attack(PUBLISHED, "availability", {"path": str(options["path"])})
    kind = _kind(find(name, "poison"))
    rate, setup = options.pop("rate", None), options.pop("setup", None)
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1):
        raise BenchmarkError(f"expected a rate above 0 and up to 1 in {spec!r}, got {rate!r}.")
    if setup is not None and (kind != "targeted" or isinstance(setup, bool) or not isinstance(setup, int)):
        raise BenchmarkError(f"expected setup as the number of a target, of a targeted poison, got {spec!r}.")
    return Attack(name, kind, options, rate, setup or 0)


def _kind(poison: type) -> str:
    if issubclass(poison, TargetedPoison):
        return "targeted"
    return "backdoor" if issubclass(poison, Backdoor) else "availability"


def _poisoned(poison: Poison, train: LabelledImages, test: LabelledImages, rate: float | None) -> Attacked:
    """A share ``rate`` of ``train`` poisoned; what must see the data first is fitted on a GPU if there is one."""
    dataset = PoisonedDataset(train, poison, rate=rate, device=work_device())
    goal = triggered_test(dataset.poison, test) if isinstance(poison, Backdoor) else no_goal(train)
    return Attacked(_images(dataset), dataset.targets, dataset.mask | dataset.cover_mask, *goal)


def _aimed(poison: TargetedPoison, train: LabelledImages, setup: TargetedSetup) -> Attacked:
    """The one target of ``setup`` aimed at, by its base images."""
    poison.fit(train, setup=setup, device=work_device())
    dataset = PoisonedDataset(train, poison)
    wanted, truth = (torch.tensor([label]) for label in (setup.base_class, setup.target_class))
    return Attacked(_images(dataset), dataset.targets, dataset.mask, setup.target[None], wanted, truth)


def read_published(path: str, train: LabelledImages) -> Attacked:
    """``train`` with the images of a published poisoned set in the place of its own.

    Args:
        path: an ``.npz`` with ``x`` uint8 ``[M, H, W, 3]``, ``y`` integers ``[M]``, and ``index`` ``[M]``, the place of
            each image in ``train``; without ``index`` they are those of the whole set, in its order.
        train: what the authors poisoned; only the labels can be checked.

    Raises:
        SourceError: no such file, or images that are not those of ``train`` by shape, place or label.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            x, y = torch.from_numpy(archive["x"]).permute(0, 3, 1, 2), torch.from_numpy(archive["y"]).long()
            index = torch.from_numpy(archive["index"]).long() if "index" in archive else torch.arange(len(x))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"expected an .npz with x [M, H, W, 3], y and perhaps index at {path}, got {error}."
        ) from error
    fits = x.dtype == torch.uint8 and x.shape[1:] == train.images.shape[1:] and len(x) == len(y) == len(index)
    if not fits or not len(x) or index.min() < 0 or index.max() >= len(train) or len(index.unique()) < len(index):
        raise SourceError(
            f"expected uint8 images of the shape of the training set and a place in it for each (0 to "
            f"{len(train) - 1}) in {path}, got {x.dtype} {list(x.shape)}: give the data that was poisoned."
        )
    wrong = int((train.targets[index] != y).sum())
    if wrong:
        raise SourceError(
            f"expected the labels of the training set in {path}, but {wrong} of {len(y)} differ: give the data that "
            "was poisoned, in its official order."
        )
    images, mask = train.images.clone(), torch.zeros(len(train), dtype=torch.bool)
    images[index], mask[index] = x, True
    return Attacked(images, train.targets, mask, *no_goal(train))


def _images(dataset: PoisonedDataset) -> UInt8[Tensor, "n c h w"]:
    blocks = (range(i, min(i + _BLOCK, len(dataset))) for i in range(0, len(dataset), _BLOCK))
    return torch.stack([image for block in blocks for image, _ in dataset.__getitems__(list(block))])


def drawn_setup(
    train: LabelledImages, test: LabelledImages, num_classes: int, number: int, rate: float
) -> TargetedSetup:
    """Setup ``number`` of these data: two classes, a test image of one and training images of the other, at random.

    Raises:
        LabelError: the base class has fewer images than ``rate`` of the training set, or the target class none.
    """
    draw = torch.Generator().manual_seed(number)
    target_class, base_class = torch.randperm(num_classes, generator=draw)[:2].tolist()
    targets = (test.targets == target_class).nonzero()[:, 0]
    bases = (train.targets == base_class).nonzero()[:, 0]
    count = max(1, round(rate * len(train)))
    if not len(targets) or len(bases) < count:
        raise LabelError(
            f"expected a test image of class {target_class} and {count} training images of class {base_class}, got "
            f"{len(targets)} and {len(bases)}: lower the rate, or choose another setup."
        )
    target = test.images[targets[torch.randint(len(targets), (), generator=draw)]]
    chosen = bases[torch.randperm(len(bases), generator=draw)[:count]].sort().values
    return TargetedSetup(target, target_class, base_class, chosen)


def triggered_test(poison: Backdoor, test: LabelledImages) -> tuple[Tensor, Tensor, Tensor]:
    """``triggered, wanted, truth`` of the test images whose true class is not already the wanted one."""
    wanted = poison.wanted(test.targets)
    kept = wanted != test.targets
    if not kept.any():
        raise LabelError(f"expected test images of other classes than the target {poison.target}, got none.")
    images = torch.cat([poison.trigger(part) for part in test.images[kept].split(_BLOCK)])
    return images, wanted[kept], test.targets[kept]


def no_goal(train: LabelledImages) -> tuple[Tensor, Tensor, Tensor]:
    """``triggered, wanted, truth`` of an attack that aims at no test image in particular."""
    return train.images[:0], train.targets[:0], train.targets[:0]

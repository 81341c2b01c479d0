"""Purifiers that are fitted to the very images that they clean, such as D-VAE: the fit before the cleaning.

The fitted purifier is kept in ``<out>.purifier``, beside the output, so that a run goes on after a break in the fit,
and after one in the cleaning without another fit; ``from_pretrained`` of its class loads it for other uses.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from ..data.codec import decode
from ..data.sources.base import Source, read_image
from ..errors import CorruptImageError, LabelError, ManifestMismatchError, SourceError
from ..functional.shapes import Tensor, UInt8
from ..storage.remote import is_remote
from .manifest import digest_of
from .purifier import Purifier

_PLAN, _CHECKPOINT = "fit.json", "fit.safetensors"


class ToFit(NamedTuple):
    """A class of purifiers, and the options of its ``fit``.

    ``kind.fit(samples, num_classes=, seed=, device=, checkpoint=, on_record=, **options)`` gives the purifier, of
    ``(images, labels)``; ``samples`` is a list of ``(uint8 [C, H, W], int)``.
    """

    kind: Any
    options: Mapping[str, Any]


def to_fit(purifier: Any) -> ToFit | None:
    """What has to be fitted first: a class with a class method ``fit``, or ``functools.partial`` of that method.

    Raises:
        TypeError: a class of purifiers that need no fit.
    """
    given, options = purifier, {}
    if isinstance(purifier, partial) and not purifier.args:
        given, options = purifier.func, purifier.keywords
    if inspect.ismethod(given) and isinstance(given.__self__, type) and given.__name__ == "fit":
        return ToFit(given.__self__, options)
    if not isinstance(purifier, type):
        return None
    if not inspect.ismethod(getattr(purifier, "fit", None)):
        name = purifier.__name__
        raise TypeError(f"expected a purifier, got the class {name}, which needs no fit: write {name}().")
    return ToFit(purifier, {})


def fit_first(
    wanted: ToFit,
    source: Source,
    out: str,
    *,
    seed: int,
    device: Any = None,
    world_size: int = 1,
    dry_run: bool = False,
    progress: bool = True,
) -> tuple[Purifier, dict[str, int], tqdm]:
    """The fitted purifier, the number of each class, and the bar that the cleaning goes on with.

    The labels are the classes of the source in alphabetical order. Damaged images are left out. Goes on after a break;
    what is fitted already is loaded.

    Args:
        out: of the cleaning.
        seed: of the fit, unless the options name one.
        device: where to fit, unless the options name one.
        world_size, dry_run, progress: of the cleaning.

    Raises:
        SourceError: ``out`` is a URL, or the images have no classes.
        ManifestMismatchError: ``<out>.purifier`` was fitted to other images, or otherwise.
        ValueError: nothing is fitted yet, and ``dry_run`` or several processes are asked for.
        NoImageError, LabelError, DivergenceError: as ``fit``.
    """
    if is_remote(out):
        raise SourceError(f"expected a local output for a purifier that is fitted first, got {out!r}: copy it later.")
    classes = {name: i for i, name in enumerate(sorted({e.label for e in source.entries if e.kind == "image"}))}
    if "" in classes:
        raise LabelError(
            "expected images with classes, to fit a purifier to, got some without: put each into a class folder, or "
            "use a purifier that needs no labels."
        )
    folder = Path(f"{out}.purifier")
    plan = {
        "purifier": wanted.kind.__qualname__,
        "options": {name: repr(value) for name, value in sorted(wanted.options.items()) if name != "device"},
        "seed": seed,
        "classes": list(classes),
        "source": digest_of(source),
    }
    fitted = _state_of(folder, plan)
    if not fitted and (dry_run or world_size > 1):
        raise ValueError(
            f"expected {str(folder)!r} to hold a fitted {wanted.kind.__name__} for a dry run or several processes, "
            "got none: call clean without dry_run and in one process first."
        )
    bar = tqdm(total=0, unit="img", disable=not progress)
    if not fitted:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, plan | {"fitted": False})
        try:
            _fit(wanted, gathered(source, classes), folder, len(classes), seed, device, bar)
        except BaseException:
            bar.close()
            raise
        _write(folder, plan | {"fitted": True})
        (folder / _CHECKPOINT).unlink(missing_ok=True)
    bar.set_description("clean")
    return wanted.kind.from_pretrained(folder), classes, bar


def labelled(purifier: Callable[..., Any], labels: list[int]) -> Purifier:
    """``images -> images`` of a purifier of ``(images, labels)``."""
    return lambda x: purifier(x, torch.tensor(labels, device=x.device))[0]


def gathered(source: Source, classes: Mapping[str, int]) -> list[tuple[UInt8[Tensor, "c h w"], int]]:
    """Every image that can be decoded, and its label."""
    samples = []
    for entry in source.entries:
        if entry.kind == "image":
            with suppress(CorruptImageError, OSError):
                image = decode(read_image(source, entry))
                pixels = torch.frombuffer(bytearray(image.pixels), dtype=torch.uint8).view(image.shape)
                samples.append((pixels.permute(2, 0, 1), classes[entry.label]))
    return samples


def _fit(wanted: ToFit, samples: list, folder: Path, num_classes: int, seed: int, device: Any, bar: tqdm) -> None:
    stages_shown: set[int] = set()

    def advance(record: Any) -> None:
        if not bar.total:
            bar.total = record.stages * record.updates * record.images
            bar.initial = bar.n = (record.stage * record.updates + record.step - 1) * record.images
        new = record.stage not in stages_shown  # shows at once, not when tqdm draws next
        stages_shown.add(record.stage)
        bar.set_description(f"fit, stage {record.stage + 1} of {record.stages}", refresh=new)
        bar.update((record.stage * record.updates + record.step) * record.images - bar.n)

    options = {"seed": seed, "num_classes": num_classes, "device": None if device is None else str(device)}
    options |= wanted.options
    purifier = wanted.kind.fit(samples, **options, checkpoint=folder / _CHECKPOINT, on_record=advance)
    purifier.save_pretrained(folder)


def _state_of(folder: Path, plan: dict[str, Any]) -> bool:
    """Is what ``plan`` says fitted already?"""
    file = folder / _PLAN
    if not file.exists():
        return False
    before = json.loads(file.read_text())
    differing = [name for name, value in plan.items() if before.get(name) != value]
    if differing:
        raise ManifestMismatchError(
            f"expected {str(folder)!r} to be fitted as asked for now, but {', '.join(differing)} differ: remove it to "
            "fit anew, or give another output folder."
        )
    return before["fitted"]


def _write(folder: Path, plan: dict[str, Any]) -> None:
    temporary = folder / f"{_PLAN}.tmp"
    temporary.write_text(json.dumps(plan, indent=1) + "\n")
    temporary.replace(folder / _PLAN)

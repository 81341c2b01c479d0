"""Purifiers that learn from the very images that they clean: the fit before the cleaning, and the labels of classes.

A purifier that is not fitted is fitted to the source first, and kept in ``<out>.purifier``, beside the output, so that
a run goes on after a break in the fit, and after one in the cleaning without another fit; ``from_pretrained`` of its
class loads it for other uses.
"""

import copy
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter, warn

from tqdm import tqdm

from ..data.sources.base import Source
from ..errors import LabelError, LeftOutWarning, ManifestMismatchError, NotFittedError, UntouchedImageWarning
from ..storage.store import Store, open_store
from .purifier import Purifier, parts, reads_labels

_PLAN, _CHECKPOINT = "fit.json", "fit.safetensors"
_PAUSE = 1.0  # seconds between two looks for the fit of another process


def fit_first(
    purifier: Any,
    source: Source,
    out: str,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int,
    device: Any = None,
    rank: int = 0,
    keep: bool = True,
    progress: bool = True,
) -> tuple[Purifier, dict[str, Any] | None, tqdm | None]:
    """``(the fitted purifier, what its scan said, the bar that the cleaning goes on with)``; of a fitted one itself.

    Goes on after a break; what has been fitted already is loaded. Damaged images are left out.

    Args:
        purifier: stays as it is; a copy is fitted.
        source: to fit to.
        out: of the cleaning.
        options: for fsspec, where ``out`` is a URL; there the fit itself starts anew after a break.
        seed: of the fit, where the purifier has none of its own.
        device: where to fit.
        rank: of this process; the first one fits, and the others wait until it has.
        keep: write ``<out>.purifier``.
        progress: show a bar.

    Raises:
        NotFittedError: a purifier inside a ``v2.Compose`` that is not fitted.
        ManifestMismatchError: ``<out>.purifier`` was fitted to other images, or otherwise.
        NoImageError, LabelError, DivergenceError: as its ``fit``.
    """
    if getattr(purifier, "fitted", True):
        for part in parts(purifier):
            if not getattr(part, "fitted", True):
                raise NotFittedError(
                    f"expected {type(part).__name__} inside {type(purifier).__name__} to be fitted: call its "
                    "fit(dataset) first, or give a list of purifiers, which is fitted here."
                )
            if getattr(part, "dropped", None):
                warn(
                    f"The {len(part.dropped)} images that the scan of this {type(part).__name__} named stay in: "
                    "clean with 'auto', which puts them aside, or clean result.clean_subset(dataset).",
                    UntouchedImageWarning,
                    stacklevel=4,
                )
        return purifier, None, None
    if any(type(part).reads_labels for part in parts(purifier) if hasattr(type(part), "reads_labels")):
        _check_classes(source)
    store = open_store(f"{out}.purifier", options)
    plan = _plan_of(purifier, source, seed)
    before = _state_of(store, plan)
    bar = tqdm(total=0, unit="img", disable=not progress)
    try:
        while not before.get("fitted") and rank > 0:
            bar.set_description(f"wait until rank 0 has fitted {type(purifier).__name__}")
            time.sleep(_PAUSE)
            before = _state_of(store, plan)
        fitted, said = before.get("fitted", False), before.get("scan")
        if not fitted:
            purifier = copy.deepcopy(purifier)
        elsewhere = store.remote or not (keep or fitted)
        with tempfile.TemporaryDirectory(prefix="puretransforms-") if elsewhere else nullcontext(store.root) as place:
            folder = Path(place)
            if not fitted:
                folder.mkdir(parents=True, exist_ok=True)
                if keep:
                    _put_plan(store, plan | {"fitted": False}, folder)
                _fit(purifier, source, folder, seed, device, bar)
                said = next((said for part in parts(purifier) if (said := getattr(part, "scan_summary", None))), None)
                purifier.save_pretrained(folder)
                for file in folder.glob(f"{_CHECKPOINT}*"):
                    file.unlink()
                if keep:
                    if store.remote:
                        store.publish({str(file): file.name for file in folder.iterdir()})
                    _put_plan(store, plan | {"fitted": True, "scan": said}, folder)
            elif store.remote:
                for name in store.files():
                    (folder / name).write_bytes(store.read(name))
            loaded = type(purifier).from_pretrained(folder)
    except BaseException:
        bar.close()
        raise
    if getattr(purifier, "device", None) is not None:
        loaded.device = purifier.device  # of this machine, so it is not saved
    bar.set_description("clean")
    return loaded, said, bar


def class_numbers(purifier: Any, source: Source) -> dict[str, int] | None:
    """The label of each class of ``source`` for a purifier that reads labels; ``None`` for one of images alone.

    The labels are the numbers of the source itself. Where the purifier was saved with the names of its classes, these
    decide: a class of the source has the number that the purifier knows it by. A class whose name is its own number, as
    in shards that hold numbers alone, has that number everywhere.

    Raises:
        LabelError: images without a class, or of a class that the purifier does not know.
    """
    if not reads_labels(purifier):
        return None
    _check_classes(source)
    found = source.class_to_idx()
    used = {name: found[name] for name in sorted({e.label for e in source.entries if e.kind == "image"})}
    for part in parts(purifier):
        if getattr(part, "reads_labels", False) and getattr(part, "num_classes", None) is not None:
            used = _known_numbers(part, used)
    return used


def _known_numbers(purifier: Any, numbers: dict[str, int]) -> dict[str, int]:
    name, classes = type(purifier).__name__, getattr(purifier, "classes", None) or []
    known = {name: number for number, name in enumerate(classes)}
    if numbers.keys() <= known.keys() and len(known) == len(classes):
        return {name: known[name] for name in numbers}
    bare = all(name == str(number) for name, number in numbers.items())  # shards with a number for a class
    if classes and not bare and any(name != str(number) for name, number in known.items()):
        strange = sorted(numbers.keys() - known.keys())
        raise LabelError(
            f"expected classes that this {name} was fitted to ({_listed(classes)}), got {_listed(strange)}: fit it to "
            "this dataset, or rename the classes."
        )
    highest = max(numbers.values())
    if highest >= purifier.num_classes:
        raise LabelError(
            f"expected labels from 0 to {purifier.num_classes - 1}, as this {name} was fitted to, got {highest}: fit "
            "it to this dataset."
        )
    return numbers


def _listed(names: list[str], most: int = 10) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _check_classes(source: Source) -> None:
    if any(entry.kind == "image" and not entry.label for entry in source.entries):
        raise LabelError(
            "expected images with classes, for a purifier that reads labels, got some without: put each into a class "
            "folder, or use a purifier that needs no labels."
        )


def _plan_of(purifier: Any, source: Source, seed: int) -> dict[str, Any]:
    """Everything that decides the fit."""
    config = purifier._config() if hasattr(purifier, "_config") else repr(purifier)
    plan = {"purifier": type(purifier).__qualname__, "config": config, "seed": seed}
    plan |= {"classes": source.class_to_idx(), "source": source.digest()}
    return json.loads(json.dumps(plan, default=repr))


def _fit(purifier: Any, source: Source, folder: Path, seed: int, device: Any, bar: tqdm) -> None:
    stages_shown: set[int] = set()

    def advance(record: Any) -> None:
        if not bar.total:
            bar.total = record.stages * record.updates * record.images
            bar.initial = bar.n = (record.stage * record.updates + record.step - 1) * record.images
        new = record.stage not in stages_shown  # shows at once, not when tqdm draws next
        stages_shown.add(record.stage)
        bar.set_description(f"fit, stage {record.stage + 1} of {record.stages}", refresh=new)
        bar.update((record.stage * record.updates + record.step) * record.images - bar.n)

    own = getattr(purifier, "seed", None)
    with catch_warnings():
        simplefilter("ignore", LeftOutWarning)  # the manifest names what cannot be decoded
        purifier.fit(
            source,
            seed=seed if own is None else own,
            device=None if device is None else str(device),
            checkpoint=folder / _CHECKPOINT,
            on_record=advance,
        )


def _state_of(store: Store, plan: dict[str, Any]) -> dict[str, Any]:
    """What is known of the fit that ``plan`` says: nothing, or the plan with ``"fitted"`` and ``"scan"``."""
    if not store.exists(_PLAN):
        return {}
    before = json.loads(store.read(_PLAN))
    differing = [name for name, value in plan.items() if before.get(name) != value]
    if differing:
        raise ManifestMismatchError(
            f"expected {store.root!r} to be fitted as asked for now, but {', '.join(differing)} differ: remove it to "
            "fit anew, or give another output folder."
        )
    return before


def _put_plan(store: Store, plan: dict[str, Any], scratch: Path) -> None:
    store.put(_PLAN, json.dumps(plan, indent=1).encode() + b"\n", scratch)

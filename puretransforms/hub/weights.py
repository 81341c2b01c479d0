"""Weights that have a name: their facts, the hashes that pin them, and the model card that is written from the facts.

Each lies in a folder ``weights/<name>/``, in the package or in the checkout that it is installed from. Its
``meta.json`` is the one home of its facts; a new folder is a new name, without a line of code.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..errors import WeightsCorruptedError, WeightsUnavailableError
from ..reporting.tables import markdown
from .files import CARD, CONFIG, WEIGHTS, LoadedWeights

META = "meta.json"
_PACKAGE = Path(__file__).resolve().parents[1]
_TAGS = ["data-poisoning", "data-purification", "image-to-image", "torchvision"]


@dataclass(frozen=True)
class PurifierWeights:
    """Facts of named weights, as ``meta.json`` of their folder says them.

    Attributes:
        name: what :func:`get_weights` and the transforms take; the name of the folder.
        transform: class that it is for.
        repo_id: repo on the Hugging Face Hub.
        revision: commit of that repo; ``None`` as long as it has not been pushed.
        sha256: of the files, by file name: model.safetensors and config.json.
        image_size: side of the training images in pixels.
        sizes: shortest and longest side of images that it is for, in pixels; outside, a purifier warns or refuses.
        training_data: what it was trained on, in a sentence.
        license: of the weights, an SPDX name in lower case.
        paper: the method's, ``arXiv:...``.
        summary: what it is and what it is not good for, in a few sentences.
        metrics: measured values by name, on ``measured_on``.
        measured_on: the images of the metrics, in a few words.
        metrics_note: what the values mean, in a sentence or two.
        datasets: ids on the Hub of the datasets that it was trained on, if they are there.
        recipe: how to make it again.
    """

    name: str
    transform: str
    repo_id: str
    revision: str | None
    sha256: Mapping[str, str]
    image_size: int
    sizes: tuple[int, int]
    training_data: str
    license: str
    paper: str
    summary: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    measured_on: str = "held-out images"
    metrics_note: str = ""
    datasets: tuple[str, ...] = ()
    recipe: str = "`recipe.py`, which lies beside the weights"

    def folder(self) -> Path | None:
        """Where the package (or the checkout that it is installed from) carries it; ``None`` where it does not."""
        for root in _roots():
            folder = root / self.name
            if (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file():
                return folder
        return None


def list_weights() -> list[str]:
    """Names of all weights, sorted."""
    return sorted(_entries())


def get_weights(name: str) -> PurifierWeights:
    """The facts of the weights of that name.

    Raises:
        WeightsUnavailableError: there are none.
    """
    entries = _entries()
    if name not in entries:
        near = get_close_matches(name, entries, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise WeightsUnavailableError(
            f"expected one of {', '.join(map(repr, list_weights())) or 'none registered'}, got {name!r}.{hint}"
        )
    return entries[name]


def registered_as(sha256: str) -> PurifierWeights | None:
    """The entry whose model.safetensors has this hash, wherever it was loaded from; ``None`` for any other."""
    return next((entry for entry in _entries().values() if entry.sha256.get(WEIGHTS) == sha256), None)


def sizes_for(loaded: LoadedWeights) -> tuple[int, int] | None:
    """Shortest and longest side of images that weights are for: what their config says, else their ``meta.json``."""
    entry = registered_as(loaded.sha256)
    return loaded.sizes or (entry.sizes if entry else None)


def _roots() -> tuple[Path, Path]:
    return _PACKAGE / "weights", _PACKAGE.parent / "weights"


@cache
def _entries() -> dict[str, PurifierWeights]:
    found = sorted(path for root in _roots() for path in root.glob(f"*/{META}"))
    return {path.parent.name: read_meta(path) for path in found}


def read_meta(path: Path) -> PurifierWeights:
    """The facts in a ``meta.json``.

    Raises:
        WeightsCorruptedError: it is not JSON, or a fact is missing, unknown or of another kind.
    """
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        raise WeightsCorruptedError(f"{str(path)!r} is not JSON ({error}): correct it.") from error
    if not isinstance(facts, dict):
        raise WeightsCorruptedError(f"expected a JSON object in {str(path)!r}, got {type(facts).__name__}: correct it.")
    known = {fact.name: fact.default is MISSING and fact.default_factory is MISSING for fact in fields(PurifierWeights)}
    del known["name"]  # the folder's
    missing = [name for name, needed in known.items() if needed and name not in facts]
    if missing:
        raise WeightsCorruptedError(f"expected {', '.join(missing)} in {str(path)!r}, which lacks it: write it.")
    unknown = sorted(facts.keys() - known.keys())
    if unknown:
        raise WeightsCorruptedError(f"{str(path)!r} sets {', '.join(unknown)}, which is no fact of weights: remove it.")
    facts = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    if not isinstance(facts["sha256"], dict) or facts["sha256"].keys() != {CONFIG, WEIGHTS}:
        raise WeightsCorruptedError(f"expected sha256 of {CONFIG} and {WEIGHTS} in {str(path)!r}: pin both.")
    if not (isinstance(facts["sizes"], tuple) and [type(side) for side in facts["sizes"]] == [int, int]):
        raise WeightsCorruptedError(f"expected sizes as two whole numbers of pixels in {str(path)!r}: correct it.")
    return PurifierWeights(name=path.parent.name, **facts)


def model_card(
    transform: str,
    *,
    repo_id: str = "user/name",
    license: str | None = None,
    summary: str | None = None,
    training_data: str | None = None,
    datasets: Sequence[str] = (),
    image_size: int | None = None,
    paper: str | None = None,
    recipe: str | None = None,
    metrics: Mapping[str, float] | None = None,
    measured_on: str = "held-out images",
    metrics_note: str = "",
) -> ModelCard:
    """The card of weights of one's own. What is not given is left out or said to be unknown, not guessed.

    Arguments are those that :class:`PurifierWeights` lists; ``repo_id`` is for the lines that show how to load it.
    """
    values = dict(metrics or {})
    slug = re.sub(r"\W+", "-", measured_on.lower()).strip("-")
    data = ModelCardData(
        library_name="puretransforms",
        license=license,
        pipeline_tag="image-to-image",
        tags=_TAGS,
        datasets=list(datasets) or None,
        metrics=list(values) or None,
        model_name=repo_id.rpartition("/")[2] if values else None,
        eval_results=[EvalResult("image-to-image", slug, measured_on, name, value) for name, value in values.items()]
        or None,
    )
    rows = {
        "Transform": f"`{transform}`",
        "Image size": f"{image_size} x {image_size} pixels" if image_size else "not said",
        "Trained on": training_data or "not said: ask before you trust it with your data",
        "License": license or "not said",
        "Paper": re.sub(r"arXiv:([\d.]+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper or "not said"),
        "Made by": recipe or "not said",
    }
    parts = [
        f"# {repo_id.rpartition('/')[2]}",
        summary or f"Weights of `{transform}` for puretransforms, which purifies poisoned images before training.",
        f'```python\nfrom puretransforms import {transform}\n\npurify = {transform}.from_pretrained("{repo_id}")\n```',
        markdown(["", ""], rows.items()),
    ]
    if values:
        parts += [
            f"Measured on {measured_on}:",
            markdown(["metric", "value"], [[k, f"{v:g}"] for k, v in values.items()]),
            *([metrics_note] if metrics_note else []),
        ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def facts_of(entry: PurifierWeights) -> dict[str, Any]:
    """What the registry knows about these weights whatever they are run with, as arguments of :func:`model_card`."""
    names = ("license", "summary", "training_data", "datasets", "image_size", "paper", "recipe")
    return {name: getattr(entry, name) for name in names}


def card_of(entry: PurifierWeights) -> str:
    """The README.md of registered weights; everything in it comes from the entry."""
    return str(
        model_card(
            entry.transform,
            repo_id=entry.repo_id,
            **facts_of(entry),
            metrics=entry.metrics,
            measured_on=entry.measured_on,
            metrics_note=entry.metrics_note,
        )
    )


def write_cards() -> list[Path]:
    """Write README.md of every named weights folder from its ``meta.json`` (``make cards``); the files written."""
    written = []
    for name in list_weights():
        entry = get_weights(name)
        folder = entry.folder()
        if folder is not None:
            written.append(folder / CARD)
            written[-1].write_text(card_of(entry), encoding="utf-8")
    return written

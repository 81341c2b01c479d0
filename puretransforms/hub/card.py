"""Model cards: what weights are, what they were trained on and how to use them, for people and for the Hub's index."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .registry import PurifierWeights

_TAGS = ["data-poisoning", "data-purification", "image-to-image", "torchvision"]


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

    Args:
        transform: class name.
        repo_id: for the lines that show how to load it.
        license: of the weights, for example ``"apache-2.0"``.
        training_data: in a sentence; ``datasets``: ids on the Hub.
        metrics: measured values by name, on ``measured_on``; ``metrics_note`` says what they mean.
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
        _table(["", ""], [[name, text] for name, text in rows.items()]),
    ]
    if values:
        parts += [
            f"Measured on {measured_on}:",
            _table(["metric", "value"], [[k, f"{v:g}"] for k, v in values.items()]),
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


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

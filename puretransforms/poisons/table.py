"""Fitted perturbations on disk: int8 levels in one safetensors file, held to their budget when they are read."""

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import ManifestMismatchError
from ..functional.shapes import Tensor
from .base import Poison

FORMAT = "1"
_SLACK = 1e-3  # of an 8-bit level, for an epsilon written in decimals
P = TypeVar("P", bound=Poison)


def levels_of(epsilon: float) -> int:
    """The largest whole number of 8-bit levels inside ``epsilon``; ValueError unless that is 1 to 127."""
    if not 1 / 255 - 1e-6 <= epsilon <= 127 / 255:
        raise ValueError(f"expected epsilon from 1/255 to 127/255 in pixel units of [0, 1], got {epsilon}.")
    return int(epsilon * 255 + _SLACK)


def write_table(path: str | Path, name: str, about: dict[str, str], tensors: dict[str, Tensor]) -> Path:
    """Write ``tensors``, among them int8 ``delta``, under the class name ``name``."""
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    save_file(contiguous, path, {"format": FORMAT, "poison": name, **about})
    return Path(path)


def read_table(path: str | Path, name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What :func:`write_table` wrote under ``name``; ManifestMismatchError for anything else."""
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


def check_size(path: str | Path, delta: Tensor, epsilon: float) -> None:
    """ManifestMismatchError where a value of int8 ``delta`` leaves the budget."""
    size = int(delta.short().abs().max())
    if size > epsilon * 255 + _SLACK:
        raise ManifestMismatchError(
            f"expected a perturbation inside the stored budget (linf {epsilon}) in {path}, got values up to "
            f"{size}/255: the file was changed, save it again."
        )


def write_poison(path: str | Path, poison: Poison, tensors: dict[str, Tensor]) -> Path:
    """Write a fitted poison: its arguments and its tables."""
    about = {"arguments": json.dumps(poison.arguments), "epsilon": repr(poison.epsilon), "norm": str(poison.norm)}
    return write_table(path, type(poison).__name__, about, tensors)


def read_poison(path: str | Path, kind: type[P]) -> tuple[P, dict[str, Any]]:
    """An unfitted poison of the stored arguments, and the tables, inside its budget."""
    about, tensors = read_table(path, kind.__name__)
    poison = kind(**json.loads(about.get("arguments", "{}")))
    check_size(path, tensors["delta"], float(about["epsilon"]))
    if float(about["epsilon"]) != poison.epsilon:
        raise ManifestMismatchError(
            f"expected arguments inside the stored budget (linf {about['epsilon']}) in {path}, got epsilon "
            f"{poison.epsilon}: the file was changed, save it again."
        )
    return poison, tensors

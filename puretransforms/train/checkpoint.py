"""What every fit shares: the record of a step, and the checkpoint, a file that says what it is a checkpoint of."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import ManifestMismatchError, WeightsCorruptedError
from ..functional.shapes import Tensor
from ..storage.atomic import replace_file
from .resumable import State

_KEY = "of"


@dataclass(frozen=True)
class FitStep:
    """One step of a fit, for a progress bar.

    Attributes:
        step, updates: its number, from 1, and how many there will be in this stage.
        images: seen in it.
        loss: of the step.
        stage, stages: which part of the fit this is, from 0, and how many there are.
    """

    step: int
    updates: int
    images: int = 0
    loss: float = 0.0
    stage: int = 0
    stages: int = 1


def identity(*tensors: Tensor, **settings: object) -> str:
    """sha256 of everything that decides a fit: its data and its settings (by their ``repr``)."""
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for tensor in tensors:
        digest.update(repr((tensor.dtype, tensor.shape)).encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def save_checkpoint(path: Path, state: State, of: str) -> None:
    """Write ``state`` whole or not at all."""
    replace_file(path, lambda file: save_file(state, file, metadata={_KEY: of}))


def load_checkpoint(path: Path, of: str) -> State | None:
    """The state in ``path``; ``None`` if there is no such file.

    Raises:
        ManifestMismatchError: it is of another fit.
        WeightsCorruptedError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get(_KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsCorruptedError(
            f"expected a checkpoint in {path}, got {error}: remove it to start anew."
        ) from error
    if found != of:
        raise ManifestMismatchError(
            f"expected {path} to be a checkpoint of the same data, labels, schedule, networks and seed, got another "
            "fit's: name another file, or remove this one to start anew."
        )
    return state

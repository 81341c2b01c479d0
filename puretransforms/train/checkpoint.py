"""What every fit shares: the record of a step, and the checkpoint, a file that says what it is a checkpoint of."""

import hashlib
from collections.abc import Callable
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


class Checkpoint:
    """The file that a fit is written to now and then, and from which the same fit goes on; ``None`` for no file.

    Args:
        path: of the file.
        *tensors: the data of the fit.
        **settings: whatever else decides it.

    Attributes:
        state: that of the last record saved, to go on after it; ``None`` at the beginning.

    Raises:
        ManifestMismatchError: the file is of another fit.
        WeightsCorruptedError: it is damaged.
    """

    def __init__(self, path: str | Path | None, *tensors: Tensor, **settings: object) -> None:
        self.path = None if path is None else Path(path)
        self._of = "" if path is None else identity(*tensors, **settings)
        self.state = self._load(self.path) if self.path is not None and self.path.exists() else None

    def save(self, state: Callable[[], State]) -> None:
        """Write ``state()`` whole or not at all."""
        if self.path is not None:
            tensors = state()
            replace_file(self.path, lambda file: save_file(tensors, file, metadata={_KEY: self._of}))

    def _load(self, path: Path) -> State:
        try:
            with safe_open(path, framework="pt") as file:
                found = (file.metadata() or {}).get(_KEY)
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsCorruptedError(
                f"expected a checkpoint in {path}, got {error}: remove it to start anew."
            ) from error
        if found != self._of:
            raise ManifestMismatchError(
                f"expected {path} to be a checkpoint of the same data, labels, schedule, networks and seed, got "
                "another fit's: name another file, or remove this one to start anew."
            )
        return state

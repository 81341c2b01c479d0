"""A checkpoint of a fit: one safetensors file that says what it is a checkpoint of."""

import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import ManifestMismatchError, WeightsCorruptedError
from ..functional.shapes import Tensor
from .resumable import State

_KEY = "of"


def identity(*tensors: Tensor, **settings: object) -> str:
    """sha256 of everything that decides a fit: its data and its settings (by their ``repr``)."""
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for tensor in tensors:
        digest.update(repr((tensor.dtype, tensor.shape)).encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()))
    return digest.hexdigest()


def save_checkpoint(path: Path, state: State, of: str) -> None:
    """Write ``state`` whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    save_file(state, temporary, metadata={_KEY: of})
    temporary.replace(path)


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

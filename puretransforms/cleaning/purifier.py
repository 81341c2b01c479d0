"""The purifier that a run uses: a copy of the caller's, seeded, in eval mode, on one device."""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..functional.shapes import Tensor

Purifier = Callable[[Tensor], Tensor]


def device_of(purifier: Any) -> torch.device:
    """Where the tensors of ``purifier`` are; the CPU if it has none."""
    if not isinstance(purifier, torch.nn.Module):
        return torch.device("cpu")
    tensors = (tensor for group in (purifier.parameters(), purifier.buffers()) for tensor in group)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def own_copy(purifier: Any, seed: int, device: torch.device) -> Any:
    """The purifier that this run uses: seeded wherever it has no seed, in eval mode, on ``device``."""
    if isinstance(purifier, torch.nn.Module):
        purifier = copy.deepcopy(purifier).eval().to(device)
    else:
        purifier = copy.copy(purifier)
    for part in _parts(purifier):
        if getattr(part, "seed", 0) is None:
            part.seed = seed
    return purifier


def _parts(purifier: Any) -> Iterator[Any]:
    yield purifier
    children = list(purifier.children()) if isinstance(purifier, torch.nn.Module) else []
    unregistered = getattr(purifier, "transforms", ())  # of v2.Compose
    for child in [*children, *(unregistered if isinstance(unregistered, list | tuple) else ())]:
        yield from _parts(child)


def weights_sha256(purifier: Any) -> str | None:
    """sha256 over names, dtypes, shapes and bytes of the state of a module; ``None`` without any."""
    state = purifier.state_dict() if isinstance(purifier, torch.nn.Module) else {}
    tensors = {name: value for name, value in sorted(state.items()) if isinstance(value, torch.Tensor)}
    if not tensors:
        return None
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def torch_threads(purifier: Any, device: torch.device) -> Iterator[None]:
    """A purifier without weights is light: leave seven cores of eight to the codecs, which it would disturb."""
    before = torch.get_num_threads()
    light = device.type == "cpu" and not (isinstance(purifier, torch.nn.Module) and purifier.state_dict())
    torch.set_num_threads(max(1, before // 8) if light else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

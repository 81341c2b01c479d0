"""The purifier that a run uses: a copy of the caller's, seeded, in eval mode, on one device."""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..data.sources.base import Source
from ..functional.shapes import Tensor

Purifier = Callable[[Tensor], Tensor]

CHOOSERS: dict[str, Callable[..., Purifier]] = {}
"""Purifiers by a word: ``chooser(source, seed=, workers=, progress=)``. Layers above put theirs here when imported."""


def chosen(purifier: Purifier | str, source: Source, *, seed: int, workers: int | None, progress: bool) -> Purifier:
    """The purifier itself, or what the chooser of that name takes for ``source``.

    Raises:
        ValueError: no such name.
    """
    if not isinstance(purifier, str):
        return purifier
    if purifier not in CHOOSERS:
        names = ", ".join(map(repr, sorted(CHOOSERS))) or "none"
        raise ValueError(f"expected a purifier such as COINInterpolate(), or a name ({names}), got {purifier!r}.")
    return CHOOSERS[purifier](source, seed=seed, workers=workers, progress=progress)


def device_of(purifier: Any) -> torch.device:
    """Where the tensors of ``purifier`` are; the CPU if it has none."""
    return next((tensor.device for tensor in _state(purifier).values()), torch.device("cpu"))


def own_copy(purifier: Any, seed: int, device: torch.device) -> Any:
    """The purifier that this run uses: seeded wherever it has no seed, in eval mode, on ``device``."""
    purifier = copy.deepcopy(purifier)
    for part in _parts(purifier):
        if isinstance(part, torch.nn.Module):
            part.eval().to(device)
        if getattr(part, "seed", 0) is None:
            part.seed = seed
    return purifier


def _parts(purifier: Any) -> Iterator[Any]:
    yield purifier
    children = list(purifier.children()) if isinstance(purifier, torch.nn.Module) else []
    unregistered = getattr(purifier, "transforms", ())  # of v2.Compose
    for child in [*children, *(unregistered if isinstance(unregistered, list | tuple) else ())]:
        yield from _parts(child)


def _state(purifier: Any) -> dict[str, Tensor]:
    """Every tensor of every part, sorted by name; ``v2.Compose`` does not register its children, so each is asked."""
    return {
        f"{place}.{name}": value
        for place, part in enumerate(_parts(purifier))
        if isinstance(part, torch.nn.Module)
        for name, value in sorted(
            {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}.items()
        )
    }


def weights_sha256(purifier: Any) -> str | None:
    """sha256 over names, dtypes, shapes and bytes of the state of a module; ``None`` without any."""
    tensors = _state(purifier)
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
    light = device.type == "cpu" and not _state(purifier)
    torch.set_num_threads(max(1, before // 8) if light else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""The purifier that a run uses: made from its name, copied, seeded, in eval mode, on one device."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torchvision.transforms import v2

from ..functional.shapes import Tensor
from ..registry import create
from ..transforms.chain import PurifierChain

Purifier = Callable[..., Any]


def chosen(purifier: Purifier | str | Sequence[Purifier | str]) -> Purifier:
    """The purifier itself, the one that a text names, or the chain of several.

    Raises:
        RegistryError: no such name.
        TypeError: a class, or something that cannot be called.
    """
    if isinstance(purifier, str):
        return create(purifier, "purifier")
    if isinstance(purifier, Sequence):
        return PurifierChain(cast(Any, purifier))  # which says itself what it takes
    if isinstance(purifier, type):
        raise TypeError(f"expected a purifier, got the class {purifier.__name__}: write {purifier.__name__}().")
    if not callable(purifier):
        raise TypeError(f"expected a purifier such as COINInterpolate(), or its name, got {purifier!r}.")
    return purifier


def reads_labels(purifier: Any) -> bool:
    """Does it use the labels that it is given beside the images, itself or in a ``v2.Compose``?"""
    if isinstance(purifier, v2.Compose):
        return any(map(reads_labels, purifier.transforms))
    return bool(getattr(purifier, "reads_labels", False))


def parts(purifier: Any) -> Iterator[Any]:
    """A purifier and everything inside it; ``v2.Compose`` does not register its children, so each is asked."""
    yield purifier
    children = list(purifier.children()) if isinstance(purifier, torch.nn.Module) else []
    unregistered = getattr(purifier, "transforms", ())  # of v2.Compose
    for child in [*children, *(unregistered if isinstance(unregistered, list | tuple) else ())]:
        yield from parts(child)


def device_of(purifier: Any) -> torch.device:
    """Where the tensors of ``purifier`` are; the CPU if it has none."""
    return next((tensor.device for tensor in _state(purifier).values()), torch.device("cpu"))


def own_copy(purifier: Any, seed: int, device: torch.device) -> Any:
    """The purifier that this run uses: seeded wherever it has no seed, in eval mode, on ``device``."""
    purifier = copy.deepcopy(purifier)
    for part in parts(purifier):
        if isinstance(part, torch.nn.Module):
            part.eval().to(device)
        if getattr(part, "seed", 0) is None:
            part.seed = seed
    return purifier


def _state(purifier: Any) -> dict[str, Tensor]:
    """Every tensor of every part, sorted by name."""
    return {
        f"{place}.{name}": value
        for place, part in enumerate(parts(purifier))
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
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
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

"""Poisoned and purified data sets, made once: kept in memory, and in a folder if one is given."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file

from ..functional.shapes import Tensor
from ..storage.atomic import replace_file

Tensors = dict[str, Tensor]


class Cache:
    """Tensors by key; what is not there is made, and stays.

    Args:
        folder: where they are kept between runs and shared by processes; ``None`` for memory alone.
        memory: bytes to hold in memory; the least recently used go first.
    """

    def __init__(self, folder: Path | None = None, memory: int = 2 << 30) -> None:
        self.folder = folder
        self.memory = memory
        self._held: OrderedDict[str, Tensors] = OrderedDict()

    def get(self, key: object, make: Callable[[], Tensors]) -> Tensors:
        """The tensors of ``key`` (anything that JSON can write)."""
        name = _name(key)
        if name not in self._held:
            self._held[name] = self._load(name, make)
        self._held.move_to_end(name)
        while len(self._held) > 1 and sum(map(_size, self._held.values())) > self.memory:
            self._held.popitem(last=False)
        return self._held[name]

    def path(self, key: object, suffix: str) -> Path | None:
        """Where something else of ``key`` may be kept, such as a checkpoint; ``None`` without a folder."""
        if self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{_name(key)}{suffix}"

    def _load(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        if self.folder is None:
            return make()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            return load_file(path)
        made = {key: value.contiguous() for key, value in make().items()}
        replace_file(path, lambda file: save_file(made, file))
        return made


def _name(key: object) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _size(tensors: Tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

"""The three files of a weights folder: config.json, model.safetensors, README.md. Bytes in, checked content out.

``config.json`` holds the constructor's arguments and beside them what makes the folder describe itself:
``transform`` (class), ``format`` (of this file), ``sha256`` (of model.safetensors) and where it is known ``sizes`` (the
shortest and the longest side of images that the weights are for). Other libraries' configs have none
of them. Nothing here unpickles or imports anything a file names.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from ..errors import WeightsCorruptedError, WeightsMismatchError, WeightsUnavailableError
from ..functional.shapes import Tensor
from ..storage.atomic import replace_file

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1
_OWN_KEYS = ("transform", "format", "sha256", "sizes")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_BROKEN = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class LoadedWeights:
    """What a folder or repo holds, checked.

    Attributes:
        config: constructor arguments.
        state: ``state_dict``, in the dtypes of the file, on the CPU.
        transform: class that it was saved from; ``None`` where the config does not say.
        origin: where it was found, for messages.
        label: ``name@sha256`` or ``repo@commit`` (12 digits), which ``repr`` shows; ``None`` for a folder.
        sha256: of model.safetensors.
        sizes: the shortest and the longest side in pixels of images that they are for; ``None`` where none are named.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    transform: str | None
    origin: str
    label: str | None
    sha256: str
    sizes: tuple[int, int] | None = None


def sha256_of(data: bytes) -> str:
    """The hash in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def read(folder: Path, name: str) -> bytes:
    """The bytes of one file of a weights folder."""
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        others = sorted(path.name for path in folder.glob("*") if path.suffix in (*_PICKLES, ".safetensors"))
        hint = (
            f" {others[0]} is not read: rename or convert it if it holds the same."
            if others and name == WEIGHTS
            else ""
        )
        if others and Path(others[0]).suffix in _PICKLES:
            hint = f" {others[0]} is a pickle, which can run code: convert it to safetensors first."
        raise WeightsUnavailableError(
            f"expected {name} in {str(folder)!r}, found none: pass a folder that save_pretrained wrote.{hint}"
        ) from error
    except OSError as error:
        raise WeightsUnavailableError(f"{name} in {str(folder)!r} cannot be read: {error}.") from error


def parse(
    config: bytes, weights: bytes, origin: str, *, verify: bool = True, label: str | None = None
) -> LoadedWeights:
    """Check the bytes of the two files and take them apart.

    Raises:
        WeightsCorruptedError: not JSON, not safetensors, another sha256 than the config says, or values that are not
            finite.
        WeightsMismatchError: a config of a newer format.
    """
    settings = parse_config(config, origin)
    own = {key: settings.pop(key, None) for key in _OWN_KEYS}
    if own["format"] is not None and own["format"] != FORMAT:
        raise WeightsMismatchError(
            f"expected {CONFIG} of format {FORMAT} in {origin}, got format {own['format']!r}: it was written by "
            "another version; pip install --upgrade puretransforms."
        )
    if not isinstance(own["transform"], str | None):
        raise WeightsCorruptedError(
            f"expected the name of a class as transform in {CONFIG} of {origin}, got {own['transform']!r}: fetch it "
            "again."
        )
    sizes = own["sizes"]
    if sizes is not None and not (isinstance(sizes, list) and len(sizes) == 2 and all(type(n) is int for n in sizes)):
        raise WeightsCorruptedError(
            f"expected sizes of {CONFIG} of {origin} as two whole numbers of pixels, got {sizes!r}: fetch it again."
        )
    digest = sha256_of(weights)
    if verify and own["sha256"] not in (None, digest):
        raise WeightsCorruptedError(
            f"expected {WEIGHTS} of sha256 {own['sha256']} in {origin}, got {digest}: the file was damaged or "
            "exchanged after saving; fetch it again, or pass verify=False if you changed it yourself."
        )
    state = parse_state(weights, origin)
    return LoadedWeights(settings, state, own["transform"], origin, label, digest, tuple(sizes) if sizes else None)


def parse_config(data: bytes, origin: str) -> dict[str, Any]:
    """The object in a config.json; ``origin`` is for the message of :class:`WeightsCorruptedError`."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WeightsCorruptedError(f"{CONFIG} of {origin} is not JSON ({error}): fetch it again.") from error
    if not isinstance(config, dict):
        kind = type(config).__name__
        raise WeightsCorruptedError(f"expected a JSON object in {CONFIG} of {origin}, got {kind}: fetch it again.")
    return config


def parse_state(data: bytes, origin: str) -> dict[str, Tensor]:
    """The tensors in a model.safetensors, all finite, else :class:`WeightsCorruptedError`."""
    try:
        state = safetensors.torch.load(data)
    except _BROKEN as error:
        raise WeightsCorruptedError(f"{WEIGHTS} of {origin} is not safetensors ({error}): fetch it again.") from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise WeightsCorruptedError(
                f"expected finite weights in {origin}, got NaN or infinity in {name!r}: take a checkpoint from before "
                "the training diverged."
            )
    return state


def state_bytes(state: Mapping[str, Tensor]) -> bytes:
    """The content of model.safetensors."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return safetensors.torch.save(contiguous, {"format": "pt"})


def write(
    folder: Path,
    transform: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    sizes: tuple[int, int] | None = None,
) -> None:
    """Write the two files, each whole or not at all; the config last, for it holds the hash of the other."""
    data = state_bytes(state)
    own = {"transform": transform, "format": FORMAT, "sha256": sha256_of(data)}
    own |= {} if sizes is None else {"sizes": list(sizes)}
    taken = own.keys() & config.keys()
    if taken:
        raise ValueError(f"{transform} has an argument named {taken}, which {CONFIG} needs for itself: rename it.")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**own, **dict(sorted(config.items()))}, indent=2, allow_nan=False) + "\n"
    for name, content in ((WEIGHTS, data), (CONFIG, text.encode())):
        replace_file(folder / name, content)

"""The steps of cleaning one image: read and decode, purify in a batch, encode and stage."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.codec import Decoded, decode, encode, looks_like_image
from ..data.sources.base import Source, read_image
from ..errors import CorruptImageError, PurifierError, StoreError
from ..functional.shapes import Tensor, UInt8
from .manifest import Row, new_row, to_line
from .purifier import Purifier
from .units import Finished, Staging, Task


@dataclass(frozen=True, slots=True)
class Waiting:
    """A decoded image on its way to the purifier."""

    task: Task
    sha256: str
    image: Decoded

    @property
    def area(self) -> int:
        """Pixels that it holds in memory."""
        return self.image.size[0] * self.image.size[1]


def read(source: Source, staging: Staging, task: Task, strict: bool) -> Waiting | Finished:
    """Decode an image; copy what is none, put aside what is damaged, note what cannot be read.

    Args:
        strict: raise instead of putting aside.

    Raises:
        CorruptImageError: a damaged image, if ``strict``.
        StoreError: an object store does not answer.
    """
    entry = task.entry
    row = new_row(entry.path, entry.label, staging.number)
    if entry.kind == "skipped":
        return _finished(task, row, status="skipped", reason=entry.reason)
    try:
        if entry.kind == "image":
            data = read_image(source, entry)
            return Waiting(task, hashlib.sha256(data).hexdigest(), decode(data))
        stream = source.open(entry)  # may it be read?
    except CorruptImageError as error:
        if strict:
            raise CorruptImageError(
                f"expected every image to be readable (strict=True), got {entry.path!r}: {error}. Repair or remove "
                "the file, or use strict=False to put such files aside."
            ) from error
        with source.open(entry) as stream:
            digest = staging.put_aside(task.place, stream)
        return _finished(task, row, status="quarantined", sha256_in=digest, reason=str(error))
    except StoreError:
        raise
    except OSError as error:
        return _finished(task, row, status="skipped", reason=f"cannot be read: {error.strerror}")
    with stream:
        digest, head = staging.copy(task.place, stream)
    if looks_like_image(entry.path, head):
        row["reason"] = "looks like an image, but its suffix is none of those that are purified"
    elif entry.reason:
        row["reason"] = entry.reason
    return _finished(task, row, **task.target, status="copied", sha256_in=digest, sha256_out=digest)


def _finished(task: Task, row: Row, **values: Any) -> Finished:
    return Finished(task.place, to_line(row | values), "out" in values, values["status"] == "quarantined")


def stacked(images: list[Decoded]) -> np.ndarray:
    """The pixels of images of one shape, uint8 ``[B, H, W, C]``."""
    buffer = bytearray().join([image.pixels for image in images])
    return np.frombuffer(buffer, np.uint8).reshape(len(images), *images[0].shape)


def purify_batch(purifier: Purifier, images: list[Decoded], device: torch.device) -> np.ndarray:
    """Images of one shape through the purifier: uint8 ``[B, H, W, C]``.

    Raises:
        PurifierError: the purifier gave back another type, dtype or shape.
    """
    x = torch.from_numpy(stacked(images)).permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format).to(device)
    with torch.no_grad():
        y = purifier(x)
    check_purified(x, y)
    return y.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def check_purified(x: UInt8[Tensor, "b c h w"], y: Any) -> None:
    """Raise :class:`PurifierError` unless ``y`` is uint8 of the shape of ``x``."""
    if not isinstance(y, torch.Tensor):
        got = type(y).__name__
    elif y.dtype != torch.uint8 or y.shape != x.shape:
        got = f"{y.dtype} {list(y.shape)}"
    else:
        return
    raise PurifierError(
        f"expected the purifier to turn uint8 {list(x.shape)} into the same, got {got}: make it return "
        "(y * 255).round().to(torch.uint8) in the shape that it was given."
    )


def changes(before: np.ndarray, after: np.ndarray) -> Iterator[tuple[float, float | None]]:
    """``(mean absolute change in 0..255 units, PSNR in dB or None where equal)`` of each image of ``[B, ...]`` uint8.

    The sums are exact integers, so they do not depend on the batch.
    """
    count = before[0].size
    difference = np.subtract(before, after, dtype=np.int16).reshape(len(before), count)
    squares = np.einsum("ij,ij->i", difference, difference, dtype=np.int64).tolist()
    sums = np.abs(difference, out=difference).sum(1, dtype=np.int64).tolist()
    for total, square in zip(sums, squares, strict=True):
        psnr = round(10 * math.log10(255 * 255 * count / square), 3) if square else None
        yield round(total / count, 4), psnr


def write(staging: Staging, batch: list[Waiting], after: np.ndarray) -> list[Finished]:
    """Encode and stage images of one shape; ``after``: their purified pixels, uint8 ``[B, H, W, C]``."""
    done, before = [], stacked([item.image for item in batch])
    for item, pixels, (mean_abs, psnr) in zip(batch, after, changes(before, after), strict=True):
        task, image = item.task, item.image
        data = encode(pixels, image)
        staging.write(task.place, data)
        row = new_row(task.entry.path, task.entry.label, staging.number)
        row |= task.target | {"status": "purified", "sha256_in": item.sha256}
        row |= {"sha256_out": hashlib.sha256(data).hexdigest(), "width": image.size[0], "height": image.size[1]}
        row |= {"mode": image.mode, "psnr": psnr, "mean_abs": mean_abs}
        if image.converted:
            row["converted"] = image.converted
        if image.frames > 1:
            row["frames"] = image.frames
        done.append(Finished(task.place, to_line(row), True))
    return done

"""What a run would take: a few images are cleaned in memory, and nothing is written."""

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.codec import Decoded, decode, encode
from ..data.sources.base import Entry, Source, read_image
from ..errors import CorruptImageError
from ..storage.remote import is_remote
from .pipeline import purify_batch
from .purifier import Purifier

_SAMPLE = 64
_SAMPLE_PIXELS = 1 << 24
_BLOCK = 4096  # bytes; what a file takes on the disk is a multiple


@dataclass(frozen=True, slots=True)
class DryRun:
    """An estimate from a sample of images, spread evenly over the listing.

    Attributes:
        images, others, skipped: entries of the source by kind.
        suspects: how many of the images carry a trigger by the scan of ``"auto"``, and would be put aside as they are.
        bytes_in: size of the source.
        sampled, damaged: images looked at, and how many of them would be quarantined.
        images_per_second, seconds: estimated speed and duration.
        bytes_needed: estimated size of the output on the disk.
        bytes_free: free space where the output would go.
        scan: what the scan of ``"auto"`` said, as in ``run.json``; ``None`` without one.
    """

    images: int
    others: int
    skipped: int
    suspects: int
    bytes_in: int
    sampled: int
    damaged: int
    images_per_second: float
    seconds: float
    bytes_needed: int
    bytes_free: int
    scan: Mapping[str, Any] | None = None

    @property
    def fits(self) -> bool:
        """Is there room for the output?"""
        return self.bytes_needed <= self.bytes_free


def estimate(
    listing: Source,
    out: str,
    purifier: Purifier,
    device: torch.device,
    workers: int,
    numbers: Mapping[str, int] | None = None,
    suspects: Container[str] = (),
    scan: Mapping[str, Any] | None = None,
) -> DryRun:
    """Time a sample of ``listing``; ``workers`` threads are taken to share the reading and writing evenly.

    ``numbers``: of the classes, for a purifier that reads labels; ``suspects``: paths of images to put aside, by
    ``scan``.
    """
    all_images, others, skipped = (
        [e for e in listing.entries if e.kind == kind] for kind in ("image", "other", "skipped")
    )
    images = [entry for entry in all_images if entry.path not in suspects]
    aside = [entry for entry in all_images if entry.path in suspects]
    start = time.perf_counter()
    sampled, decoded = _decode_some(listing, images[:: -(-len(images) // _SAMPLE)])
    codec_seconds = time.perf_counter() - start
    purify_seconds, sizes = 0.0, []
    for group in _by_shape(decoded):
        same = [image for image, _ in group]
        labels = None if numbers is None else [numbers[label] for _, label in group]
        purify_batch(purifier, same[:1], device, labels and labels[:1])  # the first may compile, or start the GPU
        start = time.perf_counter()
        after = purify_batch(purifier, same, device, labels)
        middle = time.perf_counter()
        sizes += [len(encode(pixels, like)) for pixels, like in zip(after, same, strict=True)]
        purify_seconds += middle - start
        codec_seconds += time.perf_counter() - middle
    per_image = (codec_seconds / workers + purify_seconds) / sampled
    disk = sum(-(-size // _BLOCK) * _BLOCK for size in sizes) / max(len(sizes), 1)
    return DryRun(
        images=len(all_images),
        others=len(others),
        skipped=len(skipped),
        suspects=len(aside),
        bytes_in=sum(entry.size for entry in listing.entries),
        sampled=sampled,
        damaged=sampled - len(decoded),
        images_per_second=1 / per_image,
        seconds=per_image * len(images),
        bytes_needed=round(disk * len(images)) + sum(entry.size for entry in [*others, *aside]),
        bytes_free=_free(out),
        scan=scan,
    )


def _decode_some(source: Source, sample: list[Entry]) -> tuple[int, list[tuple[Decoded, str]]]:
    """``(number looked at, those that are readable with their labels)``; ends early where images are large."""
    decoded: list[tuple[Decoded, str]] = []
    for looked_at, entry in enumerate(sample):
        if sum(math.prod(image.size) for image, _ in decoded) > _SAMPLE_PIXELS:
            return looked_at, decoded
        with contextlib.suppress(CorruptImageError, OSError):
            decoded.append((decode(read_image(source, entry)), entry.label))
    return len(sample), decoded


def _free(out: str) -> int:
    """Free bytes where ``out`` would be; an object store has no end."""
    if is_remote(out):
        return sys.maxsize
    place = Path(out)
    return shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free


def _by_shape(images: list[tuple[Decoded, str]]) -> list[list[tuple[Decoded, str]]]:
    groups: dict[tuple[int, int, int], list[tuple[Decoded, str]]] = {}
    for image, label in images:
        groups.setdefault(image.shape, []).append((image, label))
    return list(groups.values())

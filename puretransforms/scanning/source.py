"""Where the images of a scan come from: files of class folders or shards, or a dataset of ``(image, label)`` pairs.

Either gives a :class:`Stream`: items drawn at random from all images, in random order, decoded when asked for.
"""

import os
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..data.codec import decode
from ..data.images import round_to_uint8, to_batch
from ..data.open_source import named, open_source
from ..data.samples import class_names, colour, gather, integers, pair_of
from ..data.sources.base import Entry, Source, read_image
from ..data.sources.huggingface import is_hugging_face
from ..data.sources.map_style import without_transforms
from ..errors import CorruptImageError, LabelError, NoImageError
from ..functional.shapes import Tensor, UInt8

_AHEAD = 256  # files decoded together


@dataclass(frozen=True, slots=True)
class Item:
    """One image: where it stands (path or index), its label, and its pixels ``[3, H, W]``, or why there are none."""

    name: str
    label: int
    pixels: UInt8[Tensor, "3 h w"] | None
    problem: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """A draw of images.

    Attributes:
        items: the drawn images, in random order.
        drawn: how many there will be.
        total: images in the source.
        classes: class names by label; empty where only numbers are known.
    """

    items: Iterator[Item]
    drawn: int
    total: int
    classes: dict[int, str]


def open_stream(source: Any, sample: int | None, seed: int, workers: int) -> Stream:
    """Draw ``sample`` images (``None``: all) of files, a map-style dataset or an iterable of pairs, which is read here.

    Labels are the source's own numbers. The transforms of a map-style dataset are left out: what is scanned is the
    stored image, as in ``clean``.

    Raises:
        SourceError: no such folder, dataset or shards, or no image in them.
        LabelError: samples that are no ``(image, integer label)`` pairs.
        NoImageError, RangeError: images of a dataset that cannot be read as such.
    """
    if isinstance(source, str):
        source = named(source)
    if isinstance(source, str | os.PathLike | Source) or is_hugging_face(source) or _names_shards(source):
        return _files(open_source(source), sample, seed, workers)
    if isinstance(source, Tensor):
        source = (source, torch.zeros(len(source), dtype=torch.int64))
    if isinstance(source, tuple | list) and len(source) == 2 and all(isinstance(part, Tensor) for part in source):
        source = gather(source)
    classes = dict(enumerate(class_names(source) or ()))
    if isinstance(source, Sized) and hasattr(source, "__getitem__"):
        order, stored = _order(len(source), sample, seed), without_transforms(source)
        return Stream((_item(stored[i], i) for i in order), len(order), len(source), classes)
    if isinstance(source, Iterable):
        kept, total = _reservoir(source, sample, seed)
        return Stream(iter(kept), len(kept), total, classes)
    raise LabelError(
        f"expected a folder, or a dataset of (image, label) pairs, got {type(source).__name__}: "
        "give a path or anything that can be iterated."
    )


def _names_shards(source: Any) -> bool:
    return isinstance(source, list | tuple) and bool(source) and all(isinstance(s, str | os.PathLike) for s in source)


def _order(total: int, sample: int | None, seed: int) -> list[int]:
    return np.random.RandomState(seed).permutation(total)[:sample].tolist()


def _files(source: Source, sample: int | None, seed: int, workers: int) -> Stream:
    images = [entry for entry in source.entries if entry.kind == "image"]
    numbers = source.class_to_idx()
    order = _order(len(images), sample, seed)

    def read(i: int) -> Item:
        entry: Entry = images[i]
        label = numbers[entry.label]
        try:
            image = decode(read_image(source, entry))
        except (CorruptImageError, OSError) as error:
            return Item(entry.path, label, None, str(error), i)
        pixels = torch.frombuffer(bytearray(image.pixels), dtype=torch.uint8).view(image.shape).permute(2, 0, 1)
        return Item(entry.path, label, colour(pixels[None])[0], index=i)

    def stream() -> Iterator[Item]:
        waiting = iter(order)
        with ThreadPoolExecutor(workers) as pool:
            while block := list(islice(waiting, _AHEAD)):
                yield from pool.map(read, block)

    return Stream(stream(), len(order), len(images), {number: name for name, number in numbers.items()})


def _reservoir(source: Iterable[Any], sample: int | None, seed: int) -> tuple[list[Item], int]:
    """A uniform draw from a stream (Vitter, 1985, algorithm R), in random order, and how many images it held."""
    stream = np.random.RandomState(seed)
    kept: list[Item] = []
    total = 0
    for i, pair in enumerate(source):
        total += 1
        place = i if sample is None or i < sample else int(stream.randint(i + 1))
        if sample is None or place < sample:
            item = _item(pair, i)
            kept[place : place + 1] = [item]
    return [kept[i] for i in stream.permutation(len(kept))], total


def _item(sample: Any, index: int) -> Item:
    image, label = pair_of(sample)
    try:
        numbers = integers(label)
    except LabelError:
        numbers = torch.empty(0, dtype=torch.int64)
    if len(numbers) != 1 or int(numbers[0]) < 0:
        raise LabelError(f"expected an integer label from 0 for sample {index}, got {label!r}: give class indices.")
    batch, _ = to_batch(image)
    if len(batch) != 1:
        raise NoImageError(f"expected one image for each sample, got {len(batch)} in sample {index}: unbatch them.")
    return Item(str(index), int(numbers[0]), colour(round_to_uint8(batch[:1]))[0], index=index)

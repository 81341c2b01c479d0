"""The pipeline: workers read and decode, one stream purifies in batches, workers encode and write.

Data flows one way, in the order of the listing, over unit borders; every queue is bounded in files and in pixels, so
that memory depends neither on the number of files nor, for folders and tar shards, on their sizes. (A Parquet file is
built whole: its rows are in memory together.)
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
import torch

from ..data.codec import Decoded, decode, encode, looks_like_image
from ..data.sources.base import Entry, read_image
from ..errors import CorruptImageError, PurifierError, StoreError
from ..functional.shapes import Tensor, UInt8
from .codec_pool import CodecPool, context, result
from .manifest import Row, new_row, to_line
from .purifier import Purifier
from .writers.base import Finished, Task, Unit, Writer

_CHUNK_FILES, _CHUNK_BYTES = 64, 1 << 20  # what one worker takes at a time
_BATCH_PIXELS = 1 << 23  # a batch of larger images has fewer of them: 256 at 181 x 181 pixels, 167 at 224 x 224
_WAITING_PIXELS = 1 << 25  # images of many shapes wait for company until they are so many pixels together
_AHEAD_BYTES, _AHEAD_PIXELS = 1 << 20, 1 << 22  # of small files, so many are read ahead, and wait to be encoded

# --- one image: read and decode, purify in a batch, encode and stage -------------------------------------------------


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


def read(writer: Writer, number: int, task: Task, strict: bool) -> Waiting | Finished:
    """Decode an image; copy what is none, put aside what is damaged or a suspect, note what cannot be read.

    Args:
        writer: of the source.
        number: of the unit.
        task: the entry.
        strict: raise instead of putting aside.

    Raises:
        CorruptImageError: a damaged image, if ``strict``.
        StoreError: an object store does not answer.
    """
    source, entry = writer.source, task.entry
    row = new_row(entry.path, entry.label, number)
    if entry.kind == "skipped":
        return _finished(task, row, status="skipped", reason=entry.reason)
    try:
        if task.suspect:
            with source.open(entry) as stream:
                digest = writer.put_aside(number, task.place, stream)
            row |= {"suspect": True, "reason": task.suspect}
            return _finished(task, row, status="quarantined", sha256_in=digest)
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
            digest = writer.put_aside(number, task.place, stream)
        return _finished(task, row, status="quarantined", sha256_in=digest, reason=str(error))
    except StoreError:
        raise
    except OSError as error:
        return _finished(task, row, status="skipped", reason=f"cannot be read: {error.strerror}")
    with stream:
        digest, head = writer.copy(number, task.place, stream)
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


def purify_batch(
    purifier: Purifier, images: list[Decoded], device: torch.device, labels: list[int] | None = None
) -> np.ndarray:
    """Images of one shape, with their labels if it reads some, through the purifier: uint8 ``[B, H, W, C]``.

    Raises:
        PurifierError: the purifier gave back another type, dtype or shape.
    """
    x = torch.from_numpy(stacked(images)).permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format).to(device)
    with torch.no_grad():
        y = purifier(x) if labels is None else purifier(x, torch.tensor(labels, device=device))
    if labels is not None and isinstance(y, tuple | list):
        y = y[0]  # it gives the labels back as well
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


def write(writer: Writer, number: int, batch: list[Waiting], after: np.ndarray) -> list[Finished]:
    """Encode and stage images of one shape; ``after``: their purified pixels, uint8 ``[B, H, W, C]``."""
    done, before = [], stacked([item.image for item in batch])
    for item, pixels, (mean_abs, psnr) in zip(batch, after, changes(before, after), strict=True):
        task, image = item.task, item.image
        data = encode(pixels, image)
        writer.write(number, task.place, data)
        row = new_row(task.entry.path, task.entry.label, number)
        row |= task.target | {"status": "purified", "sha256_in": item.sha256}
        row |= {"sha256_out": hashlib.sha256(data).hexdigest(), "width": image.size[0], "height": image.size[1]}
        row |= {"mode": image.mode, "psnr": psnr, "mean_abs": mean_abs}
        if image.converted:
            row["converted"] = image.converted
        if image.frames > 1:
            row["frames"] = image.frames
        done.append(Finished(task.place, to_line(row), True))
    return done


# --- all images ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """What to clean, and how.

    Attributes:
        writer: of the images, to the output.
        purifier: the copy that this run uses: seeded, in eval mode, on ``device``.
        batch_size, workers, device, strict, seed: see :func:`puretransforms.cleaning.clean.clean`.
        processes: decode and encode in processes rather than in threads.
        labels: for a purifier that reads labels: the number of each class of the source; ``None`` for another.
    """

    writer: Writer
    purifier: Purifier
    batch_size: int
    workers: int
    device: torch.device
    strict: bool
    seed: int
    processes: bool = True
    labels: Mapping[str, int] | None = None

    def labels_of(self, entries: Iterable[Entry]) -> list[int] | None:
        """The labels of some images, where the purifier reads them."""
        return None if self.labels is None else [self.labels[entry.label] for entry in entries]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A unit at work: what is dealt with so far, and the encoding tasks that will bring the rest."""

    unit: Unit
    finished: list[Finished]
    encoding: list[Future]


Chunk = tuple[Work, list[Waiting | Finished]]


class Window:
    """Tasks in flight, oldest first: at most ``number`` of them, or more while they are small, ``size`` together."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.room = size
        self.tasks: deque[tuple[Any, int]] = deque()

    def add(self, task: Any, size: int) -> None:
        """Put a task of ``size`` at the end."""
        self.tasks.append((task, size))
        self.room -= size

    def pop(self) -> Any:
        """Take the oldest task."""
        task, size = self.tasks.popleft()
        self.room += size
        return task

    @property
    def full(self) -> bool:
        """Should the oldest task be waited for?"""
        return len(self.tasks) > self.number and self.room < 0


class Engine:
    """Cleans units one after another.

    Args:
        job: what to clean, and how. torch's global generator is seeded with ``(job.seed, unit)`` before each unit, so
            that a purifier without a ``seed`` of its own repeats its draws for the same ``batch_size``.
        advance: called with the number of files that have been dealt with since the last call.
    """

    def __init__(self, job: Job, advance: Callable[[int], Any]) -> None:
        self.job = job
        self.advance = advance

    def run(self, units: list[Unit]) -> None:
        """Clean ``units``; each has its done-mark when this returns."""
        encoding, closing = Window(2 * self.job.workers, _AHEAD_PIXELS), Window(2, 0)
        codecs = CodecPool(self.job.workers, self.job.writer, processes=self.job.processes)
        with codecs as pool, ThreadPoolExecutor(1, "commit") as closer:
            for work, chunks in groupby(self._read_ahead(units, pool), key=itemgetter(0)):
                for batch in self._batches(work, chunks):
                    for future, pixels in self._purify(work, batch, pool):
                        encoding.add(future, pixels)
                    while encoding.full:
                        result(encoding.pop())
                closing.add(closer.submit(_close, self.job.writer, work), 1)
                while closing.full:
                    closing.pop().result()
            while closing.tasks:
                closing.pop().result()

    def _read_ahead(self, units: list[Unit], pool: CodecPool) -> Iterator[Chunk]:
        ahead = Window(2 * self.job.workers, _AHEAD_BYTES)
        for unit in units:
            work = Work(unit, [], [])
            self.job.writer.begin(unit.number)
            for tasks in _chunks(unit.tasks):
                reading = pool.submit(_read_chunk, unit.number, tasks, self.job.strict)
                ahead.add((work, reading), sum(task.entry.size for task in tasks))
                while ahead.full:
                    yield from self._collect(pool, *ahead.pop())
        while ahead.tasks:
            yield from self._collect(pool, *ahead.pop())

    def _collect(self, pool: CodecPool, work: Work, future: Future) -> Iterator[Chunk]:
        results, rest = result(future)
        yield work, results
        while rest:
            results, rest = result(pool.submit(_read_chunk, work.unit.number, rest, self.job.strict))
            yield work, results

    def _batches(self, work: Work, chunks: Iterator[Chunk]) -> Iterator[list[Waiting]]:
        """The decoded images of a unit in batches of one shape; a function of the listing and the files alone."""
        torch.manual_seed((self.job.seed * 1_000_003 + work.unit.number) % 2**63)
        waiting: dict[tuple[int, int, int], list[Waiting]] = {}
        pixels = 0
        for item in (item for _, results in chunks for item in results):
            if isinstance(item, Finished):
                work.finished.append(item)
                self.advance(1)
                continue
            group = waiting.setdefault(item.image.shape, [])
            group.append(item)
            pixels += item.area
            if len(group) >= self.job.batch_size or len(group) * item.area >= _BATCH_PIXELS:
                pixels -= len(group) * item.area
                yield waiting.pop(item.image.shape)
            elif pixels >= _WAITING_PIXELS:
                yield from waiting.values()
                waiting, pixels = {}, 0
        yield from waiting.values()

    def _purify(self, work: Work, batch: list[Waiting], pool: CodecPool) -> list[tuple[Future, int]]:
        """Purify a batch here and now; its encoding is handed to the workers: ``(future, pixels)`` of each part."""
        labels = self.job.labels_of(item.task.entry for item in batch)
        after = purify_batch(self.job.purifier, [item.image for item in batch], self.job.device, labels)
        step = max(1, min(_CHUNK_FILES, _BATCH_PIXELS // batch[0].area))
        parts = [slice(i, i + step) for i in range(0, len(batch), step)]
        futures = [pool.submit(_write_chunk, work.unit.number, batch[part], after[part]) for part in parts]
        work.encoding.extend(futures)
        self.advance(len(batch))
        return [(future, step * batch[0].area) for future in futures]


def _read_chunk(number: int, tasks: list[Task], strict: bool) -> tuple[list[Waiting | Finished], list[Task]]:
    """Read until the images are many pixels together: the results, and the tasks that are left."""
    results: list[Waiting | Finished] = []
    pixels = 0
    for i, task in enumerate(tasks):
        if pixels > _BATCH_PIXELS:
            return results, tasks[i:]
        results.append(read(context(), number, task, strict))
        pixels += results[-1].area
    return results, []


def _write_chunk(number: int, batch: list[Waiting], after: np.ndarray) -> list[Finished]:
    return write(context(), number, batch, after)


def _close(writer: Writer, work: Work) -> None:
    for future in work.encoding:
        work.finished.extend(result(future))
    writer.commit(work.unit, sorted(work.finished, key=attrgetter("place")))


def _chunks(tasks: list[Task]) -> Iterator[list[Task]]:
    chunk: list[Task] = []
    size = 0
    for task in tasks:
        if chunk and (len(chunk) == _CHUNK_FILES or size + task.entry.size > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(task)
        size += task.entry.size
    if chunk:
        yield chunk

"""The pipeline: workers read and decode, one stream purifies in batches, workers encode and write.

Data flows one way, in the order of the listing, over unit borders; every queue is bounded in files and in pixels, so
that memory depends neither on the number of files nor, for folders and tar shards, on their sizes. (A Parquet file is
built whole: its rows are in memory together.)
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

import torch

from ..data.sources.base import Source
from .fitting import labelled
from .manifest import Layout
from .packing import staging
from .pool import CodecPool, context, result
from .purifier import Purifier
from .steps import Waiting, purify_batch, read, write
from .units import Finished, Staging, Task, Unit

_CHUNK_FILES, _CHUNK_BYTES = 64, 1 << 20  # what one worker takes at a time
_BATCH_PIXELS = 1 << 23  # a batch of larger images has fewer of them: 256 at 181 x 181 pixels, 167 at 224 x 224
_WAITING_PIXELS = 1 << 25  # images of many shapes wait for company until they are so many pixels together
_AHEAD_BYTES, _AHEAD_PIXELS = 1 << 20, 1 << 22  # of small files, so many are read ahead, and wait to be encoded


@dataclass(frozen=True, slots=True)
class Job:
    """What to clean, and how.

    Attributes:
        source: the images.
        layout: the output.
        purifier: the copy that this run uses: seeded, in eval mode, on ``device``.
        batch_size, workers, device, strict, seed: see :func:`puretransforms.cleaning.clean.clean`.
        processes: decode and encode in processes rather than in threads.
        classes: for a purifier of ``(images, labels)``: the label of each class; ``None`` for one of images alone.
    """

    source: Source
    layout: Layout
    purifier: Purifier
    batch_size: int
    workers: int
    device: torch.device
    strict: bool
    seed: int
    processes: bool = True
    classes: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A unit at work: what is dealt with so far, and the encoding tasks that will bring the rest."""

    tasks: list[Task]
    staging: Staging
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
        codecs = CodecPool(self.job.workers, self.job.source, processes=self.job.processes)
        with codecs as pool, ThreadPoolExecutor(1, "commit") as closer:
            for work, chunks in groupby(self._read_ahead(units, pool), key=itemgetter(0)):
                for batch in self._batches(work, chunks):
                    for future, pixels in self._purify(work, batch, pool):
                        encoding.add(future, pixels)
                    while encoding.full:
                        result(encoding.pop())
                closing.add(closer.submit(_close, self.job.source, work), 1)
                while closing.full:
                    closing.pop().result()
            while closing.tasks:
                closing.pop().result()

    def _read_ahead(self, units: list[Unit], pool: CodecPool) -> Iterator[Chunk]:
        ahead = Window(2 * self.job.workers, _AHEAD_BYTES)
        for unit in units:
            work = Work(unit.tasks, staging(self.job.source, self.job.layout, unit.number), [], [])
            work.staging.begin()
            for tasks in _chunks(unit.tasks):
                reading = pool.submit(_read_chunk, work.staging, tasks, self.job.strict)
                ahead.add((work, reading), sum(task.entry.size for task in tasks))
                while ahead.full:
                    yield from self._collect(*ahead.pop(), pool)
        while ahead.tasks:
            yield from self._collect(*ahead.pop(), pool)

    def _collect(self, work: Work, future: Future, pool: CodecPool) -> Iterator[Chunk]:
        results, rest = result(future)
        yield work, results
        while rest:
            results, rest = result(pool.submit(_read_chunk, work.staging, rest, self.job.strict))
            yield work, results

    def _batches(self, work: Work, chunks: Iterator[Chunk]) -> Iterator[list[Waiting]]:
        """The decoded images of a unit in batches of one shape; a function of the listing and the files alone."""
        torch.manual_seed((self.job.seed * 1_000_003 + work.staging.number) % 2**63)
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
        purifier, classes = self.job.purifier, self.job.classes
        if classes is not None:
            purifier = labelled(purifier, [classes[item.task.entry.label] for item in batch])
        after = purify_batch(purifier, [item.image for item in batch], self.job.device)
        step = max(1, min(_CHUNK_FILES, _BATCH_PIXELS // batch[0].area))
        parts = [slice(i, i + step) for i in range(0, len(batch), step)]
        futures = [pool.submit(write, work.staging, batch[part], after[part]) for part in parts]
        work.encoding.extend(futures)
        self.advance(len(batch))
        return [(future, step * batch[0].area) for future in futures]


def _read_chunk(staging: Staging, tasks: list[Task], strict: bool) -> tuple[list[Waiting | Finished], list[Task]]:
    """Read until the images are many pixels together: the results, and the tasks that are left."""
    results: list[Waiting | Finished] = []
    pixels = 0
    for i, task in enumerate(tasks):
        if pixels > _BATCH_PIXELS:
            return results, tasks[i:]
        results.append(read(context(), staging, task, strict))
        pixels += results[-1].area
    return results, []


def _close(source: Source, work: Work) -> None:
    for future in work.encoding:
        work.finished.extend(result(future))
    work.staging.commit(source, work.tasks, sorted(work.finished, key=attrgetter("place")))


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

"""``clean(source, out, purifier)``: images in, the same images purified out."""

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal
from warnings import warn

import torch
from tqdm import tqdm

from ..data.open_source import open_source
from ..data.sources.base import Source
from ..data.sources.folder import is_within
from ..errors import SourceError, UntouchedImageWarning
from ..storage.remote import is_remote
from .engines.local import clean_units, clear_errors, quiet
from .engines.ray import run_on_ray
from .estimate import DryRun, estimate
from .finish import conclude
from .fitting import fit_first, to_fit
from .manifest import Layout, check_free, claim, describe
from .names import MANIFEST, REPORT, STATE
from .packing import folders, plan
from .pipeline import Job
from .purifier import Purifier, chosen, device_of, own_copy
from .result import CleanResult as CleanResult
from .result import load
from .summary import Summary
from .units import Unit


def clean(
    source: Any,
    out: str | os.PathLike[str] | None,
    purifier: Purifier | str,
    *,
    batch_size: int = 256,
    workers: int | None = None,
    unit_size: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
    strict: bool = False,
    dry_run: bool = False,
    report: bool = True,
    progress: bool = True,
    rank: int | None = None,
    world_size: int | None = None,
    engine: Literal["local", "ray"] = "local",
    actors: int | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> CleanResult | DryRun:
    """Purify every image of ``source``: a folder, a data set of torchvision or Hugging Face, WebDataset shards.

    A folder gives the same tree: class folders and names stay (``a/b.jpg`` becomes ``a/b.png``), files that are no
    images are copied byte for byte. A torchvision data set gives an ``ImageFolder`` with the same targets, a Hugging
    Face data set Parquet with the same features, tar shards the same shards with new image members. All get
    ``manifest.jsonl`` (a row for every source file or row), ``run.json`` (the configuration) and ``report.html``; all
    images are lossless PNG. Damaged images are put aside in ``<out>.quarantine``. Alpha, ICC profile and EXIF are kept
    and the EXIF orientation is applied; of several frames the first is taken; 16-bit and float pixels are brought to
    8 bits.

    May be killed at any moment: the same call again goes on where it was, and ends with the same bytes. The bytes
    depend on the source, the purifier, ``seed`` and ``unit_size`` alone: not on ``workers``, ``engine``, ``rank`` or
    ``world_size``, nor on ``batch_size`` if the purifier treats each image by itself and draws by ``seed``, as
    every transform of this library does (up to the rounding of a network at another batch size or on another device).

    Args:
        source: see :func:`puretransforms.data.open_source.open_source`: a folder laid out as for
            ``torchvision.datasets.ImageFolder`` or any tree of images, also by URL; shards such as
            ``"shards/{000..099}.tar"``; a map-style data set; a ``datasets.Dataset``.
        out: a new or empty folder (or URL), or the output of the same call; not in ``source`` nor around it. ``None``
            keeps a data set in memory: :attr:`CleanResult.dataset`.
        purifier: callable from uint8 ``[B, C, H, W]``, C = 1 or 3, to the same. A copy of it is used, in eval mode;
            wherever it, or a transform inside it, has an attribute ``seed`` that is ``None``, that becomes ``seed``.
            A class with a class method ``fit``, such as ``VAEPurify``, or ``partial(VAEPurify.fit, schedule="short")``
            is fitted to ``source`` and its classes first, and kept in ``<out>.purifier``.
            ``"auto"`` scans ``source`` first and purifies as the verdict advises: a chain that ``run.json`` names.
        batch_size: at most so many images of one size at a time.
        workers: processes that read and write (default: one for each core this process may use); with
            ``engine="ray"`` threads of each actor (default: 1).
        unit_size: files that are finished together; a killed run loses at most the open units. A tar shard is always
            one unit.
        seed: keys every random draw.
        device: where batches go; default: where the purifier's own tensors are, else the CPU.
        strict: raise at the first damaged image instead of putting it aside.
        dry_run: write nothing, and return an estimate of time and disk space.
        report: write ``report.html``.
        progress: show a progress bar with files per second and time left.
        rank, world_size: this process takes the units ``rank, rank + world_size, ...``; default: the environment
            variables ``RANK`` and ``WORLD_SIZE``, else all units. Whichever process sees the last unit done finishes.
        engine: ``"local"``, or ``"ray"`` for a Ray cluster (extra ``ray``), whose nodes must all see ``out``.
        actors: of Ray; default: one for each core, or with a CUDA ``device`` one for each GPU.
        image_key: the image column of a Hugging Face data set, the image extension in tar shards; default: the only
            one there is.
        label_key: the column of the class, the extension of the class member; default: the only ``ClassLabel``,
            ``"cls"``.
        options: for fsspec, where ``source`` or ``out`` is a URL.

    Raises:
        SourceError: no such source, no image in it, or ``source`` and ``out`` lie inside each other.
        ManifestMismatchError: ``out`` holds something else, or was made by another configuration.
        CorruptImageError: a damaged image, with ``strict``.
        PurifierError: the purifier returned another shape or dtype.
        WorkerDiedError: a worker process was killed, most likely for want of memory.
        OutputError: ``out`` cannot be written.
        StoreError: an object store refused a request, or failed it six times.
        MissingExtraError: a package for this kind of source, store or engine is not installed.
    """
    started = time.perf_counter()
    rank, world_size = _place(rank, world_size)
    for name, value in (("batch_size", batch_size), ("unit_size", unit_size), ("workers", workers), ("actors", actors)):
        if value is not None and value < 1:
            raise ValueError(f"expected {name} of at least 1, got {value}.")
    if engine not in ("local", "ray"):
        raise ValueError(f"expected engine 'local' or 'ray', got {engine!r}.")
    images = open_source(source, image_key, label_key, options)
    purifier = chosen(purifier, images, seed=seed, workers=workers, progress=progress)
    place, memory = _output(images, out, world_size)
    classes, bar = None, None
    wanted = to_fit(purifier)
    if wanted:
        with closing(Layout(place, options)) as layout:
            _check_apart(images, layout)
            check_free(layout)
        fit = {"seed": seed, "device": device, "world_size": world_size, "dry_run": dry_run, "progress": progress}
        purifier, classes, bar = fit_first(wanted, images, place, **fit)
    where = device_of(purifier) if device is None else torch.device(device)
    if dry_run:
        with quiet(where):
            return estimate(images, place, own_copy(purifier, seed, where), where, workers or _cores())
    layout = Layout(place, options)
    _check_apart(images, layout)
    job = Job(
        source=images,
        layout=layout,
        purifier=own_copy(purifier, seed, where if engine == "local" else torch.device("cpu")),
        batch_size=batch_size,
        workers=workers or (_cores() if engine == "local" else 1),
        device=where,
        strict=strict,
        seed=seed,
        processes=engine == "local",
        classes=classes,
    )
    try:
        with clear_errors(place):
            by_class = {} if classes is None else {"classes": list(classes)}
            claim(layout, describe(images, job.purifier, seed, unit_size) | by_class)
            units = plan(images, unit_size)
            mine = units[rank::world_size]
            done = layout.done()  # before the next line: whoever finishes writes the manifest first, then removes marks
            todo = [] if layout.finished else [unit for unit in mine if unit.number not in done]
            if todo:
                for folder in folders(images):
                    layout.store.make(folder)
        if todo:
            with _progress_bar(mine, todo, progress, bar) as bar:
                if engine == "ray":
                    gpus = 1.0 if where.type == "cuda" else 0.0
                    run_on_ray(job, [unit.number for unit in todo], unit_size, actors, gpus, bar.update)
                else:
                    clean_units(job, todo, bar.update)
        with clear_errors(place), quiet(where):
            complete, summary = conclude(layout, len(units), images, report and memory is None)
            dataset = load(layout.store, images, in_memory=True) if memory else None
    finally:
        if bar is not None:
            bar.close()
        layout.close()
        if memory:
            memory.cleanup()
    if complete:
        _warn_of(summary)
    seconds = time.perf_counter() - started
    return CleanResult(
        out=None if memory else _named(layout, ""),
        manifest=None if memory else _named(layout, MANIFEST),
        report=_named(layout, REPORT) if not memory and layout.store.exists(REPORT) else None,
        counts=dict(summary.counts),
        seconds=seconds,
        images_per_second=sum(len(unit.tasks) for unit in todo) / seconds,
        complete=complete,
        dataset=dataset,
        source=images,
        store=None if memory else layout.store,
    )


def _output(
    source: Source, out: str | os.PathLike[str] | None, world_size: int
) -> tuple[str, tempfile.TemporaryDirectory | None]:
    """``(where to write, the temporary folder around it or None)``."""
    if out is not None:
        return (out, None) if is_remote(out) else (os.path.realpath(out), None)
    if type(source).__name__ not in ("ImageDataset", "HuggingFaceDataset"):
        raise SourceError("expected an output for files and shards, got None: name a folder or a URL.")
    if world_size > 1:
        raise ValueError(f"expected one process for a result in memory, got world_size={world_size}: name an output.")
    memory = tempfile.TemporaryDirectory(prefix="puretransforms-")
    return os.path.join(os.path.realpath(memory.name), "out"), memory  # noqa: PTH118


def _named(layout: Layout, name: str) -> Path | str:
    if layout.store.remote:
        return layout.store.path(name).rstrip("/")
    return Path(layout.store.root, name)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    rank = int(os.environ.get("RANK", "0")) if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size
    if not 0 <= rank < world_size:
        raise ValueError(f"expected 0 <= rank < world_size, got rank {rank} of {world_size}: ranks count from 0.")
    return rank, world_size


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_apart(source: Source, layout: Layout) -> None:
    out, base = layout.store.root, source.base
    for target in (out, layout.aside.root) if base else ():
        if is_within(target, base) or is_within(base, target):
            raise SourceError(
                f"expected source and output apart, got source {base!r} and {target!r}: give an output folder "
                "beside the source."
            )
    if layout.store.remote:
        return
    if Path(out).exists() and not Path(out).is_dir():
        raise SourceError(f"expected a folder to write to, got the file {out!r}: give another name.")
    if base and not is_remote(base) and Path(base, STATE).exists():
        raise SourceError(
            f"expected a source of images, got {base!r}, the unfinished output of another cleaning: finish that first "
            f"(or remove the folder {STATE} in it)."
        )


def _progress_bar(mine: list[Unit], todo: list[Unit], progress: bool, fit: tqdm | None) -> tqdm:
    """A new bar, or that of the ``fit`` with what is to be cleaned added."""
    total, left = (sum(len(unit.tasks) for unit in units) for units in (mine, todo))
    if fit is None:
        return tqdm(total=total, initial=total - left, unit="img", disable=not progress)
    if progress:
        fit.total, fit.n, fit.initial = fit.total + total, fit.n + total - left, fit.initial + total - left
    return fit


def _warn_of(summary: Summary) -> None:
    notes = (
        (summary.counts["quarantined"], "damaged image(s) were put aside in the quarantine folder"),
        (summary.counts["skipped"], "link(s) or file(s) were not read"),
        (summary.notes["frames"], "image(s) have several frames, of which only the first was kept"),
        (summary.notes["unpurified"], "file(s) that look like images were copied unpurified"),
    )
    happened = [f"{number} {what}" for number, what in notes if number]
    if happened:
        warn(f"{'; '.join(happened)}: see the manifest for each.", UntouchedImageWarning, stacklevel=3)

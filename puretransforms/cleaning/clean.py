"""``clean(source, out, purifier)``: images in, the same images purified out."""

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from tqdm import tqdm

from ..data.open_source import open_source
from ..data.sources.base import Source
from ..data.sources.folder import is_within
from ..errors import SourceError, UntouchedImageWarning
from ..functional import checks
from ..functional.devices import check_available, device_named
from ..storage.remote import is_remote
from .engines.local import clean_units, clear_errors, quiet
from .engines.ray import run_on_ray
from .estimate import DryRun, estimate
from .fitting import class_numbers, fit_first
from .manifest import MANIFEST, REPORT, STATE, Layout, check_free, claim, describe
from .pipeline import Job
from .purifier import Purifier, chosen, device_of, own_copy
from .result import CleanResult as CleanResult
from .result import conclude
from .summary import Summary
from .writers import writer_for
from .writers.base import Unit, Writer


def clean(
    source: Any,
    out: str | os.PathLike[str],
    purifier: Purifier | str | Sequence[Purifier | str],
    *,
    batch_size: int = 256,
    workers: int | None = None,
    unit_size: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
    strict: bool = False,
    report: bool = True,
    progress: bool = True,
    rank: int | None = None,
    world_size: int | None = None,
    engine: str = "local",
    actors: int | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> CleanResult:
    """Purify every image of ``source``: a folder, a dataset of torchvision or Hugging Face, WebDataset shards.

    A folder gives the same tree: class folders and names stay (``a/b.jpg`` becomes ``a/b.png``), files that are no
    images are copied byte for byte. A torchvision dataset gives an ``ImageFolder`` with the same targets, a Hugging
    Face dataset Parquet with the same features, tar shards the same shards with new image members. All get
    ``manifest.jsonl`` (a row for every source file or row), ``run.json`` (the configuration) and ``report.html``; all
    images are lossless PNG. Damaged images are put aside in ``<out>.quarantine``, and so
    are those that carry a trigger by the scan of ``"auto"``. Alpha, ICC profile and EXIF are kept
    and the EXIF orientation is applied; of several frames the first is taken; 16-bit and float pixels are brought to
    8 bits.

    May be killed at any moment: the same call again goes on where it was, and ends with the same bytes. The bytes
    depend on the source, the purifier, ``seed`` and ``unit_size`` alone: not on ``workers``, ``engine``, ``rank`` or
    ``world_size``, nor on ``batch_size`` if the purifier treats each image by itself and draws by ``seed``, as
    every transform of this library does (up to the rounding of a network at another batch size or on another device).

    Args:
        source: see :func:`puretransforms.data.open_source.open_source`: a folder laid out as for
            ``torchvision.datasets.ImageFolder`` or any tree of images, also by URL; shards such as
            ``"shards/{000..099}.tar"``; a map-style dataset; a ``datasets.Dataset``; or a name such as
            ``"hf:cifar10#train"`` or ``"torchvision:CIFAR10:data#train"``.
        out: a new or empty folder (or URL), or the output of the same call; not in ``source`` nor around it. See
            :func:`clean_in_memory` for a dataset that stays in memory.
        purifier: callable from uint8 ``[B, C, H, W]``, C = 1 or 3, to the same. A copy of it is used, in eval mode;
            wherever it, or a transform inside it, has an attribute ``seed`` that is ``None``, that becomes ``seed``.
            One that reads labels (:attr:`PureTransform.reads_labels`) is given those of the images, by the numbers of
            the source or by the names of the classes that it was fitted to. One that is not fitted, such as
            ``VAEPurify(weights=None)``, is fitted to ``source`` first, and kept in ``<out>.purifier``. Text is what
            :func:`puretransforms.create` takes, such as ``"jpeg:quality=10"``, or ``"auto"``, which scans ``source``,
            puts aside what no purifier cures and purifies the rest as the verdict advises. A list is a chain.
        batch_size: at most so many images of one size at a time.
        workers: processes that read and write (default: one for each core this process may use); with
            ``engine="ray"`` threads of each actor (default: 1).
        unit_size: files that are finished together; a killed run loses at most the open units. A tar shard is always
            one unit.
        seed: keys every random draw.
        device: where batches go; default: where the purifier's own tensors are, else the CPU.
        strict: raise at the first damaged image instead of putting it aside.
        report: write ``report.html``.
        progress: show a progress bar with files per second and time left.
        rank, world_size: this process takes the units ``rank, rank + world_size, ...``; default: the environment
            variables ``RANK`` and ``WORLD_SIZE``, else all units. Whichever process sees the last unit done finishes.
            A purifier that is not fitted is fitted by rank 0, for which the others wait.
        engine: ``"local"``, or ``"ray"`` for a Ray cluster (extra ``ray``), whose nodes must all see ``out``.
        actors: of Ray; default: one for each core, or with a CUDA ``device`` one for each GPU.
        image_key: the image column of a Hugging Face dataset, the image extension in tar shards; default: the only
            one there is.
        label_key: the column of the class, the extension of the class member; default: the only ``ClassLabel``,
            ``"cls"``.
        options: for fsspec, where ``source`` or ``out`` is a URL.

    Raises:
        SourceError: no such source, no image in it, or ``source`` and ``out`` lie inside each other.
        ManifestMismatchError: ``out`` holds something else, or was made by another configuration.
        CorruptImageError: a damaged image, with ``strict``.
        PurifierError: the purifier returned another shape or dtype.
        LabelError: a purifier reads labels, and an image has no class, or one that it was not fitted to.
        NotFittedError: a purifier inside a ``v2.Compose`` that is not fitted.
        RegistryError: no purifier of this name.
        HardwareError: no such device on this machine.
        WorkerDiedError: a worker process was killed, most likely for want of memory.
        OutputError: ``out`` cannot be written.
        StoreError: an object store refused a request, or failed it six times.
        MissingExtraError: a package for this kind of source, store or engine is not installed.
    """
    started = time.perf_counter()
    rank, world_size = _place(rank, world_size)
    _check_sizes(batch_size=batch_size, unit_size=unit_size, workers=workers, actors=actors)
    local = checks.choice("engine", engine, ("local", "ray")) == "local"
    images = open_source(source, image_key, label_key, options)
    with ExitStack() as stack:
        writer = writer_for(images, stack.enter_context(closing(Layout(_resolved(out), options))))
        ready = _prepare(writer, purifier, options, seed, device, rank, progress)
        job = Job(
            writer=writer,
            purifier=own_copy(ready.purifier, seed, ready.device if local else torch.device("cpu")),
            batch_size=batch_size,
            workers=workers or (_cores() if local else 1),
            device=ready.device,
            strict=strict,
            seed=seed,
            processes=local,
            labels=ready.labels,
        )
        with clear_errors(writer.layout.store.root):
            units, mine, todo = _begin(job, ready.scan, unit_size, rank, world_size)
        if todo or ready.bar is not None:
            bar = stack.enter_context(_progress_bar(mine, todo, progress, ready.bar))
        if todo and local:
            clean_units(job, todo, bar.update)
        elif todo:
            run_on_ray(job, [unit.number for unit in todo], unit_size, actors, bar.update)
        with clear_errors(writer.layout.store.root), quiet(job.device):
            complete, summary = conclude(writer, len(units), report)
    if complete and (remarks := summary.remarks(writer.layout.aside.root)):
        warn(f"{'; '.join(remarks)}: see the manifest for each.", UntouchedImageWarning, stacklevel=2)
    files = sum(len(unit.tasks) for unit in todo)
    return _result(writer, ready.scan, summary, complete, files, started)


def clean_in_memory(
    dataset: Any,
    purifier: Purifier | str | Sequence[Purifier | str],
    *,
    batch_size: int = 256,
    workers: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    strict: bool = False,
    progress: bool = True,
    image_key: str | None = None,
    label_key: str | None = None,
) -> Any:
    """Purify a dataset of torchvision or Hugging Face and give it back in memory: :func:`clean` without an output.

    A dataset that holds its pixels in ``data``, as ``CIFAR10`` does, comes back as one of its own type; another
    map-style dataset as a :class:`~puretransforms.data.sources.map_style.PurifiedDataset`, a ``datasets.Dataset`` as
    such. Targets, order and transforms stay; samples with damaged images are left out, with a warning.

    Args:
        dataset: a map-style dataset, a ``datasets.Dataset``, or the name of one.
        purifier, batch_size, workers, seed, device, strict, progress, image_key, label_key: see :func:`clean`.

    Raises:
        SourceError: files or shards, which need an output.
    """
    source = open_source(dataset, image_key, label_key)
    with tempfile.TemporaryDirectory(prefix="puretransforms-") as folder:
        out = Path(folder, "out")
        if not writer_for(source, Layout(out)).loads_into_memory:
            raise SourceError(
                "expected a dataset to clean in memory, got files or shards: call clean(source, out, purifier) with an "
                "output folder or URL."
            )
        result = clean(
            source,
            out,
            purifier,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            device=device,
            strict=strict,
            report=False,
            progress=progress,
            rank=0,
            world_size=1,
        )
        return result.writer.load(in_memory=True)


def estimate_clean(
    source: Any,
    out: str | os.PathLike[str],
    purifier: Purifier | str | Sequence[Purifier | str],
    *,
    workers: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    image_key: str | None = None,
    label_key: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> DryRun:
    """The time and the disk space that :func:`clean` with these arguments would take; nothing is written.

    A purifier that is not fitted is fitted first, unless ``<out>.purifier`` holds it: the estimate is of the cleaning
    alone.

    Args:
        source, out, purifier, workers, seed, device, progress, image_key, label_key, options: see :func:`clean`.
    """
    _check_sizes(workers=workers)
    images = open_source(source, image_key, label_key, options)
    with closing(Layout(_resolved(out), options)) as layout:
        writer = writer_for(images, layout)
        ready = _prepare(writer, purifier, options, seed, device, 0, progress, keep=False)
        if ready.bar is not None:
            ready.bar.close()
        with quiet(ready.device):
            own = own_copy(ready.purifier, seed, ready.device)
            place, scanned = layout.store.root, (writer.suspects, ready.scan)
            return estimate(images, place, own, ready.device, workers or _cores(), ready.labels, *scanned)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A fitted purifier, the device of its batches, the number of each class if it reads labels, its scan, its bar."""

    purifier: Purifier
    device: torch.device
    labels: dict[str, int] | None
    scan: dict[str, Any] | None
    bar: tqdm | None


def _prepare(
    writer: Writer,
    purifier: Any,
    options: Mapping[str, Any] | None,
    seed: int,
    device: str | torch.device | None,
    rank: int,
    progress: bool,
    keep: bool = True,
) -> _Ready:
    """Choose the purifier, and fit it where it has to be fitted first."""
    if device is not None:
        check_available(device_named(device))
    purifier = chosen(purifier)
    _check_apart(writer.source, writer.layout)
    if keep and not getattr(purifier, "fitted", True):
        check_free(writer.layout)
    purifier, said, bar = fit_first(
        purifier,
        writer.source,
        writer.layout.store.root,
        options=options,
        seed=seed,
        device=device,
        rank=rank,
        keep=keep,
        progress=progress,
    )
    if said is not None:
        writer.suspects = said.get("dropped", {})
        said = said | {"dropped": _counted(writer.suspects)}
    where = device_of(purifier) if device is None else torch.device(device)
    return _Ready(purifier, where, class_numbers(purifier, writer.source), said, bar)


def _begin(
    job: Job, scan: dict[str, Any] | None, unit_size: int, rank: int, world_size: int
) -> tuple[list[Unit], list[Unit], list[Unit]]:
    """Claim the output: ``(all units, those of this rank, those of them that are still to do)``."""
    writer, layout = job.writer, job.writer.layout
    found: dict[str, Any] = {} if job.labels is None else {"classes": dict(job.labels)}
    found |= {} if scan is None else {"scan": scan}
    claim(layout, describe(writer.source, job.purifier, job.seed, unit_size) | found)
    units = writer.plan(unit_size)
    mine = units[rank::world_size]
    done = layout.done()  # before the next line: whoever finishes writes the manifest first, then removes marks
    todo = [] if layout.finished else [unit for unit in mine if unit.number not in done]
    for folder in writer.folders if todo else ():
        layout.store.make(folder)
    return units, mine, todo


def _counted(dropped: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What ``run.json`` says of the images that are put aside; the manifest names them."""
    by = Counter(", ".join(names) for names in dropped.values())
    digest = hashlib.sha256(json.dumps(dropped, sort_keys=True).encode()).hexdigest()
    return {"images": len(dropped), "by": dict(sorted(by.items())), "sha256": digest}


def _result(
    writer: Writer, scan: dict[str, Any] | None, summary: Summary, complete: bool, files: int, started: float
) -> CleanResult:
    layout, seconds = writer.layout, time.perf_counter() - started
    return CleanResult(
        out=_named(layout, ""),
        manifest=_named(layout, MANIFEST),
        report=_named(layout, REPORT) if layout.store.exists(REPORT) else None,
        counts=dict(summary.counts),
        seconds=seconds,
        images_per_second=files / seconds,
        complete=complete,
        unchanged=summary.unchanged,
        scan=scan,
        writer=writer,
    )


def _resolved(out: str | os.PathLike[str]) -> str:
    return os.fspath(out) if is_remote(out) else os.path.realpath(out)


def _check_sizes(**sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None:
            checks.whole(name, value, least=1)


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

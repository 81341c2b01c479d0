"""``clean(source, out, purifier)``: a folder of images in, the same folder purified out."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from warnings import catch_warnings, filterwarnings, warn

import torch
from tqdm import tqdm

from ..data.folder import Listing, is_within, list_folder
from ..errors import SourceError, UntouchedImageWarning
from .engine import Engine
from .estimate import DryRun, estimate
from .finish import conclude
from .manifest import Layout, claim, describe
from .names import STATE, output_paths
from .purifier import Purifier, device_of, own_copy, torch_threads
from .summary import Summary
from .units import Unit, split
from .verify import VerifyResult, verify


@dataclass(frozen=True, slots=True)
class CleanResult:
    """What a call of :func:`clean` did.

    Attributes:
        out: the output folder.
        manifest: its ``manifest.jsonl`` (there when ``complete``).
        report: its ``report.html``, or ``None`` if there is none.
        counts: number of source files by status (``purified``, ``copied``, ``quarantined``, ``skipped``), as far as
            they are done.
        seconds: duration of this call.
        images_per_second: files that this call dealt with, over ``seconds``.
        complete: ``False`` while units of other ranks are open.
    """

    out: Path
    manifest: Path
    report: Path | None
    counts: dict[str, int]
    seconds: float
    images_per_second: float
    complete: bool

    def verify(self) -> VerifyResult:
        """Re-read everything: see :func:`puretransforms.cleaning.verify.verify`."""
        return verify(self.out)


def clean(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    purifier: Purifier,
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
) -> CleanResult | DryRun:
    """Purify every image below ``source`` into the same tree below ``out``, as lossless PNG.

    ``out`` gets the same class folders and names (``a/b.jpg`` becomes ``a/b.png``), files that are no images byte for
    byte, and ``manifest.jsonl`` (a row for every source file), ``run.json`` (the configuration) and ``report.html``.
    Damaged images are put aside in ``<out>.quarantine``. Alpha, ICC profile and EXIF are kept and the EXIF orientation
    is applied; of several frames the first is taken; 16-bit and float pixels are brought to 8 bits.

    May be killed at any moment: the same call again goes on where it was, and ends with the same bytes. The bytes
    depend on the source, the purifier, ``seed`` and ``unit_size`` alone: not on ``workers``, ``rank`` or
    ``world_size``, nor on ``batch_size`` if the purifier treats each image by itself and draws by ``seed``, as
    every transform of this library does (up to the rounding of a network at another batch size or on another device).

    Args:
        source: a folder laid out as for ``torchvision.datasets.ImageFolder``, or any tree of images.
        out: a new or empty folder, or the output of the same call; not in ``source`` nor around it.
        purifier: callable from uint8 ``[B, C, H, W]``, C = 1 or 3, to the same. A copy of it is used, in eval mode;
            wherever it, or a transform inside it, has an attribute ``seed`` that is ``None``, that becomes ``seed``.
        batch_size: at most so many images of one size at a time.
        workers: processes that read and write (default: one for each core this process may use).
        unit_size: files that are finished together; a killed run loses at most the open units.
        seed: keys every random draw.
        device: where batches go; default: where the purifier's own tensors are, else the CPU.
        strict: raise at the first damaged image instead of putting it aside.
        dry_run: write nothing, and return an estimate of time and disk space.
        report: write ``report.html``.
        progress: show a progress bar with files per second and time left.
        rank, world_size: this process takes the units ``rank, rank + world_size, ...``; default: the environment
            variables ``RANK`` and ``WORLD_SIZE``, else all units. Whichever process sees the last unit done finishes.

    Raises:
        SourceError: no such folder, no image in it, or ``source`` and ``out`` lie inside each other.
        ManifestMismatchError: ``out`` holds something else, or was made by another configuration.
        CorruptImageError: a damaged image, with ``strict``.
        PurifierError: the purifier returned another shape or dtype.
        WorkerDiedError: a worker process was killed, most likely for want of memory.
    """
    started = time.perf_counter()
    rank, world_size = _place(rank, world_size)
    for name, value in (("batch_size", batch_size), ("unit_size", unit_size), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"expected {name} of at least 1, got {value}.")
    workers = workers or _cores()
    listing = list_folder(source)
    layout = Layout(Path(os.path.realpath(out)))
    _check_apart(listing.root, layout)
    where = device_of(purifier) if device is None else torch.device(device)
    with catch_warnings(), torch.random.fork_rng([where] if where.type == "cuda" else []):
        filterwarnings("ignore", module=r"PIL\.")  # odd files; what matters of it stands in the manifest
        purifier = own_copy(purifier, seed, where)
        if dry_run:
            return estimate(listing, layout.out, purifier, where, workers)
        claim(layout, describe(listing, purifier, seed, unit_size))
        units = split(listing.entries, output_paths(listing), unit_size)
        mine = units[rank::world_size]
        done = layout.done()  # before the next line: whoever finishes writes the manifest first, then removes marks
        todo = [] if layout.manifest.exists() else [unit for unit in mine if unit.number not in done]
        if todo:
            _make_folders(layout, listing)
            with torch_threads(purifier, where), _progress_bar(mine, todo, progress) as bar:
                Engine(
                    layout,
                    listing.root,
                    purifier,
                    batch_size=batch_size,
                    workers=workers,
                    device=where,
                    strict=strict,
                    seed=seed,
                    advance=bar.update,
                ).run(todo)
        complete, summary = conclude(layout, len(units), listing.root, report)
    if complete:
        _warn_of(summary)
    seconds = time.perf_counter() - started
    return CleanResult(
        out=layout.out,
        manifest=layout.manifest,
        report=layout.report if layout.report.exists() else None,
        counts=dict(summary.counts),
        seconds=seconds,
        images_per_second=sum(len(unit.tasks) for unit in todo) / seconds,
        complete=complete,
    )


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    rank = int(os.environ.get("RANK", "0")) if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size
    if not 0 <= rank < world_size:
        raise ValueError(f"expected 0 <= rank < world_size, got rank {rank} of {world_size}: ranks count from 0.")
    return rank, world_size


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_apart(root: str, layout: Layout) -> None:
    for target in (os.fspath(layout.out), os.fspath(layout.quarantine)):
        if is_within(target, root) or is_within(root, target):
            raise SourceError(
                f"expected source and output apart, got source {root!r} and {target!r}: give an output folder "
                "beside the source."
            )
    if layout.out.exists() and not layout.out.is_dir():
        raise SourceError(f"expected a folder to write to, got the file {str(layout.out)!r}: give another name.")
    if Path(root, STATE).exists():
        raise SourceError(
            f"expected a source of images, got {root!r}, the unfinished output of another cleaning: finish that first "
            f"(or remove the folder {STATE} in it)."
        )


def _make_folders(layout: Layout, listing: Listing) -> None:
    """Mirror every folder, empty ones too: a class that vanishes would shift the labels of ``ImageFolder``."""
    for folder in ("", *listing.folders):
        (layout.out / folder).mkdir(parents=True, exist_ok=True)


def _progress_bar(mine: list[Unit], todo: list[Unit], progress: bool) -> tqdm:
    total, left = (sum(len(unit.tasks) for unit in units) for units in (mine, todo))
    return tqdm(total=total, initial=total - left, unit="img", disable=not progress)


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

"""A poisoned dataset on disk: an ImageFolder of lossless PNG, and ``poison.json``, which says what was done to it.

:func:`export` writes it; :func:`load_poison_record` reads the record back, and holds the files to what it says.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import PIL.Image
import torch
from torchvision.transforms.v2.functional import to_pil_image

from ..data.images import round_to_uint8
from ..errors import ManifestMismatchError, SourceError
from ..functional.perturbation import excess, magnitude, quantize
from ..functional.shapes import Bool, Int, Tensor
from .base import open_image, open_images
from .dataset import PoisonedDataset

FORMAT = 1
RECORD_NAME = "poison.json"

# --- writing ----------------------------------------------------------------------------------------------------------


def export(dataset: PoisonedDataset, directory: str | Path, *, workers: int = 2) -> Path:
    """Write a poisoned dataset to ``directory``, all of it or nothing.

    The folder of a sample is the label it carries now, its name the stem of its source file (for an ImageFolder) or its
    zero-padded index; a second file of the same name in a folder gets ``-index`` after it. Folder names are the class
    names if those sort in label order, else they start with the label, so that ImageFolder finds the same labels. Every
    class has a folder, also an empty one. Everything is written beside ``directory`` and moved there at the end.

    Args:
        dataset: images of any sizes; floats are rounded to 8 bits.
        directory: new or empty.
        workers: threads that decode and encode.

    Raises:
        TypeError: a dataset that is not poisoned.
        ManifestMismatchError: ``directory`` holds files already.
        CorruptImageError: the file of a sample cannot be decoded.
        SourceError: ``directory`` lies inside the image folder that is being poisoned.
    """
    if not isinstance(dataset, PoisonedDataset):
        raise TypeError(
            f"expected a PoisonedDataset to export, got {type(dataset).__name__}: write "
            "export(PoisonedDataset(dataset, poison), directory)."
        )
    target = check_target(dataset.dataset, directory)
    folders, files = folder_names(dataset), file_names(dataset)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for folder in folders:
        (partial / folder).mkdir(parents=True)
    sizes = [torch.empty(0, 3, dtype=torch.float64)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for indices in blocks(dataset):
            samples = _spread(pool, workers, dataset.clean, indices)
            images, batches = dataset.poison_block(indices, [image for image, _ in samples])
            sizes += [_sizes(*batch) for batch in batches]
            paths = [partial / files[i] for i in indices]
            _spread(pool, workers, _save, list(zip(images, paths, strict=True)))
    (partial / RECORD_NAME).write_text(json.dumps(_record(dataset, folders, files, torch.cat(sizes)), indent=1))
    if target.exists():
        target.rmdir()
    partial.rename(target)
    return target


def blocks(dataset: PoisonedDataset) -> Iterator[list[int]]:
    """Consecutive indices, about four million pixel values at a time."""
    values = open_images(dataset.clean(0)[0])[0].numel()
    size = max(1, min(1024, (1 << 22) // values))
    for first in range(0, len(dataset), size):
        yield list(range(first, min(first + size, len(dataset))))


def folder_names(dataset: PoisonedDataset) -> list[str]:
    """One folder for each class, in label order also when sorted by name."""
    count = dataset.poison.num_classes
    width = len(str(count - 1))
    if not dataset.classes:
        return [f"{label:0{width}d}" for label in range(count)]
    names = [re.sub(r"[/\\\0]", "_", name).strip(".") for name in dataset.classes]
    if names == sorted(set(names)) and all(names):
        return names
    return [f"{label:0{width}d}-{name}" for label, name in enumerate(names)]


def file_names(dataset: PoisonedDataset) -> list[str]:
    """The path of every sample below the folder, ``class/name.png``; samples that keep their label keep their name."""
    folders, width = folder_names(dataset), len(str(len(dataset) - 1))
    source = getattr(dataset.dataset, "samples", None)
    stems = [Path(path).stem for path, _ in source] if source else [f"{i:0{width}d}" for i in range(len(dataset))]
    targets = dataset.targets.tolist()
    names, used = [""] * len(dataset), set()
    moved = dataset.targets != dataset.original_targets
    for i in torch.argsort(moved, stable=True).tolist():
        name = f"{folders[targets[i]]}/{stems[i]}"
        while name in used:
            name = f"{name}-{i}"
        used.add(name)
        names[i] = f"{name}.png"
    return names


def check_target(source: Any, directory: str | Path) -> Path:
    """The absolute path of ``directory``, if what is made of the dataset ``source`` may be exported there."""
    target = Path(directory).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ManifestMismatchError(
            f"expected a new or empty folder to export to, got {target}, which holds something: name another."
        )
    root = getattr(source, "root", None)
    if hasattr(source, "samples") and root is not None and target.is_relative_to(Path(root).absolute()):
        raise SourceError(f"expected a folder outside the source {root}, got {target}: name one that is not inside it.")
    return target


def _spread(pool: ThreadPoolExecutor, workers: int, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """``[work(item) for item in items]`` on all threads, a few large portions each."""
    step = -(-len(items) // (4 * max(1, workers)))
    portions = [items[i : i + step] for i in range(0, len(items), step)]
    return [result for part in pool.map(lambda portion: [work(item) for item in portion], portions) for result in part]


def _sizes(clean: Tensor, poisoned: Tensor) -> Tensor:
    """Perturbation sizes ``[P, 3]``: linf, l2, mean square."""
    delta = open_images(poisoned)[0] - open_images(clean)[0]
    l2 = magnitude(delta, "l2")
    return torch.stack((magnitude(delta, "linf"), l2, l2**2 / delta[0].numel()), dim=1)


def _save(job: tuple[Any, Path]) -> None:
    image, path = job
    if not isinstance(image, PIL.Image.Image):
        colour = open_image(image)[0]
        image = to_pil_image(colour if colour.dtype == torch.uint8 else round_to_uint8(colour))
    image.save(path, "PNG", compress_level=1)  # lossless at any level; 1 is the fastest, and no larger on small images


def _record(dataset: PoisonedDataset, folders: list[str], files: list[str], sizes: Tensor) -> dict[str, Any]:
    poison = dataset.poison
    psnr = -10 * torch.log10(sizes[:, 2].mean()).item() if len(sizes) and sizes[:, 2].any() else None
    rows = zip(
        files, dataset.mask.tolist(), dataset.cover_mask.tolist(), dataset.original_targets.tolist(), strict=True
    )
    return {
        "format": FORMAT,
        "poison": {"class": type(poison).__name__, "repr": repr(poison), "arguments": poison.arguments},
        "epsilon": poison.epsilon,
        "norm": poison.norm,
        "quantize": poison.quantize,
        "rate": dataset.rate,
        "seed": dataset.seed,
        "classes": folders,
        "measured": {
            "poisoned": len(sizes),
            "linf_max": sizes[:, 0].max().item() if len(sizes) else None,
            "l2_mean": sizes[:, 1].mean().item() if len(sizes) else None,
            "psnr_db": psnr,
        },
        "versions": {name: version(name) for name in ("puretransforms", "torch", "torchvision", "numpy", "pillow")},
        "files": {
            name: {"index": i, "poisoned": poisoned, "cover": cover, "original_label": label}
            for i, (name, poisoned, cover, label) in enumerate(rows)
        },
    }


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoisonRecord:
    """What an exported dataset was made of; row ``i`` of every table is sample ``i`` of the clean dataset."""

    poison: str  # class name
    arguments: dict[str, Any]  # of its constructor
    epsilon: float | None
    norm: str | None
    quantize: str | None
    rate: float
    seed: int  # of the choice of samples
    classes: list[str]  # folder names in label order
    files: list[str]  # class/name.png
    mask: Bool[Tensor, " n"]
    cover_mask: Bool[Tensor, " n"]
    original_targets: Int[Tensor, " n"]
    targets: Int[Tensor, " n"]
    measured: dict[str, Any]
    versions: dict[str, str]


def load_poison_record(directory: str | Path, *, clean: Sequence[Any] | Any = None) -> PoisonRecord:
    """Read the ``poison.json`` of an exported dataset.

    Args:
        directory: what :func:`export` wrote.
        clean: the dataset that was poisoned, ``clean[i] -> (image, label)``. If given, every file is read and compared
            with it: poisoned ones must lie within the stored budget (L2 and RMS budgets: plus what rounding to 8 bits
            can add), and files without poison must be equal to it.

    Raises:
        ManifestMismatchError: no such record, one of another format, a listed file is missing, or a file breaks the
            stored budget.
    """
    root = Path(directory)
    stored = _read(root / RECORD_NAME)
    rows = sorted(stored["files"].items(), key=lambda item: item[1]["index"])
    record = PoisonRecord(
        poison=stored["poison"]["class"],
        arguments=stored["poison"]["arguments"],
        **{name: stored[name] for name in ("epsilon", "norm", "quantize", "rate", "seed", "classes")},
        files=[name for name, _ in rows],
        mask=torch.tensor([row["poisoned"] for _, row in rows]),
        cover_mask=torch.tensor([row["cover"] for _, row in rows]),
        original_targets=torch.tensor([row["original_label"] for _, row in rows]),
        targets=torch.tensor([stored["classes"].index(name.split("/")[0]) for name, _ in rows]),
        measured=stored["measured"],
        versions=stored["versions"],
    )
    missing = [name for name in record.files if not (root / name).is_file()]
    if missing:
        raise ManifestMismatchError(
            f"expected all {len(record.files)} files of {root / RECORD_NAME}, but {len(missing)} are missing "
            f"(first: {missing[0]}): export the dataset again."
        )
    if clean is not None:
        _check_files(root, record, clean)
    return record


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text())
        known = stored["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestMismatchError(
            f"expected a record of a poisoned dataset at {path}, got {type(error).__name__}: "
            "give the folder that export wrote."
        ) from error
    if not known:
        raise ManifestMismatchError(
            f"expected {path} in format {FORMAT}, got {stored['format']}: read it with the version that wrote it."
        )
    return stored


def _check_files(root: Path, record: PoisonRecord, clean: Any) -> None:
    if len(clean) != len(record.files):
        raise ManifestMismatchError(
            f"expected the {len(record.files)} samples that {root} was made from, got a dataset of {len(clean)}: "
            "give the same dataset."
        )
    for i, name in enumerate(record.files):
        x, _, _ = open_images(clean[i][0])
        with PIL.Image.open(root / name) as image:
            y = open_images(image)[0].to(x.dtype)
        if x.shape != y.shape:
            problem = f"of shape {list(y.shape[1:])} where the clean image has {list(x.shape[1:])}"
        elif record.mask[i]:
            over = (
                excess(y, x, cast(float, record.epsilon), record.norm, record.quantize).item() if record.norm else 0.0
            )
            problem = f"outside the stored budget ({record.norm} {record.epsilon}) by {over:.4g}" if over > 0 else ""
        else:
            same = torch.equal(y, quantize(x, "round")) or bool(record.cover_mask[i])
            problem = "" if same else "recorded as clean but different from the clean image"
        if problem:
            raise ManifestMismatchError(
                f"{root / name} is {problem}: the files are not those of the record, export again."
            )

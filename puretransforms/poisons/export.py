"""A poisoned data set on disk: an ImageFolder of lossless PNG, and ``poison.json`` that says what was done to it."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import torch

from ..errors import ManifestMismatchError, SourceError
from ..functional.perturbation import magnitude
from ..functional.shapes import Tensor
from .base import open_images
from .batch import colour_of, to_pil
from .record import FORMAT, RECORD_NAME

if TYPE_CHECKING:
    from .dataset import PoisonedDataset


def export_image_folder(dataset: "PoisonedDataset", directory: str | Path, *, workers: int = 2) -> Path:
    """Write a :class:`~puretransforms.poisons.dataset.PoisonedDataset` to ``directory``, all of it or nothing.

    The folder of a sample is the label it carries now, its name the stem of its source file (for an ImageFolder) or its
    zero-padded index; a second file of the same name in a folder gets ``-index`` after it. Folder names are the class
    names if those sort in label order, else they start with the label, so that ImageFolder finds the same labels. Every
    class has a folder, also an empty one. Everything is written beside ``directory`` and moved there at the end.

    Args:
        dataset: images of any sizes; floats are rounded to 8 bits.
        directory: new or empty.
        workers: threads that decode and encode.

    Raises:
        ManifestMismatchError: ``directory`` holds files already.
        SourceError: ``directory`` lies inside the image folder that is being poisoned.
    """
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


def blocks(dataset: "PoisonedDataset") -> Iterator[list[int]]:
    """Consecutive indices, about four million pixel values at a time."""
    values = open_images(dataset.clean(0)[0])[0].numel()
    size = max(1, min(1024, (1 << 22) // values))
    for first in range(0, len(dataset), size):
        yield list(range(first, min(first + size, len(dataset))))


def folder_names(dataset: "PoisonedDataset") -> list[str]:
    """One folder for each class, in label order also when sorted by name."""
    count = dataset.poison.num_classes
    width = len(str(count - 1))
    if not dataset.classes:
        return [f"{label:0{width}d}" for label in range(count)]
    names = [name if isinstance(name, str) else name[0] for name in dataset.classes]
    names = [re.sub(r"[/\\\0]", "_", name).strip(".") for name in names]
    if names == sorted(set(names)) and all(names):
        return names
    return [f"{label:0{width}d}-{name}" for label, name in enumerate(names)]


def file_names(dataset: "PoisonedDataset") -> list[str]:
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
    """The absolute path of ``directory``, if what is made of the data set ``source`` may be exported there."""
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
    image = image if isinstance(image, PIL.Image.Image) else to_pil(colour_of(image))
    image.save(path, "PNG", compress_level=1)  # lossless at any level; 1 is the fastest, and no larger on small images


def _record(dataset: "PoisonedDataset", folders: list[str], files: list[str], sizes: Tensor) -> dict[str, Any]:
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
        "versions": {name: _version(name) for name in ("puretransforms", "torch", "torchvision", "numpy", "pillow")},
        "files": {
            name: {"index": i, "poisoned": poisoned, "cover": cover, "original_label": label}
            for i, (name, poisoned, cover, label) in enumerate(rows)
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

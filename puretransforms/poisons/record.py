"""Reading ``poison.json`` back, and holding the files to what it says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from ..errors import ManifestMismatchError
from ..functional.perturbation import excess, quantize
from ..functional.shapes import Bool, Int, Tensor
from .base import open_images

FORMAT = 1
RECORD_NAME = "poison.json"


@dataclass(frozen=True)
class PoisonRecord:
    """What an exported data set was made of; row ``i`` of every table is sample ``i`` of the clean data set."""

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
    """Read the ``poison.json`` of an exported data set.

    Args:
        directory: what :meth:`~puretransforms.poisons.dataset.PoisonedDataset.export` wrote.
        clean: the data set that was poisoned, ``clean[i] -> (image, label)``. If given, every file is read and compared
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
            f"(first: {missing[0]}): export the data set again."
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
            f"expected a record of a poisoned data set at {path}, got {type(error).__name__}: "
            "give the folder that PoisonedDataset.export wrote."
        ) from error
    if not known:
        raise ManifestMismatchError(
            f"expected {path} in format {FORMAT}, got {stored['format']}: read it with the version that wrote it."
        )
    return stored


def _check_files(root: Path, record: PoisonRecord, clean: Any) -> None:
    if len(clean) != len(record.files):
        raise ManifestMismatchError(
            f"expected the {len(record.files)} samples that {root} was made from, got a data set of {len(clean)}: "
            "give the same data set."
        )
    for i, name in enumerate(record.files):
        x, _, _ = open_images(clean[i][0])
        with PIL.Image.open(root / name) as image:
            y = open_images(image)[0].to(x.dtype)
        if x.shape != y.shape:
            problem = f"of shape {list(y.shape[1:])} where the clean image has {list(x.shape[1:])}"
        elif record.mask[i]:
            over = excess(y, x, record.epsilon, record.norm, record.quantize).item() if record.norm else 0.0
            problem = f"outside the stored budget ({record.norm} {record.epsilon}) by {over:.4g}" if over > 0 else ""
        else:
            same = torch.equal(y, quantize(x, "round")) or bool(record.cover_mask[i])
            problem = "" if same else "recorded as clean but different from the clean image"
        if problem:
            raise ManifestMismatchError(
                f"{root / name} is {problem}: the files are not those of the record, export again."
            )

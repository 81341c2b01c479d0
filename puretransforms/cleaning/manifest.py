"""What stands beside the cleaned images: where it lies, what a row says, and which configuration made it."""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.folder import Listing
from ..errors import ManifestMismatchError
from .durable import write_durably
from .names import MANIFEST, REPORT, RUN, STATE
from .purifier import weights_sha256

FORMAT = 1
Row = dict[str, Any]

_EMPTY: Row = dict.fromkeys(
    ["path", "out", "status", "label", "unit", "sha256_in", "sha256_out", "width", "height", "mode", "psnr", "mean_abs"]
)
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Layout:
    """The names in and beside an output folder."""

    out: Path

    @property
    def manifest(self) -> Path:
        """One row for each source file; its presence means that the run has finished."""
        return self.out / MANIFEST

    @property
    def run(self) -> Path:
        """The configuration."""
        return self.out / RUN

    @property
    def report(self) -> Path:
        """Pictures and numbers for people."""
        return self.out / REPORT

    @property
    def state(self) -> Path:
        """Done-marks and temporary files; gone when the run has finished."""
        return self.out / STATE

    @property
    def quarantine(self) -> Path:
        """Damaged images, byte for byte, outside ``out`` so that ``ImageFolder`` does not take it for a class."""
        return self.out.with_name(self.out.name + ".quarantine")

    def mark(self, unit: int) -> Path:
        """The done-mark of a unit: its manifest rows."""
        return self.state / "units" / f"{unit:06d}.jsonl"

    def done(self) -> set[int]:
        """The units that carry a done-mark."""
        folder = self.state / "units"
        return {int(path.stem) for path in folder.glob("*.jsonl")} if folder.is_dir() else set()


def new_row(path: str, label: str, unit: int) -> Row:
    """A manifest row with every key that is always there.

    ``status`` is ``purified``, ``copied`` (no image: byte for byte), ``quarantined`` (damaged image: put aside byte
    for byte) or ``skipped`` (a link or device that was not read). ``width``, ``height`` are those of the output,
    ``mode`` that of the source file. ``psnr`` (dB, of the purified against the source pixels; null if they are equal)
    and ``mean_abs`` (mean absolute change in 0..255 units) leave alpha out. Where they apply: ``converted``,
    ``frames`` (of which the first was purified), ``reason``.
    """
    return {**_EMPTY, "path": path, "label": label, "unit": unit}


def to_line(row: Row) -> bytes:
    """A row as one line of JSON; pure ASCII, so that a file name of any bytes comes back (``os.fsencode``)."""
    return _encode(row).encode() + b"\n"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a manifest or done-mark, one at a time."""
    with path.open("rb") as lines:
        for line in lines:
            yield json.loads(line)


def describe(listing: Listing, purifier: Any, seed: int, unit_size: int) -> dict[str, Any]:
    """The configuration: everything that decides the bytes of the output, and nothing else (no times, no places)."""
    digest = hashlib.sha256()
    for entry in listing.entries:
        digest.update(os.fsencode(entry.path) + b"\0%d %s\n" % (entry.size, entry.kind.encode()))
    return {
        "format": FORMAT,
        "purifier": {
            "class": f"{type(purifier).__module__}.{type(purifier).__qualname__}",
            "repr": re.sub(r" at 0x[0-9a-f]+", "", repr(purifier)),
            "weights_sha256": weights_sha256(purifier),
        },
        "seed": seed,
        "unit_size": unit_size,
        "pixel_limit": Image.MAX_IMAGE_PIXELS,
        "source": {
            "files": len(listing.entries),
            "images": sum(entry.kind == "image" for entry in listing.entries),
            "bytes": sum(entry.size for entry in listing.entries),
            "sha256": digest.hexdigest(),
        },
        "versions": {name: version(name) for name in ("puretransforms", "torch", "torchvision", "pillow")}
        | {"python": platform.python_version()},
    }


def claim(layout: Layout, run: dict[str, Any]) -> None:
    """Make ``layout.out`` the output of the configuration ``run``, or accept that it already is.

    Raises:
        ManifestMismatchError: the folder holds something else, or the output of another configuration.
    """
    old_quarantine = layout.quarantine.exists()  # looked at first: another rank may claim at this moment
    if not layout.run.exists():
        foreign = [p.name for p in layout.out.iterdir() if p.name != STATE] if layout.out.exists() else []
        if foreign and not layout.run.exists():
            raise ManifestMismatchError(
                f"expected {str(layout.out)!r} to be empty or the output of an earlier call, found {foreign[0]!r} "
                f"in it and no {RUN}: give another output folder."
            )
        if old_quarantine and not layout.run.exists():
            raise ManifestMismatchError(
                f"expected no {str(layout.quarantine)!r} beside a new output folder: it is left from an earlier "
                "run; move it away or give another output folder."
            )
        layout.mark(0).parent.mkdir(parents=True, exist_ok=True)
        write_durably(layout.run, json.dumps(run, indent=2).encode() + b"\n", layout.state)
        return
    before = json.loads(layout.run.read_bytes())
    differing = sorted(_differences(before, run))
    if differing:
        advice = (
            "the source has changed since, so give another output folder"
            if all(name.startswith("source.") for name in differing)
            else "call it with the configuration in run.json, or give another output folder"
        )
        was, now = (_flat(side).get(differing[0]) for side in (before, run))
        raise ManifestMismatchError(
            f"expected {str(layout.out)!r} to be the output of this configuration, but {', '.join(differing)} differ "
            f"({differing[0]} was {was!r}, is {now!r}): {advice}."
        )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    old, new = _flat(before), _flat(now)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat

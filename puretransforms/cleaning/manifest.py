"""What stands beside the cleaned images: where it lies, what a row says, and which configuration made it."""

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.sources.base import Source
from ..errors import ManifestMismatchError
from ..storage.store import open_store
from .purifier import weights_sha256

MANIFEST, RUN, REPORT, STATE = "manifest.jsonl", "run.json", "report.html", ".puretransforms"
OURS = (MANIFEST, RUN, REPORT, STATE)
FORMAT = 1
Row = dict[str, Any]

_EMPTY: Row = dict.fromkeys(
    ["path", "out", "status", "label", "unit", "sha256_in", "sha256_out", "width", "height", "mode", "psnr", "mean_abs"]
)
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Layout:
    """The names in and beside an output folder.

    Attributes:
        store: the output.
        aside: damaged images and suspects, byte for byte, outside ``store`` so that ``ImageFolder`` does not take it
            for a class.
        scratch: a local folder for temporary files; on the file system of the output if that is local.
    """

    def __init__(self, out: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> None:
        self.store = open_store(out, options)
        self.aside = open_store(f"{self.store.root}.quarantine", options)
        if self.store.remote:
            self.scratch = Path(tempfile.mkdtemp(prefix="puretransforms-"))
        else:
            self.scratch = Path(self.store.path(STATE))

    @property
    def finished(self) -> bool:
        """Does the manifest stand? It comes last."""
        return self.store.exists(MANIFEST)

    def mark(self, unit: int) -> str:
        """The name of the done-mark of a unit, which holds its manifest rows."""
        return f"{STATE}/units/{unit:06d}.jsonl"

    def done(self) -> set[int]:
        """The units that carry a done-mark."""
        return {int(name[:-6]) for name in self.store.names(f"{STATE}/units") if name.endswith(".jsonl")}

    def close(self) -> None:
        """Remove temporary files that lie elsewhere than in the output."""
        if self.store.remote:
            shutil.rmtree(self.scratch, ignore_errors=True)


def new_row(path: str, label: str, unit: int) -> Row:
    """A manifest row with every key that is always there.

    ``status`` is ``purified``, ``copied`` (no image: byte for byte), ``quarantined`` (a damaged image or a suspect: put
    aside byte for byte), ``skipped`` (a link or device that was not read) or ``packed`` (a shard or Parquet file, whose
    images stand in the rows before: ``out`` is its name for all of them, ``member`` their place in it). ``width``,
    ``height`` are those of the output, ``mode`` that of the source file. ``psnr`` (dB, of the purified against the
    source pixels; null if they are equal) and ``mean_abs`` (mean absolute change in 0..255 units) leave alpha out.
    Where they apply: ``converted``, ``frames`` (of which the first was purified), ``reason``, ``suspect`` (put aside by
    a scan).
    """
    return {**_EMPTY, "path": path, "label": label, "unit": unit}


def to_line(row: Row) -> bytes:
    """A row as one line of JSON; pure ASCII, so that a file name of any bytes comes back (``os.fsencode``)."""
    return _encode(row).encode() + b"\n"


def read_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """The rows of a manifest or done-mark, one at a time."""
    return map(json.loads, lines)


def describe(source: Source, purifier: Any, seed: int, unit_size: int) -> dict[str, Any]:
    """The configuration: everything that decides the bytes of the output, and nothing else (no times, no places)."""
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
            "files": len(source.entries),
            "images": sum(entry.kind == "image" for entry in source.entries),
            "bytes": sum(entry.size for entry in source.entries),
            "sha256": source.digest(),
        },
        "versions": {name: version(name) for name in ("puretransforms", "torch", "torchvision", "pillow")}
        | {"python": platform.python_version()},
    }


def check_free(layout: Layout) -> None:
    """Raise :class:`ManifestMismatchError` if the output holds what no call of ours has put there."""
    store = layout.store
    foreign = [name for name in store.names() if name != STATE]
    if foreign and not store.exists(RUN):
        raise ManifestMismatchError(
            f"expected {store.root!r} to be empty or the output of an earlier call, found {foreign[0]!r} "
            f"in it and no {RUN}: give another output folder."
        )


def claim(layout: Layout, run: dict[str, Any]) -> None:
    """Make ``layout.store`` the output of the configuration ``run``, or accept that it already is.

    Raises:
        ManifestMismatchError: the folder holds something else, or the output of another configuration.
    """
    store, where = layout.store, layout.store.root
    old_quarantine = layout.aside.exists("")  # looked at first: another rank may claim at this moment
    if not store.exists(RUN):
        check_free(layout)
        if old_quarantine and not store.exists(RUN):
            raise ManifestMismatchError(
                f"expected no {layout.aside.root!r} beside a new output folder: it is left from an earlier "
                "run; move it away or give another output folder."
            )
        store.make(f"{STATE}/units")
        store.put(RUN, json.dumps(run, indent=2).encode() + b"\n", layout.scratch)
        return
    before = json.loads(store.read(RUN))
    differing = sorted(_differences(before, run))
    if differing:
        advice = (
            "the source has changed since, so give another output folder"
            if all(name.startswith("source.") for name in differing)
            else "call it with the configuration in run.json, or give another output folder"
        )
        was, now = (_flat(side).get(differing[0]) for side in (before, run))
        raise ManifestMismatchError(
            f"expected {where!r} to be the output of this configuration, but {', '.join(differing)} differ "
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

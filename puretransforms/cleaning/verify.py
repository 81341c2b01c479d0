"""Re-read a finished output folder and hold it against its manifest."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, cast

from ..errors import ManifestMismatchError, SourceError
from ..storage.remote import is_remote
from ..storage.store import Store, open_store
from .manifest import MANIFEST, REPORT, RUN, read_rows

_NAMED = 10  # so many differing files are named in the message


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """An output folder that equals its manifest.

    Attributes:
        files: number of files read again (outputs and quarantined originals).
        bytes: their size together.
        rows: number of manifest rows, one for each file of the source.
    """

    files: int
    bytes: int
    rows: int


def verify(out: str | os.PathLike[str], *, options: Mapping[str, Any] | None = None) -> VerifyResult:
    """Read every output and every quarantined file again: nothing changed, nothing missing, nothing extra.

    Args:
        out: a folder or URL.
        options: for fsspec, where ``out`` is a URL.

    Raises:
        SourceError: no such folder, or none that :func:`~puretransforms.cleaning.clean.clean` has made.
        ManifestMismatchError: the run is not finished, or files differ (the message names them).
    """
    store = open_store(out if is_remote(out) else os.path.realpath(out), options)
    aside = open_store(f"{store.root}.quarantine", options)
    if not store.exists(RUN):
        what = f"a folder without {RUN}" if store.exists("") else "no such folder"
        raise SourceError(
            f"expected the output folder of puretransforms clean, got {os.fspath(out)!r}: {what}. Give the folder that "
            "it wrote the purified images to."
        )
    if not store.exists(MANIFEST):
        raise ManifestMismatchError(
            f"expected a finished output of puretransforms clean, got {os.fspath(out)!r} without {MANIFEST}: run clean "
            "with the same arguments again to finish it."
        )
    expected: dict[tuple[Store, str], str] = {}
    rows = 0
    problems: list[str] = []
    with store.open(MANIFEST) as lines:
        for row in read_rows(lines):
            rows += row["status"] != "packed"
            if row["out"] is not None and "member" not in row:
                expected[store, row["out"]] = row["sha256_out"]
            elif row["status"] == "quarantined":
                expected[aside, row["path"]] = row["sha256_in"]
    promised = json.loads(store.read(RUN))["source"]["files"]
    if rows != promised:
        problems.append(f"manifest.jsonl has {rows} rows for {promised} source files")
    size = 0
    for (place, name), sha256 in expected.items():
        try:
            with place.open(name) as file:
                if hashlib.file_digest(cast(BufferedIOBase, file), "sha256").hexdigest() != sha256:
                    problems.append(f"{_name(place, name)} has changed")
                size += file.tell()
        except OSError as error:
            problems.append(f"{_name(place, name)} cannot be read ({error.strerror or error})")
    found = [(store, name) for name in store.files() if name not in (MANIFEST, RUN, REPORT)]
    found += [(aside, name) for name in aside.files()]
    problems += [f"{_name(*item)} is not in the manifest" for item in found if item not in expected]
    if problems:
        more = f", and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ManifestMismatchError(
            f"expected {os.fspath(out)!r} to equal its manifest, but {'; '.join(problems[:_NAMED])}{more}: clean the "
            "source again into a new folder."
        )
    return VerifyResult(len(expected), size, rows)


def _name(place: Store, name: str) -> str:
    return repr(f"{place.root.replace(os.sep, '/').rpartition('/')[2]}/{name}")

"""Re-read a finished output folder and hold it against its manifest."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ManifestMismatchError
from .manifest import Layout, read_rows

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


def verify(out: str | os.PathLike[str]) -> VerifyResult:
    """Read every output and every quarantined file again: nothing changed, nothing missing, nothing extra.

    Raises:
        ManifestMismatchError: the run is not finished, or files differ (the message names them).
    """
    layout = Layout(Path(os.path.realpath(out)))
    if not layout.manifest.exists() or not layout.run.exists():
        raise ManifestMismatchError(
            f"expected a finished output of clean(), got {os.fspath(out)!r} without {layout.manifest.name} or "
            f"{layout.run.name}: call clean() with the same arguments again to finish it."
        )
    expected: dict[str, str] = {}
    rows = 0
    problems: list[str] = []
    for row in read_rows(layout.manifest):
        rows += 1
        if row["out"] is not None:
            expected[f"{layout.out}{os.sep}{row['out']}"] = row["sha256_out"]
        elif row["status"] == "quarantined":
            expected[f"{layout.quarantine}{os.sep}{row['path']}"] = row["sha256_in"]
    promised = json.loads(layout.run.read_bytes())["source"]["files"]
    if rows != promised:
        problems.append(f"manifest.jsonl has {rows} rows for {promised} source files")
    size = 0
    for path, sha256 in expected.items():
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    problems.append(f"{_name(layout, path)} has changed")
                size += file.tell()
        except OSError as error:
            problems.append(f"{_name(layout, path)} cannot be read ({error.strerror})")
    ours = {os.fspath(path) for path in (layout.manifest, layout.run, layout.report)}
    found = (path for top in (layout.out, layout.quarantine) for path in _files(top) if path not in ours)
    problems += [f"{_name(layout, path)} is not in the manifest" for path in found if path not in expected]
    if problems:
        more = f", and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ManifestMismatchError(
            f"expected {os.fspath(out)!r} to equal its manifest, but {'; '.join(problems[:_NAMED])}{more}: clean the "
            "source again into a new folder."
        )
    return VerifyResult(len(expected), size, rows)


def _files(top: Path) -> Iterator[str]:
    """Everything below ``top`` that is no real folder."""
    for folder, folders, names in os.walk(top):
        yield from (f"{folder}{os.sep}{name}" for name in names)
        yield from (f"{folder}{os.sep}{name}" for name in folders if Path(folder, name).is_symlink())


def _name(layout: Layout, path: str) -> str:
    return repr(os.path.relpath(path, layout.out.parent))

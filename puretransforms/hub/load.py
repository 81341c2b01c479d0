"""From a name, a folder or a repo to checked weights: bundled file, then local folder, then the Hugging Face Hub."""

import re
from pathlib import Path
from typing import Any

from ..errors import WeightsCorruptedError, WeightsUnavailableError
from .files import CONFIG, WEIGHTS, LoadedWeights, parse, read, sha256_of
from .push import Access, download
from .registry import PurifierWeights, get_weights, list_weights

_REPO = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


def load(
    weights: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    verify: bool = True,
    sha256: str | None = None,
) -> LoadedWeights:
    """Find weights, check their hashes and read them.

    Args:
        weights: a name of :func:`~puretransforms.hub.registry.list_weights`, a folder, or a repo of the Hugging Face
            Hub, ``user/name`` or ``user/name@revision``, tried in this order.
        revision: branch, tag or commit of the repo. Of registered weights it replaces the pinned commit, and then
            their pinned hashes are not asked for.
        cache_dir, token, local_files_only, force_download: as in ``huggingface_hub.hf_hub_download``.
        verify: compare hashes: the registered ones, else the one in config.json and what the Hub says of its files.
        sha256: what model.safetensors must have, to pin weights of your own.

    Raises:
        WeightsUnavailableError: not here and not to be had: unknown, offline, private, gated, or the download failed.
        WeightsCorruptedError: other bytes than the hash says, or no valid file.
        WeightsMismatchError: a config of a newer format.
    """
    files, origin, label = fetch(
        weights,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
        force_download=force_download,
        verify=verify,
        sha256=sha256,
    )
    return parse(files[CONFIG], files[WEIGHTS], origin, verify=verify, label=label)


def fetch(
    weights: str | Path,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    verify: bool = True,
    force_download: bool = False,
    **access: Any,
) -> tuple[dict[str, bytes], str, str | None]:
    """The bytes behind :func:`load`, with hashes compared but not read: files, where they were, and a short label."""
    hashes = {CONFIG: None, WEIGHTS: sha256}
    name = str(weights)
    entry = _registered(weights)
    if entry is not None and revision is None:
        hashes = {**entry.sha256, **({WEIGHTS: sha256} if sha256 else {})}
        folder = entry.folder()
        if folder is not None and not force_download:
            origin = f"{entry.name} in {str(folder)!r}"
            return _from_folder(folder, hashes, verify, origin), origin, f"{entry.name}@{hashes[WEIGHTS][:12]}"
    if entry is None and Path(weights).is_dir():
        if revision is not None:
            raise WeightsUnavailableError(f"expected no revision for the folder {name!r}, got {revision!r}.")
        return _from_folder(Path(weights), hashes, verify, repr(name)), repr(name), None
    repo_id, asked = _repo(weights, entry)
    request = Access(
        repo_id, revision or asked, name=entry.name if entry else None, force_download=force_download, **access
    )
    files, commit = download(request, hashes, verify=verify)
    return files, f"{repo_id}@{commit}", f"{repo_id}@{commit[:12]}"


def _registered(weights: str | Path) -> PurifierWeights | None:
    """The entry of that name, or of that repo if the package carries it: then its card's example needs no network."""
    if not isinstance(weights, str):
        return None
    entries = [get_weights(name) for name in list_weights()]
    by_name = next((entry for entry in entries if entry.name == weights), None)
    by_repo = (entry for entry in entries if entry.repo_id == weights and entry.folder() and not Path(weights).is_dir())
    return by_name or next(by_repo, None)


def _repo(weights: str | Path, entry: PurifierWeights | None) -> tuple[str, str]:
    """Repo id and revision; one without a pin is asked for its main branch."""
    if entry is not None:
        return entry.repo_id, entry.revision or "main"
    found = _REPO.fullmatch(weights) if isinstance(weights, str) else None
    if found is None:
        raise WeightsUnavailableError(
            f"expected registered weights ({', '.join(list_weights())}), a folder or a repo 'user/name', got "
            f"{str(weights)!r}, which is no folder here; weights=None builds an untrained network."
        )
    return found["repo"], found["revision"] or "main"


def _from_folder(folder: Path, hashes: dict[str, str | None], verify: bool, origin: str) -> dict[str, bytes]:
    files = {name: read(folder, name) for name in hashes}
    for name, expected in hashes.items():
        got = sha256_of(files[name])
        if verify and expected not in (None, got):
            raise WeightsCorruptedError(
                f"expected {name} of {origin} to have sha256 {expected}, got {got}: it was damaged or exchanged; "
                "install the package again or fetch the folder again."
            )
    return files

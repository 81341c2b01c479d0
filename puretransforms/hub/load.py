"""From a name, a folder or a repo to checked weights: bundled file, then local folder, then the Hugging Face Hub.

Every failure of the Hub's client becomes one of our errors and says the fix. The client compares sizes, not contents,
so :func:`download` hashes what it hands out. In a cache with symbolic links the name of a repo's blob is its hash
(sha256 of an LFS file, git's sha1 of another), which needs no network. That blob may be a link itself, into a store
that repos share, where names are those of Xet.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import environ
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, is_offline_mode
from huggingface_hub import errors as hf
from huggingface_hub.utils import httpx

from ..errors import WeightsCorruptedError, WeightsUnavailableError
from .files import CONFIG, WEIGHTS, LoadedWeights, parse, read, sha256_of
from .weights import PurifierWeights, get_weights, list_weights

HUB_FAILURES = (hf.HfHubHTTPError, httpx.HTTPError, hf.FileMetadataError, OSError, ValueError, RuntimeError)
_COMMIT = re.compile(r"[0-9a-f]{40}")
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

    ``weights`` is a name of :func:`~puretransforms.hub.weights.list_weights`, a folder, or a repo of the Hugging Face
    Hub, ``user/name`` or ``user/name@revision``, tried in this order; all else as in
    :meth:`~puretransforms.hub.pretrained.Pretrained.from_pretrained`.

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
    hashes: dict[str, str | None] = {CONFIG: None, WEIGHTS: sha256}
    name = str(weights)
    entry = _registered(weights)
    if entry is not None and revision is None:
        hashes = {**entry.sha256, **({WEIGHTS: sha256} if sha256 else {})}
        folder = entry.folder()
        if folder is not None and not force_download:
            origin = f"{entry.name} in {str(folder)!r}"
            label = f"{entry.name}@{(sha256 or entry.sha256[WEIGHTS])[:12]}"
            return _from_folder(folder, hashes, verify, origin), origin, label
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


@dataclass(frozen=True)
class Access:
    """How to get at a repo; the names are those of ``huggingface_hub``, but ``name``, under which it is registered."""

    repo_id: str
    revision: str = "main"
    name: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False

    def the(self, file: str) -> str:
        """That file, for messages."""
        return f"{file} of {self.repo_id}@{self.revision}" + (f" (weights {self.name!r})" if self.name else "")


def endpoint() -> str:
    """``HF_ENDPOINT`` as it is now; the client itself reads it once, at import."""
    return (environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def download(access: Access, hashes: Mapping[str, str | None], *, verify: bool = True) -> tuple[dict[str, bytes], str]:
    """The files named in ``hashes`` (values: sha256, or ``None`` where unknown), all of one commit, and its name.

    A commit that is in the cache costs no request. A file with a wrong hash is downloaded once more. A Hub that cannot
    be reached is tried for about 23 s, as the client does, unless the files are in the cache.

    Raises:
        WeightsUnavailableError: offline, no such repo, revision or file, no access, or the download failed.
        WeightsCorruptedError: a hash differs after the second download too; the file was removed from the cache.
    """
    files: dict[str, bytes] = {}
    for name, sha256 in hashes.items():
        path = _fetch(access, name)
        commit = path.parents[len(Path(name).parts) - 1].name
        access = replace(access, revision=commit)  # the other files from the same commit, whatever is pushed meanwhile
        files[name] = _verified(access, name, path, sha256) if verify else path.read_bytes()
    return files, access.revision


def _fetch(access: Access, name: str) -> Path:
    what = access.the(name)
    if access.force_download and (access.local_files_only or is_offline_mode()):
        raise WeightsUnavailableError(f"force_download=True needs the Hub for {what}, but {_no_answer(access)}.")
    try:
        return Path(
            hf_hub_download(
                access.repo_id,
                name,
                revision=access.revision,
                cache_dir=access.cache_dir,
                token=access.token,
                local_files_only=access.local_files_only,
                force_download=access.force_download,
                endpoint=endpoint(),
                library_name="puretransforms",
            )
        )
    except hf.GatedRepoError as error:
        fix = f"is gated: accept its terms at {endpoint()}/{access.repo_id}, then pass token= or run `hf auth login`."
        raise WeightsUnavailableError(f"{what} {fix}") from error
    except hf.RepositoryNotFoundError as error:
        fix = f"no such repo at {endpoint()}, or a private one: check the name, pass token= or run `hf auth login`."
        raise WeightsUnavailableError(f"{what}: {fix}") from error
    except hf.RevisionNotFoundError as error:
        fix = "no such branch, tag or commit in this repo: check revision=."
        raise WeightsUnavailableError(f"{what}: {fix}") from error
    except hf.LocalEntryNotFoundError as error:
        reason = _no_answer(access, error.__cause__ or error)
        raise WeightsUnavailableError(
            f"{what} is not in the cache, and {reason}: download it once with a network (`puretransforms weights "
            f"download {access.repo_id}`), or copy its folder here and pass the folder's path."
        ) from error
    except hf.EntryNotFoundError as error:
        hint = "; pickled weights are never loaded, convert them to safetensors" if name == WEIGHTS else ""
        own = " and config.json" if name in (CONFIG, WEIGHTS) else ""
        raise WeightsUnavailableError(
            f"there is no {what}: expected a repo that holds {WEIGHTS}{own}{hint}."
        ) from error
    except hf.HFValidationError as error:
        raise WeightsUnavailableError(f"expected a repo id like 'user/name', got {access.repo_id!r}.") from error
    except HUB_FAILURES as error:
        if access.force_download and isinstance(error.__cause__, httpx.TransportError):
            reason = _no_answer(access, error.__cause__)
            raise WeightsUnavailableError(f"force_download=True needs the Hub for {what}, but {reason}.") from error
        raise WeightsUnavailableError(
            f"downloading {what} from {endpoint()} failed ({first_line(error)}): run it again."
        ) from error


def _verified(access: Access, name: str, path: Path, sha256: str | None) -> bytes:
    """The bytes of ``path``; where their hash is wrong, those of a second download."""
    data = path.read_bytes()
    problem = _damage(path, data, sha256)
    if problem:
        _remove(path)  # the client would leave it in a cache without symbolic links
        lost = f"{access.the(name)} is damaged: {problem}. It was removed from the cache: load it again with a network."
        if access.local_files_only or is_offline_mode():
            raise WeightsCorruptedError(lost)
        try:
            path = _fetch(replace(access, force_download=True), name)
        except WeightsUnavailableError as error:
            raise WeightsCorruptedError(lost) from error
        data = path.read_bytes()
        if _damage(path, data, sha256):
            _remove(path)
            raise WeightsCorruptedError(lost)
    got = sha256_of(data)
    if sha256 not in (None, got):
        raise WeightsCorruptedError(
            f"expected {access.the(name)} to have sha256 {sha256}, got {got}: the repo holds another file than the one "
            "pinned; ask whoever changed it, and pin the new file only if you trust it."
        )
    return data


def _blob(path: Path) -> Path:
    """The repo's blob that a file of a snapshot is a link to; the file itself in a cache without symbolic links."""
    return path.parent / path.readlink() if path.is_symlink() else path


def _remove(path: Path) -> None:
    """Take a file of a snapshot out of the cache, with all that it links to."""
    for stale in (path.resolve(), _blob(path), path):
        stale.unlink(missing_ok=True)


def _damage(path: Path, data: bytes, sha256: str | None) -> str | None:
    """How ``data`` differs from what the name of its blob promises, or without one from the pinned ``sha256``."""
    expected = _blob(path).name if path.is_symlink() else sha256 or ""
    if len(expected) == 64:
        got = sha256_of(data)
    elif _COMMIT.fullmatch(expected):
        got = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    else:
        return None  # neither: the sha256 in the config is left
    return None if got == expected else f"expected hash {expected}, got {got}"


def _no_answer(access: Access, cause: BaseException | None = None) -> str:
    """Why there is nothing from the Hub, for messages."""
    if access.local_files_only:
        return "local_files_only=True forbids the network"
    return no_network(cause) or f"the Hub gave no answer ({first_line(cause or TimeoutError())})"


def no_network(cause: BaseException | None) -> str | None:
    """That the network is forbidden or cannot be reached, for messages; ``None`` where it gave an answer."""
    if is_offline_mode():
        return "HF_HUB_OFFLINE=1 forbids the network"
    if isinstance(cause, httpx.TransportError):
        return f"{endpoint()} cannot be reached ({first_line(cause)} Set HTTPS_PROXY or HF_ENDPOINT if you need one)"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, ended by a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."

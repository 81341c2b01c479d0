"""The Hugging Face Hub behind one function each way: every failure becomes one of our errors and says the fix.

The client compares sizes, not contents, so :func:`download` hashes what it hands out. In a cache with symbolic links
the name of a repo's blob is its hash (sha256 of an LFS file, git's sha1 of another), which needs no network. That blob
may be a link itself, into a store that repos share, where names are those of Xet.
"""

import hashlib
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import environ
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    HfApi,
    constants,
    hf_hub_download,
    is_offline_mode,
    try_to_load_from_cache,
)
from huggingface_hub import errors as hf
from huggingface_hub.utils import httpx

from ..errors import WeightsCorruptedError, WeightsUnavailableError
from .files import CARD, CONFIG, WEIGHTS

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PROBE_SECONDS = 10.0
_FAILURES = (hf.HfHubHTTPError, httpx.HTTPError, hf.FileMetadataError, OSError, ValueError, RuntimeError)


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

    A commit that is in the cache costs no request. A file with a wrong hash is downloaded once more.

    Raises:
        WeightsUnavailableError: offline, no such repo, revision or file, no access, or the download failed.
        WeightsCorruptedError: a hash differs after the second download too; the file was removed from the cache.
    """
    cached = not access.force_download and all(_cached(access, name) for name in hashes)
    local = access.local_files_only or is_offline_mode() or not (cached or _reachable())
    files: dict[str, bytes] = {}
    for name, sha256 in hashes.items():
        path = _fetch(access, name, local)
        commit = path.parents[len(Path(name).parts) - 1].name
        access = replace(access, revision=commit)  # the other files from the same commit, whatever is pushed meanwhile
        files[name] = _verified(access, name, path, sha256) if verify else path.read_bytes()
    return files, access.revision


def push(
    files: Mapping[str, bytes],
    repo_id: str,
    *,
    commit_message: str,
    token: str | bool | None = None,
    private: bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
) -> CommitInfo:
    """Create the repo if there is none and write ``files`` in one commit, weights and config together.

    Raises:
        WeightsUnavailableError: offline, no token, no right to write, or a card that the Hub refuses.
    """
    api = HfApi(endpoint=endpoint(), token=token)
    if is_offline_mode() or not _reachable():
        raise WeightsUnavailableError(f"cannot push to {repo_id}: {_no_way()}.")
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if branch is not None and branch != "main":
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
        )
    except hf.HFValidationError as error:
        raise WeightsUnavailableError(f"expected a repo id like 'user/name', got {repo_id!r}.") from error
    except _FAILURES as error:
        if str(error).startswith("Invalid metadata"):
            reason = " ".join(str(error).split()).rstrip(".")
            fix = f"Correct {CARD}, which push_to_hub writes from model_card_kwargs=."
            raise WeightsUnavailableError(f"{endpoint()} refuses the card: {reason}. {fix}") from error
        raise WeightsUnavailableError(
            f"pushing to {repo_id} at {endpoint()} failed: {_first_line(error)} Pass token= with write access or run "
            "`hf auth login`."
        ) from error


def _cached(access: Access, name: str) -> bool:
    """Whether the file of a pinned commit lies in the cache, so that the client asks nobody."""
    if not _COMMIT.fullmatch(access.revision):
        return False
    return isinstance(try_to_load_from_cache(access.repo_id, name, access.cache_dir, access.revision), str)


def _reachable() -> bool:
    """Whether the endpoint takes connections: the client would try for 23 s. Not asked behind a proxy."""
    url = urlsplit(endpoint())
    host = url.hostname or ""
    if {url.scheme, "all"} & getproxies().keys() and not proxy_bypass(host):
        return True
    try:
        socket.create_connection((host, url.port or (443 if url.scheme == "https" else 80)), _PROBE_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _fetch(access: Access, name: str, local: bool) -> Path:
    what = access.the(name)
    if local and access.force_download:
        raise WeightsUnavailableError(f"force_download=True needs the Hub for {what}, but {_no_way(access)}.")
    try:
        return Path(
            hf_hub_download(
                access.repo_id,
                name,
                revision=access.revision,
                cache_dir=access.cache_dir,
                token=access.token,
                local_files_only=local,
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
        reason = _no_way(access) if local else f"the Hub gave no answer ({_first_line(error.__cause__ or error)})"
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
    except _FAILURES as error:
        raise WeightsUnavailableError(
            f"downloading {what} from {endpoint()} failed ({_first_line(error)}): run it again."
        ) from error


def _verified(access: Access, name: str, path: Path, sha256: str | None) -> bytes:
    """The bytes of ``path``; where their hash is wrong, those of a second download."""
    data = path.read_bytes()
    problem = _damage(path, data, sha256)
    if problem and not access.local_files_only and not is_offline_mode() and _reachable():
        _remove(path)  # the client would leave it in a cache without symbolic links
        path = _fetch(replace(access, force_download=True), name, local=False)
        data = path.read_bytes()
        problem = _damage(path, data, sha256)
    if problem:
        _remove(path)
        raise WeightsCorruptedError(
            f"{access.the(name)} is damaged: {problem}. It was removed from the cache: load it again with a network."
        )
    got = hashlib.sha256(data).hexdigest()
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
        got = hashlib.sha256(data).hexdigest()
    elif _COMMIT.fullmatch(expected):
        got = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    else:
        return None  # neither: the sha256 in the config is left
    return None if got == expected else f"expected hash {expected}, got {got}"


def _no_way(access: Access | None = None) -> str:
    if access is not None and access.local_files_only:
        return "local_files_only=True forbids the network"
    if is_offline_mode():
        return "HF_HUB_OFFLINE=1 forbids the network"
    return f"{endpoint()} cannot be reached (no network, or set HTTPS_PROXY or HF_ENDPOINT)"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."

"""Object stores (``s3://``, ``gs://``, ``memory://``, whatever fsspec knows): patient requests.

Stores fail now and then. Each request is tried six times, with pauses that double from 0.1 s; what can never succeed
(no such object, no permission) is raised at once.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import MissingExtraError, SourceError, StoreError

_TRIES = 6
_FIRST_PAUSE = 0.1  # seconds
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_FINAL_NAMES = ("NoCredentialsError", "PartialCredentialsError")
# Their errors are no OSError.
_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3")


def is_remote(source: Any) -> bool:
    """Is ``source`` a URL of an object store, rather than a path?

    Raises:
        SourceError: it is a ``file://`` URL.
    """
    if isinstance(source, str) and source.startswith("file://"):
        raise SourceError(f"expected a path, got {source!r}: leave out 'file://'.")
    return isinstance(source, str) and "://" in source


def retried(what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """``function(*args, **options)``, tried again after a failure that may pass.

    Args:
        function: what to call.
        *args: its arguments.
        **options: its named arguments.
        what: what is done, for the message: ``"write s3://bucket/a.png"``.

    Raises:
        StoreError: it failed six times, or for good.
    """
    for trial in range(_TRIES):
        try:
            return function(*args, **options)
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _CLIENTS:
                raise
            if isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES:
                raise _failed(what, error, "check the address and the credentials") from error
            if trial == _TRIES - 1:
                again = f"it failed {_TRIES} times; run the same command again, it goes on where it was"
                raise _failed(what, error, again) from error
            time.sleep(_FIRST_PAUSE * 2**trial)
    raise AssertionError("unreachable")


def _failed(what: str, error: Exception, advice: str) -> StoreError:
    return StoreError(f"expected to {what}, got {type(error).__name__}: {error}: {advice}.")


def file_system(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """``(fsspec file system, path in it)`` of a URL; connections are shared within a process, never across a fork.

    Raises:
        MissingExtraError: fsspec, or the package for this kind of store, is not installed.
    """
    try:
        import fsspec

        return fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise MissingExtraError(
            f"expected a package that reads {url.partition('://')[0]}:// addresses, got {error}: "
            "pip install 'puretransforms[s3]' for S3, gcsfs for gs://."
        ) from error

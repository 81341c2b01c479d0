"""The work of one process, in every engine: some units of a job, and failures that say what to do."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings, filterwarnings

import torch

from ...errors import OutputError, PureTransformsError, WorkerDiedError
from ..pipeline import Engine, Job
from ..purifier import torch_threads
from ..writers.base import Unit

_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "allow writing there",
    errno.EPERM: "allow writing there",
    errno.EROFS: "allow writing there",
}


def clean_units(job: Job, units: list[Unit], advance: Callable[[int], Any]) -> None:
    """Clean ``units`` here and now; ``advance`` hears of every few images.

    Raises:
        OutputError: the output cannot be written.
        WorkerDiedError: memory ran out.
    """
    with quiet(job.device), torch_threads(job.purifier, job.device), clear_errors(job.writer.layout.store.root):
        Engine(job, advance).run(units)


@contextmanager
def quiet(device: torch.device) -> Iterator[None]:
    """Leave torch's random state as it is, and let Pillow be silent about odd files: the manifest says what matters."""
    with catch_warnings(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        filterwarnings("ignore", module=r"PIL\.")
        yield


@contextmanager
def clear_errors(out: str) -> Iterator[None]:
    """Say what a failed system call means for the one who reads it."""
    try:
        yield
    except PureTransformsError:
        raise
    except MemoryError as error:
        raise WorkerDiedError(
            "expected enough memory for the open images, got a MemoryError: run the same command again with fewer "
            "workers, a smaller batch_size, or more memory; it goes on where it was."
        ) from error
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "set that right")
        raise OutputError(
            f"expected to write to {out!r}, got {error.strerror or error}: {advice} and run the same command again; it "
            "goes on where it was."
        ) from error

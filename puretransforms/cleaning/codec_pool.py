"""Codec workers: processes that decode and encode, and know nothing of torch.

Decoding a small image is mostly Python, and threads would take turns at the interpreter's lock, also with the thread
that purifies. Where processes cannot be forked (Windows, macOS, inside a daemon process) threads do the same work.
"""

import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, current_process, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any, cast

from ..errors import WorkerDiedError

_local = threading.local()


class CodecPool:
    """``workers`` processes, or threads, that run functions; what they are given and give back is pickled.

    A context manager; leaving it drops what has not begun. ``given`` is what :func:`context` gives to the functions;
    it is never pickled, since a process that is forked has it already. ``processes=False`` asks for threads.
    """

    def __init__(self, workers: int, given: Any = None, *, processes: bool = True) -> None:
        self._pool: Executor
        if processes and sys.platform == "linux" and not current_process().daemon:
            self._pool = ProcessPoolExecutor(workers, get_context("fork"), _start, (given,))
        else:
            self._pool = ThreadPoolExecutor(workers, "codec", _give, (given,))

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        """Call ``function(*args)`` in a worker; :func:`result` waits for what it gives."""
        with _ctrl_c_waits(), warnings.catch_warnings():  # workers never touch what other threads may have locked
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            try:
                return self._pool.submit(function, *args)
            except BrokenProcessPool as error:
                raise _died() from error

    def __enter__(self) -> "CodecPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def result(future: Future) -> Any:
    """What the function gave or raised.

    Raises:
        WorkerDiedError: the process of the worker is gone.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _died() from error


def context() -> Any:
    """What the pool of this worker was given."""
    return _local.given


def _give(given: Any) -> None:
    _local.given = given


def _died() -> WorkerDiedError:
    return WorkerDiedError(
        "expected every codec process to live until the end, got one that was killed, most likely for want of memory: "
        "run the same command again with fewer workers or more memory; it goes on where it was."
    )


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Put off Ctrl-C until the end of the block, in which the first call of a pool forks its workers.

    Python drops what is raised in the hooks that run around a fork, and with it the Ctrl-C that came then. A worker
    that is met by one before :func:`_start` must not raise it either. Other threads than the main one are never
    interrupted.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _start(given: Any) -> None:
    """In the new process: keep what was given, leave Ctrl-C to the parent, and end when it ends, even killed."""
    gc.freeze()  # what was there before stays shared with the parent: a collection would write to all of it
    _give(given)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    connection.wait([cast(BaseProcess, parent_process()).sentinel])
    os._exit(1)

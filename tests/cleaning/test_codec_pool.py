import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from puretransforms.cleaning import pipeline
from puretransforms.cleaning.clean import clean
from puretransforms.cleaning.codec_pool import CodecPool, result
from puretransforms.errors import PureTransformsError, WorkerDiedError
from puretransforms.transforms.coin import COINInterpolate

linux = pytest.mark.skipif(sys.platform != "linux", reason="codec workers are processes on Linux only")


def _add(a, b):
    return a + b, os.getpid()


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _fail():
    raise KeyError("missing")


@linux
def test_functions_run_in_another_process():
    with CodecPool(1) as pool:
        total, pid = result(pool.submit(_add, 1, 2))
    assert total == 3
    assert pid != os.getpid()


def test_an_error_comes_back_as_it_was():
    with CodecPool(1) as pool, pytest.raises(KeyError, match="missing"):
        result(pool.submit(_fail))


@linux
def test_a_dead_worker_is_named_and_none_hangs():
    with CodecPool(2) as pool:
        futures = [pool.submit(_die), pool.submit(_add, 1, 2)]
        with pytest.raises(WorkerDiedError, match="run the same command again"):
            for future in futures:
                result(future)
        with pytest.raises(WorkerDiedError):
            pool.submit(_add, 1, 2)


@linux
def test_clean_says_that_a_worker_died_and_goes_on_the_next_time(source, tmp_path, snapshot, monkeypatch):
    purifier = COINInterpolate(seed=0)
    clean(source, tmp_path / "whole", purifier, progress=False, unit_size=5)
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "encode", lambda *_: _die())
        with pytest.raises(PureTransformsError, match="codec process"):
            clean(source, tmp_path / "out", purifier, progress=False, unit_size=5)
    clean(source, tmp_path / "out", purifier, progress=False, unit_size=5)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


@linux
def test_workers_end_when_their_parent_is_killed():
    code = (
        "import os, time\n"
        "from puretransforms.cleaning.codec_pool import CodecPool, result\n"
        "pool = CodecPool(2)\n"
        "print(*{result(pool.submit(os.getpid)) for _ in range(50)}, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers
        parent.kill()
    deadline = time.monotonic() + 10
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))


@pytest.fixture(scope="module")
def ctrl_c_while_forking():
    """Switch it on, and every fork of this process is met by a Ctrl-C: in the parent before, in the child after."""
    switch = threading.Event()
    for place in ("before", "after_in_child"):
        os.register_at_fork(**{place: lambda: switch.is_set() and os.kill(os.getpid(), signal.SIGINT)})
    return switch


@linux
def test_ctrl_c_during_a_fork_is_not_lost(ctrl_c_while_forking, capfd):
    """Python drops what is raised in the hooks of a fork; so did the pool, and cleaned on."""
    ctrl_c_while_forking.set()
    try:
        with pytest.raises(KeyboardInterrupt), CodecPool(2) as pool:
            result(pool.submit(_add, 1, 2))
    finally:
        ctrl_c_while_forking.clear()
    assert capfd.readouterr().err == "", "nor do the workers say anything"
    with CodecPool(2) as pool:
        assert result(pool.submit(_add, 1, 2))[0] == 3
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@linux
def test_workers_leave_ctrl_c_to_their_parent(ctrl_c_while_forking, monkeypatch):
    ours = []
    monkeypatch.setattr(signal, "raise_signal", ours.append)
    with CodecPool(2) as pool:
        ctrl_c_while_forking.set()
        try:
            future = pool.submit(_add, 1, 2)
        finally:
            ctrl_c_while_forking.clear()
        assert result(future)[0] == 3, "though the signal met each before it could refuse it"
    assert ours == [signal.SIGINT]


def test_a_pool_of_another_thread_leaves_the_signals_alone():
    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(_sum_in_a_pool).result() == 3


def _sum_in_a_pool():
    with CodecPool(1) as pool:
        return result(pool.submit(_add, 1, 2))[0]


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@linux
def test_threads_do_the_work_in_a_daemon_process(monkeypatch):
    monkeypatch.setattr(
        "puretransforms.cleaning.codec_pool.current_process", lambda: type("Daemon", (), {"daemon": True})
    )
    with CodecPool(1) as pool:
        assert result(pool.submit(_add, 1, 2)) == (3, os.getpid())
        assert result(pool.submit(threading.current_thread)).name.startswith("codec")

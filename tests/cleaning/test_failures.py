"""What goes wrong outside: full disks, read-only folders, stores that fail, workers without memory.

Always a clear error or another try; never half a file under a final name; and the same call again ends with the bytes
of a run that nothing disturbed.
"""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from puretransforms.cleaning import pipeline
from puretransforms.cleaning.clean import clean
from puretransforms.cleaning.verify import verify
from puretransforms.errors import (
    ManifestMismatchError,
    MissingExtraError,
    OutputError,
    SourceError,
    StoreError,
    UntouchedImageWarning,
    WorkerDiedError,
)
from puretransforms.storage import remote


def quietly(source, out, purifier, **options):
    return clean(source, out, purifier, progress=False, **{"workers": 1, "unit_size": 5, **options})


class Flaky(MemoryFileSystem):
    """A store in memory that fails one request in ``every``, in turn before and after doing what was asked."""

    protocol = "flaky"
    every = 5  # or 1: all
    requests = itertools.count(1)
    inside = False
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def _request(self, verb, *args, **options):
        """One call from outside, which the parent class may split into several."""
        number = 1 if Flaky.inside else next(Flaky.requests)
        fails, answer_lost = number % Flaky.every == 0, number // Flaky.every % 2 == 0
        if fails and not answer_lost:
            raise ConnectionError(104, "connection reset by peer")
        outermost, Flaky.inside = not Flaky.inside, True
        try:
            done = getattr(super(), verb)(*args, **options)
        finally:
            Flaky.inside = not outermost
        if fails:
            raise ConnectionError(104, "connection reset by peer")
        return done


def _make(verb):
    def call(self, *args, **options):
        return self._request(verb, *args, **options)

    return call


for _verb in ("cat_file", "pipe_file", "put_file", "find", "exists", "ls", "rm_file", "open"):
    setattr(Flaky, _verb, _make(_verb))


fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture
def store(source, monkeypatch):
    """The source tree at ``memory://`` too; pauses between tries are short."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    memory = fsspec.filesystem("memory")
    memory.put(str(source), "/bucket/source", recursive=True)
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.0001)
    yield memory
    MemoryFileSystem.store.clear()


def objects(memory, top):
    return {
        path.removeprefix(f"{top}/"): hashlib.sha256(memory.cat_file(path)).hexdigest() for path in memory.find(top)
    }


@pytest.fixture
def expected(source, tmp_path, purifier, snapshot):
    """What an undisturbed local run writes."""
    out = tmp_path / "expected"
    quietly(source, out, purifier)
    return {name: digest for name, digest in snapshot(out).items() if digest != "folder"}


@pytest.mark.parametrize("protocol", ["memory", "flaky"])
def test_a_store_to_a_store_gives_the_bytes_of_folder_to_folder(store, purifier, expected, protocol):
    first = next(Flaky.requests)
    result = quietly(f"{protocol}://bucket/source", f"{protocol}://bucket/out", purifier)
    assert result.complete and result.out == f"{protocol}://bucket/out"
    assert objects(store, "/bucket/out") == expected
    assert result.verify() == verify(f"{protocol}://bucket/out")
    if protocol == "flaky":
        assert next(Flaky.requests) - first > 50  # some ten of them failed


def test_an_object_whose_name_leads_out_of_its_folder_is_refused(store, tmp_path, purifier):
    image = store.cat_file(next(path for path in store.find("/bucket/source") if path.endswith(".png")))
    store.store["/bucket/source/a/../../../evil.png"] = type(next(iter(store.store.values())))(store, "/x", image)
    with pytest.raises(SourceError, match="paths in a folder"):
        quietly("memory://bucket/source", tmp_path / "down" / "out", purifier)
    assert not list(tmp_path.rglob("evil.png"))


def test_a_file_url_is_no_folder_named_file(source, tmp_path, purifier):
    for places in ((f"file://{source}", tmp_path / "out"), (source, f"file://{tmp_path}/out")):
        with pytest.raises(SourceError, match="leave out 'file://'"):
            quietly(*places, purifier)


def test_errors_of_the_stores_own_clients_are_tried_again_and_then_ours(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.0001)
    lost = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})
    answers = iter([lost("no route"), lost("no route"), b"here"])

    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert remote.retried("read x", ask) == b"here"
    answers = iter([type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})("none"), b"never"])
    with pytest.raises(StoreError, match="credentials"):
        remote.retried("read x", ask)
    answers = iter([ZeroDivisionError("a bug"), b"never"])
    with pytest.raises(ZeroDivisionError):
        remote.retried("read x", ask)


def test_a_folder_to_a_store_and_back(source, store, tmp_path, purifier, snapshot, expected):
    quietly(source, "memory://bucket/out", purifier)
    assert objects(store, "/bucket/out") == expected
    quietly("memory://bucket/source", tmp_path / "back", purifier)
    assert {name: d for name, d in snapshot(tmp_path / "back").items() if d != "folder"} == expected


def test_a_store_that_is_gone_is_named_and_the_run_goes_on_later(store, purifier, expected, monkeypatch):
    quietly("memory://bucket/source", "memory://bucket/out", purifier, rank=0, world_size=2)
    monkeypatch.setattr(Flaky, "every", 1)
    with pytest.raises(StoreError, match=r"got ConnectionError: .* it failed 6 times; run the same command again"):
        quietly("flaky://bucket/source", "flaky://bucket/out", purifier)
    quietly("memory://bucket/source", "memory://bucket/out", purifier)
    assert objects(store, "/bucket/out") == expected


def test_an_upload_that_fails_leaves_no_mark(store, source, purifier, expected, monkeypatch):
    def broken(self, *args, **kwargs):
        raise TimeoutError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "put_file", broken)
        with pytest.raises(StoreError, match="expected to write memory://bucket/out/"):
            quietly(source, "memory://bucket/out", purifier)
    assert set(objects(store, "/bucket/out")) == {"run.json"}
    quietly(source, "memory://bucket/out", purifier)
    assert objects(store, "/bucket/out") == expected


def test_damaged_images_go_to_a_quarantine_in_the_store(store, purifier):
    store.pipe_file("/bucket/source/dog/bad.png", b"bad")
    with pytest.warns(UntouchedImageWarning):
        quietly("memory://bucket/source", "memory://bucket/out", purifier).verify()
    assert store.cat_file("/bucket/out.quarantine/dog/bad.png") == b"bad"
    store.pipe_file("/bucket/out/extra", b"")
    with pytest.raises(ManifestMismatchError, match="'out/extra' is not in the manifest"):
        verify("memory://bucket/out")


def test_addresses_that_cannot_be(store, purifier, tmp_path):
    with pytest.raises(SourceError, match="found nothing"):
        quietly("memory://bucket/nowhere", tmp_path / "out", purifier)
    with pytest.raises(MissingExtraError, match="nosuchthing://"):
        quietly("nosuchthing://bucket/source", tmp_path / "out", purifier)
    with pytest.raises(SourceError, match="source and output apart"):
        quietly("memory://bucket/source", "memory://bucket/source/out", purifier)


def test_shards_in_a_store(store, purifier, tmp_path):
    import io
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as shard:
        for path in store.find("/bucket/source/cat"):
            if path.endswith(".jpg"):
                info = tarfile.TarInfo(path.rpartition("/")[2])
                info.size = store.size(path)
                shard.addfile(info, io.BytesIO(store.cat_file(path)))
    store.pipe_file("/bucket/shards/a-00.tar", data.getvalue())
    remote_result = quietly("memory://bucket/shards/a-*.tar", "memory://bucket/out", purifier)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/a-00.tar").write_bytes(data.getvalue())
    quietly(tmp_path / "shards/a-00.tar", tmp_path / "out", purifier)
    assert store.cat_file("/bucket/out/a-00.tar") == (tmp_path / "out/a-00.tar").read_bytes()
    remote_result.verify()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB; yields a function that gives it another size or makes it read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_and_the_same_call_goes_on_with_more_room(
    source, tmp_path, purifier, picture, small_disk, snapshot
):
    for number in range(100, 112):
        picture(number, size=100).save(source / f"dog/{number}.png")
    quietly(source, tmp_path / "whole", purifier, report=False)
    whole = snapshot(tmp_path / "whole")
    out = tmp_path / "disk/out"
    with pytest.raises(OutputError, match=r"No space left on device: free some space and run the same command again"):
        quietly(source, out, purifier, report=False)
    halfway = {name: digest for name, digest in snapshot(out).items() if not name.startswith(".puretransforms")}
    assert len(halfway) > 5 and halfway.items() <= whole.items() and "manifest.jsonl" not in halfway
    small_disk("size=10m")
    quietly(source, out, purifier, report=False)
    assert snapshot(out) == whole


def test_a_read_only_target_is_named(source, tmp_path, purifier, small_disk):
    small_disk("ro")
    with pytest.raises(OutputError, match=r"disk/out', got Read-only file system: allow writing there"):
        quietly(source, tmp_path / "disk/out", purifier)
    small_disk("rw,size=10m")
    assert quietly(source, tmp_path / "disk/out", purifier).complete


def test_a_target_without_permission_is_named(source, tmp_path, purifier, monkeypatch):
    def refuse(path, exist_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(OutputError, match="Permission denied: allow writing there"):
        quietly(source, tmp_path / "out", purifier)


@pytest.mark.skipif(sys.platform != "linux", reason="codec workers are processes on Linux only")
def test_a_worker_killed_for_want_of_memory_leaves_whole_files_alone(source, tmp_path, purifier, monkeypatch, snapshot):
    """As the kernel does it, by SIGKILL, while a unit is being encoded and others are finished."""
    quietly(source, tmp_path / "whole", purifier, report=False)
    whole, out, encode, left = snapshot(tmp_path / "whole"), tmp_path / "out", pipeline.encode, itertools.count(-14)

    def encode_and_die(*args):
        if next(left) == 0:  # counted in the worker's process
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(*args)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "encode", encode_and_die)
        with pytest.raises(WorkerDiedError, match="got one that was killed, most likely for want of memory"):
            quietly(source, out, purifier, report=False)
    halfway = {name: digest for name, digest in snapshot(out).items() if not name.startswith(".puretransforms")}
    assert any(name.endswith(".png") for name in halfway)
    assert halfway.items() <= whole.items() and "manifest.jsonl" not in halfway
    quietly(source, out, purifier, report=False)
    assert snapshot(out) == whole


def test_want_of_memory_is_an_error_and_no_damaged_image(source, tmp_path, purifier, monkeypatch, snapshot):
    def greedy(data):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "decode", greedy)
        with pytest.raises(WorkerDiedError, match="expected enough memory"):
            quietly(source, tmp_path / "out", purifier)
    assert not (tmp_path / "out.quarantine").exists()
    quietly(source, tmp_path / "out", purifier)
    quietly(source, tmp_path / "whole", purifier)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


LIMITED = """
import resource, sys
from puretransforms.cleaning.clean import clean
from puretransforms.transforms.coin import COINInterpolate
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[3]), int(sys.argv[3])))
clean(sys.argv[1], sys.argv[2], COINInterpolate(), workers=1, unit_size=5, progress=False, report=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory")
def test_a_process_without_memory_says_so_and_finishes_with_more(source, tmp_path, snapshot):
    from PIL import Image

    Image.new("RGB", (9000, 9000)).save(source / "dog/huge.png")
    command = [sys.executable, "-W", "ignore", "-c", LIMITED, str(source)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for limit, wanted in ((900 << 20, 1), (1 << 40, 0)):
        done = subprocess.run(
            [*command, str(tmp_path / "out"), str(limit)], capture_output=True, text=True, env=environment, timeout=300
        )
        assert done.returncode == wanted, done.stderr
        if wanted:
            assert "WorkerDiedError" in done.stderr or "not enough memory" in done.stderr.lower()
            assert not (tmp_path / "out/manifest.jsonl").exists() and not Path(f"{tmp_path}/out.quarantine").exists()
    subprocess.run([*command, str(tmp_path / "whole"), str(1 << 40)], check=True, env=environment, timeout=300)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")

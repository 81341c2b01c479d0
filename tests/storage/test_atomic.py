"""Writing: whole files, through one syncfs or one fsync for each."""

import ctypes
import hashlib
import os

import pytest

from puretransforms.storage import atomic


def test_files_are_whole(tmp_path):
    data = os.urandom(3_000_001)
    atomic.write_file(str(tmp_path / "a"), data)
    assert (tmp_path / "a").read_bytes() == data
    with (tmp_path / "a").open("rb") as stream:
        assert atomic.copy_stream(stream, str(tmp_path / "b")) == (hashlib.sha256(data).hexdigest(), data[:16])
    assert (tmp_path / "b").read_bytes() == data


def test_writing_durably_replaces_the_whole_file_and_leaves_no_other(tmp_path):
    atomic.replace_file(tmp_path / "a", b"1", tmp_path)
    atomic.replace_file(tmp_path / "a", b"22", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"22"}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    atomic.replace_file(tmp_path / "a", b"old")
    atomic.replace_file(tmp_path / "a", lambda path: path.write_bytes(b"new"))
    assert (tmp_path / "a").read_bytes() == b"new"

    def breaks(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic.replace_file(tmp_path / "a", breaks)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}
    monkeypatch.chdir(tmp_path)
    atomic.replace_file("b", b"in the current folder")
    assert (tmp_path / "b").read_bytes() == b"in the current folder"


def test_without_syncfs_every_file_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(atomic, "_syncfs", None)
    monkeypatch.setattr(atomic.os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    atomic.flush(str(tmp_path), [str(tmp_path / "a"), str(tmp_path / "b")])
    assert synced == [(tmp_path / name).stat().st_ino for name in "ab"]


@pytest.mark.skipif(atomic._syncfs is None, reason="needs syncfs")
def test_a_failing_syncfs_is_heard(tmp_path, monkeypatch):
    atomic.flush(str(tmp_path), [])

    def fail(descriptor):
        ctypes.set_errno(5)
        return -1

    monkeypatch.setattr(atomic, "_syncfs", fail)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.flush(str(tmp_path), [])

"""A server that speaks the S3 protocol, on this machine: folders and shards, a killed run, two ranks."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from puretransforms.cleaning.clean import clean
from puretransforms.cleaning.verify import verify
from puretransforms.transforms.coin import COINInterpolate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SCRIPT = """
import json, sys, time
from puretransforms.cleaning.clean import clean
from puretransforms.transforms.coin import COINInterpolate

class Slow(COINInterpolate):
    def forward(self, x):
        time.sleep(0.3)
        return super().forward(x)

Slow.__module__, Slow.__qualname__ = COINInterpolate.__module__, COINInterpolate.__qualname__
Slow.__name__ = COINInterpolate.__name__
clean("s3://bucket/source", "s3://bucket/killed", Slow(), workers=2, unit_size=4, progress=False,
      options=json.loads(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def options():
    """What fsspec needs to reach the server."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield {"endpoint_url": address, "key": "test", "secret": "test"}
        server.terminate()


@pytest.fixture
def bucket(options, source):
    import s3fs

    files = s3fs.S3FileSystem(**options)
    if files.exists("bucket"):
        files.rm("bucket", recursive=True)
    files.mkdir("bucket")
    files.put(str(source), "bucket/source", recursive=True)
    return files


def objects(files, top):
    files.invalidate_cache()
    return {path.removeprefix(f"{top}/"): hashlib.sha256(files.cat_file(path)).hexdigest() for path in files.find(top)}


def quietly(source, out, options, **more):
    return clean(source, out, COINInterpolate(), progress=False, options=options, **{"unit_size": 4, **more})


def test_from_and_to_s3_as_from_folder_to_folder(options, bucket, source, tmp_path, snapshot):
    quietly(source, tmp_path / "local", None, workers=1)
    expected = {name: digest for name, digest in snapshot(tmp_path / "local").items() if digest != "folder"}
    result = quietly("s3://bucket/source", "s3://bucket/out", options, workers=2)
    assert objects(bucket, "bucket/out") == expected
    assert result.verify() == verify("s3://bucket/out", options=options)
    assert result.suspects(tmp_path / "suspects.csv") == 24

    for rank in (1, 0):
        quietly("s3://bucket/source", "s3://bucket/ranks", options, workers=1, rank=rank, world_size=2)
    assert objects(bucket, "bucket/ranks") == expected

    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (units := bucket.glob("bucket/killed/.puretransforms/units/*.jsonl")) and process.poll() is None:
            bucket.invalidate_cache()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    halfway = objects(bucket, "bucket/killed")
    final = {name: digest for name, digest in halfway.items() if not name.startswith(".puretransforms")}
    assert units and final.items() <= expected.items() and "manifest.jsonl" not in final
    quietly("s3://bucket/source", "s3://bucket/killed", options, workers=1)
    assert objects(bucket, "bucket/killed") == expected

"""Killed with SIGKILL at random moments, then finished: the bytes are those of a run that nobody disturbed."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

SCRIPT = """
import os, random, signal, sys, time
from puretransforms.cleaning.clean import clean
from puretransforms.transforms.coin import COINInterpolate

class Slow(COINInterpolate):
    def forward(self, x):
        time.sleep(0.004)
        return super().forward(x)

def run(out, rank=0, world_size=1):
    child = os.fork()
    if child:
        return child
    clean(source, out, Slow(), batch_size=4, workers=2, unit_size=8, progress=False, rank=rank, world_size=world_size)
    os._exit(0)

def finish(*children):
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)

source, kills = sys.argv[1], int(sys.argv[4])
start = time.monotonic()
finish(run(sys.argv[2]))
whole = time.monotonic() - start
moments = random.Random(kills)
killed = 0
for _ in range(kills):
    child = run(sys.argv[3])
    time.sleep(moments.uniform(0.2, 0.9) * whole)
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    whole *= 0.8
finish(run(sys.argv[3]))
finish(*(run(sys.argv[3] + "-ranks", rank, 3) for rank in range(3)))
print(killed)
"""


@pytest.mark.parametrize(
    ("kills", "files"), [(4, 90), pytest.param(40, 1000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_killed_and_resumed_is_byte_identical(tmp_path, source, picture, snapshot, kills, files):
    for number in range(100, 76 + files):
        picture(number).save(source / f"dog/{number}.jpg")
    (source / "dog/bad.png").write_bytes(b"bad")
    outs = [tmp_path / name for name in ("whole", "killed", "killed-ranks")]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(source), str(outs[0]), str(outs[1]), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2, "the runs were too fast to be killed"
    whole, killed, ranks = (snapshot(out) for out in outs)
    assert killed == whole
    assert ranks == whole
    assert not any(name.endswith(".tmp") for name in whole)
    assert {str(out) for out in tmp_path.glob("*.quarantine")} == {f"{out}.quarantine" for out in outs}
    assert {tuple(snapshot(out).items()) for out in tmp_path.glob("*.quarantine")} == {
        tuple(snapshot(tmp_path / "whole.quarantine").items())
    }
    with (outs[1] / "manifest.jsonl").open() as lines:
        paths = [json.loads(line)["path"] for line in lines]
    assert paths == sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())

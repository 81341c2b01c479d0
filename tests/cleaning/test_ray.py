"""The same bytes on a Ray cluster of this machine, also where an actor is killed; errors come through as they are."""

import gc
import hashlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from puretransforms.cleaning.clean import clean
from puretransforms.errors import PurifierError
from puretransforms.transforms.coin import COINInterpolate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Slow(COINInterpolate):
    """Leaves time to kill someone."""

    def forward(self, x):
        time.sleep(0.3)
        return super().forward(x)


class Broken(COINInterpolate):
    """Gives back floats."""

    def forward(self, x):
        return super().forward(x).float()


@pytest.fixture(scope="module")
def cluster():
    """Two cores; the classes of this file travel with the job."""
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()
    gc.collect()  # Ray leaves handles of its processes behind, which would warn later


def quietly(source, out, purifier, **options):
    return clean(source, out, purifier, progress=False, **{"unit_size": 4, **options})


def actors() -> list[int]:
    """The processes of this machine that are one of our actors."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        found += [int(folder.name)] if b"UnitCleaner" in title else []
    return found


def test_ray_gives_the_bytes_of_the_local_engine_also_when_an_actor_dies(cluster, source, tmp_path, picture, snapshot):
    for number in range(100, 124):
        picture(number).save(source / f"dog/{number}.png")
    (source / "dog/bad.png").write_bytes(b"bad")
    quietly(source, tmp_path / "local", Slow(), workers=1)
    victims = []

    def kill():
        marks = tmp_path / "ray/.puretransforms/units"
        while not (marks.is_dir() and list(marks.iterdir())):
            time.sleep(0.05)
        victims.extend(actors()[:1])
        os.kill(victims[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = quietly(source, tmp_path / "ray", Slow(), engine="ray", actors=2)
    killer.join(timeout=10)
    assert victims and result.complete
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
    assert snapshot(tmp_path / "ray.quarantine") == snapshot(tmp_path / "local.quarantine")


def test_data_sets_and_errors_travel(cluster, tmp_path, picture, snapshot):
    data = [(picture(number), number % 3) for number in range(9)]
    for engine in ("local", "ray"):
        quietly(data, tmp_path / engine, COINInterpolate(), engine=engine, workers=1)
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
    pixels = np.concatenate([np.asarray(image) for image, _ in data])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() not in snapshot(tmp_path / "ray").values()
    with pytest.raises(PurifierError, match="expected the purifier to turn uint8"):
        quietly(data, tmp_path / "broken", Broken(), engine="ray", actors=1)
    assert not (tmp_path / "broken/manifest.jsonl").exists()

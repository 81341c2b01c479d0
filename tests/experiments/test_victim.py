"""The cells at full size: each is measured once, a killed run goes on, places differ as they should."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from puretransforms.train.settings import QUARTER

SCRIPT = Path(__file__).parents[2] / "experiments" / "victim.py"
NONE, JPEG = "quarter/clean/none/once/0", "quarter/lsp/jpeg-30-10/once/0"


@pytest.fixture
def victim(monkeypatch):
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("victim", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SETTINGS", {"quarter": replace(QUARTER, width=(4, 8, 8), epochs=2, batch_size=20)})
    return module


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("test", 20)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 10
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def cells(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_finished_cell_is_not_measured_again_and_an_unfinished_one_is(victim, archive, tmp_path, monkeypatch):
    results = tmp_path / "results" / "cells.jsonl"
    victim.main(archive, results, NONE)
    first = cells(results)
    monkeypatch.setattr(victim, "evaluate", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    victim.main(archive, results, NONE)
    with pytest.raises(KeyboardInterrupt):
        victim.main(archive, results, NONE, JPEG)
    assert cells(results) == first
    monkeypatch.undo()
    monkeypatch.setattr(victim, "SETTINGS", {"quarter": replace(QUARTER, width=(4, 8, 8), epochs=2, batch_size=20)})
    victim.main(archive, results, NONE, JPEG)
    assert [record["cell"] for record in cells(results)] == [NONE, JPEG]
    for record in cells(results):
        assert len(record["test_by_epoch"]) == len(record["train_by_epoch"]) == 2
        assert record["test_accuracy"] == record["test_by_epoch"][-1]
        assert {"cpu", "amx", "threads", "date", "command", "seconds", "data"} <= record.keys()


def test_places_purify_what_they_say(victim, archive, monkeypatch):
    data, seen = victim.read(archive), {}
    train = type(QUARTER).train

    def spy(self, images, labels, seed, transform):
        seen["train"], seen["online"] = images, transform
        return train(self, images, labels, seed=seed, transform=transform)

    def test(model, images, labels):
        seen["test"] = images
        return 0.0

    monkeypatch.setattr(type(QUARTER), "train", spy)
    monkeypatch.setattr(victim, "evaluate", test)
    for place in ("once", "access", "test"):
        victim.measure(f"quarter/clean/jpeg-10/{place}/0", *data)
        assert torch.equal(seen["train"], data[0]) == (place == "access")
        assert (seen["online"] is not None) == (place == "access")
        assert torch.equal(seen["test"], data[2]) == (place != "test")
    with pytest.raises(SystemExit, match="expected a place of once, access, test, got 'later'"):
        victim.measure("quarter/clean/jpeg-10/later/0", *data)


def test_the_number_of_epochs_can_be_part_of_the_cell(victim, archive):
    record = victim.measure("quarter/ar/none/once/0/3", *victim.read(archive))
    assert len(record["test_by_epoch"]) == record["setting"]["epochs"] == 3

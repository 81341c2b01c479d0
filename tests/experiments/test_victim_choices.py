"""The cells of the choices: each is measured once, a killed run goes on, the filters are those that the cell names."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from puretransforms.benchmark.attacks import find_attack
from puretransforms.benchmark.sources import load_data
from puretransforms.models.airbench import AirbenchNet
from puretransforms.train.settings import QUARTER

SCRIPTS = Path(__file__).parents[2] / "experiments"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = script("victim_choices")
    small = replace(QUARTER, width=(4, 8, 8), batch_size=20)
    whole = module.measure
    monkeypatch.setattr(module, "measure", lambda cell, train, test: whole(cell, train, test, small))
    return module


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("test", 20)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 10
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def test_a_finished_cell_stays_and_a_killed_one_is_run_again(
    choices: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first, second = str(tmp_path / "out.jsonl"), "ar/stored/0/2/0", "lsp/set/0.2/1/3"
    choices.main(str(archive), out, first)
    before = Path(out).read_text()
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(choices, "evaluate", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        choices.main(str(archive), out, first, second)
    assert Path(out).read_text() == before
    choices.main(str(archive), out, first, second)
    lines = [json.loads(line) for line in Path(out).read_text().splitlines()]
    assert [line["cell"] for line in lines] == [first, second]
    assert [(line["setting"]["label_smoothing"], len(line["test"])) for line in lines] == [(0.0, 2), (0.2, 1)]
    assert all({"hardware", "threads", "code", "date", "data", "command"} <= line.keys() for line in lines)


def test_the_filters_of_the_set_decorrelate_it_and_the_stored_ones_do_not(choices: ModuleType) -> None:
    images = torch.randint(256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = images // 2 + images.roll(1, 3) // 2
    model = AirbenchNet(width=(4, 8, 8))
    for whitened in (False, True):
        if whitened:
            choices.whiten(model, images)
        with torch.no_grad():
            seen = model.whiten(images.float() / 255) - model.whiten.bias[:, None, None]
        second = torch.cov(seen[:, :12].transpose(0, 1).flatten(1))
        apart = (second - torch.eye(12)).abs().max()
        assert (apart < 0.05) == whitened, apart


def test_an_unknown_whitening_is_refused(choices: ModuleType, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="stored, set, got 'other'"):
        choices.main(str(archive), str(tmp_path / "out.jsonl"), "ar/other/0/2/0")


def test_the_part_that_a_published_set_covers(archive: Path, tmp_path: Path) -> None:
    train, test = load_data(archive)
    places = np.array([31, 4, 17])
    x = 255 - train.images[places].permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "tap.npz", x=x, y=train.targets[places].numpy(), index=places)
    script("published_part").main(str(archive), str(tmp_path / "tap.npz"), str(tmp_path / "part"))
    part, part_test = load_data(tmp_path / "part" / "clean.npz")
    assert torch.equal(part.images, train.images[[4, 17, 31]]) and torch.equal(part_test.images, test.images)
    attacked = find_attack(f"published:path={tmp_path / 'part' / 'published.npz'}").run(part, part_test, 10)
    assert attacked.mask.all() and torch.equal(attacked.images, 255 - part.images)

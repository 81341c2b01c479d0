"""A grid is run once: each case leaves one file, a second run goes on, other data or settings are refused."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from puretransforms.benchmark import grid
from puretransforms.benchmark.cases import PRESETS, Case, Preset
from puretransforms.benchmark.entries import RESULTS, entry_name, load_entries, load_fidelity, load_results
from puretransforms.benchmark.grid import Progress, command_of, duration, run_bench
from puretransforms.benchmark.run import Bench
from puretransforms.errors import BenchmarkError, ManifestMismatchError, RegistryError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.train.settings import ClassifierSetting

pytest.importorskip("sklearn")
SETTING = ClassifierSetting("least", width=4, epochs=1, network=SmallConvNet, batch_size=50)
LEAST = Preset(
    "least",
    SETTING,
    ("clean", "cuda"),
    ("none", "grayscale", "mixup"),
    (0, 1),
    train_size=50,
    test_size=40,
    digits=True,
)
CASES = list(LEAST.cases())


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "deep" / "out"
    run_bench(LEAST, folder, say=told.append)
    return folder


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / RESULTS).iterdir()}


def test_a_file_for_each_case_with_what_it_was_made_of(out: Path) -> None:
    assert sorted(files(out)) == sorted(map(entry_name, CASES))
    entries = load_entries(out)
    assert {entry.result.case for entry in entries} == set(CASES)
    about = entries[0].about
    assert about["train_images"] == 50 and about["test_images"] == 40 and about["setting"]["name"] == "least"
    assert about["torch"] == torch.__version__ and about["threads"] >= 1 and about["data"] == entries[-1].about["data"]


def test_images_are_measured_once_a_pair(out: Path) -> None:
    found = [(f.poison, f.purifier) for f in load_fidelity(out)]
    assert sorted(found) == sorted((p, q) for p in ("clean", "cuda") for q in ("none", "grayscale"))
    by_case = {entry.result.case: entry.fidelity for entry in load_entries(out)}
    assert by_case[CASES[4]] == by_case[CASES[10]] is not None, "the second seed has the measurement of the first"


def test_it_is_said_how_far_a_run_is_and_how_to_go_on(out: Path, told: list[str]) -> None:
    assert told[0].startswith("12 cases. Each is written to ") and "run the same command again" in told[0]
    assert [line.split(": ")[0] for line in told[1:]] == [f"{c.poison} / {c.purifier}, seed {c.seed}" for c in CASES]
    assert "(1 of 12, about " in told[1] and told[11].count("to go)") == 1 and "to go" not in told[12]


def test_what_is_finished_is_not_run_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    once = Bench.run
    monkeypatch.setattr(Bench, "run", lambda self, case, *rest: ran.append(case) or once(self, case, *rest))
    before, told = files(out), []
    results = run_bench(LEAST, out, say=told.append)
    assert ran == [] and told == [] and files(out) == before
    assert [result.case for result in results] == CASES
    last = out / RESULTS / entry_name(CASES[-1])
    stored = json.loads(last.read_text())
    last.unlink()
    (out / RESULTS / f"{last.name}.0f.tmp").write_text('{"res')  # what a kill leaves of a file in the making
    try:
        run_bench(LEAST, out, say=told.append)
        assert ran == [CASES[-1]] and told[0].startswith("12 cases, 11 of them done before.")
        again = json.loads(last.read_text())
        for made in (stored, again):
            made["result"]["seconds"] = 0
            made.pop("about")
        assert again == stored, "the same numbers"
    finally:
        last.write_bytes(before[last.name])
        (out / RESULTS / f"{last.name}.0f.tmp").unlink()


def test_an_interrupted_case_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bench(LEAST, tmp_path, say=lambda text: None, on_epoch=stop)
    assert list(files(tmp_path)) == [entry_name(CASES[0])]


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"setting": replace(SETTING, epochs=2)}, "setting"), ({"train_size": 60}, "data"), ({"test_size": 41}, "data")],
)
def test_results_of_something_else_are_refused(out: Path, changes: dict, word: str) -> None:
    with pytest.raises(ManifestMismatchError, match=f"expected results with {word}.*choose another folder"):
        run_bench(replace(LEAST, **changes), out, say=print)


def test_what_another_process_finishes_meanwhile_is_left_to_it(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run_one(self: Bench, case: Case, *rest: object) -> object:
        ran.append(case)
        (tmp_path / RESULTS).mkdir()
        for name, content in files(out).items():
            if name != entry_name(CASES[0]):
                (tmp_path / RESULTS / name).write_bytes(content)
        return next(result for result in load_results(out) if result.case == CASES[0])

    monkeypatch.setattr(Bench, "run", run_one)
    assert len(run_bench(LEAST, tmp_path, say=lambda text: None)) == 12
    assert ran == CASES[:1] and len(files(tmp_path)) == 12


def test_unknown_names_stop_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "load_data", lambda source: pytest.fail("loaded"))
    with pytest.raises(RegistryError, match="'arsenic'"):
        run_bench(LEAST.with_grid(["lsp", "arsenic"]), tmp_path)
    with pytest.raises(RegistryError, match="'bleach'"):
        run_bench(LEAST.with_grid(None, ["bleach"]), tmp_path)
    with pytest.raises(BenchmarkError, match="data for the preset 'quarter'"):
        run_bench(PRESETS["quarter"], tmp_path)


def test_one_column_under_two_names_runs_once(tmp_path: Path) -> None:
    one = replace(LEAST, seeds=(0,), poisons=("clean",)).with_grid(["clean"], ["grayscale", "grayscale@once"])
    results = run_bench(one, tmp_path, say=lambda text: None)
    assert [result.purifier for result in results] == ["none", "grayscale"]


def test_the_command_of_a_case_runs_that_case_again(tmp_path: Path) -> None:
    (tmp_path / "my data.npz").write_text("")
    case = Case("badnets:target=3", "vae:weights=null@once", "digits", 2)
    words = shlex.split(command_of(case, PRESETS["tiny"], tmp_path / "my data.npz"))
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["puretransforms", "bench"] and given.pop("--out")
    assert given == {
        "--preset": "tiny",
        "--data": "my data.npz",
        "--poisons": case.poison,
        "--purifiers": case.purifier,
        "--seeds": "2,",
    }
    assert "torchvision:CIFAR10:data" in command_of(case, PRESETS["full"], "torchvision:CIFAR10:data")
    assert "--epochs" not in words
    longer = shlex.split(command_of(case, PRESETS["tiny"].with_grid(epochs=40), None))
    assert longer[longer.index("--epochs") + 1] == "40"
    assert "--data" not in command_of(case, PRESETS["tiny"], None)


def test_progress_at_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(grid.time, "monotonic", lambda: now[0])
    progress = Progress(len(CASES), 2, epochs=4)
    said: list[str] = []
    progress.begin(CASES[2])
    tell = progress.teller(lambda state: said.append(str(state)))
    now[0] = 130.0
    tell(1, 0.5)
    assert progress.seconds_left == pytest.approx(30 * 4 * 9.75)
    assert said == ["case 3 of 12, clean / mixup, seed 0: epoch 1 of 4, 50.0%, about 20 min to go"]
    now[0] = 200.0
    progress.end()
    assert progress.seconds_left == pytest.approx(100 * 9) and progress.rest() == " (3 of 12, about 15 min to go)"
    assert str(progress) == "3 of 12 cases" and progress.left == 9


@pytest.mark.parametrize(
    ("seconds", "text"), [(40.0, "40 s"), (89.4, "89 s"), (95.0, "2 min"), (5340.0, "89 min"), (12000.0, "3 h 20 min")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_cache_is_what_a_second_process_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(LEAST, seeds=(0,)).with_grid(["cuda"], ["grayscale"])
    first = run_bench(one, tmp_path / "a", cache=tmp_path / "cache", say=lambda text: None)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    monkeypatch.setattr(
        "puretransforms.poisons.availability.convolution.CUDA.perturb", lambda *_: pytest.fail("poisoned again")
    )
    second = run_bench(one, tmp_path / "b", cache=tmp_path / "cache", say=lambda text: None)
    assert [result.test for result in first] == [result.test for result in second]

"""A grid is run once: each case leaves one line, a second run goes on, other data or settings are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from puretransforms.benchmark import grid
from puretransforms.benchmark.cases import Preset
from puretransforms.benchmark.grid import FIDELITY, RESULTS, load_fidelity, load_results, provenance, run_bench
from puretransforms.benchmark.run import Bench
from puretransforms.errors import BenchmarkError, ManifestMismatchError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.train.settings import ClassifierSetting

pytest.importorskip("sklearn")
SETTING = ClassifierSetting("least", width=4, epochs=1, network=SmallConvNet, batch_size=50)
LEAST = Preset("least", SETTING, ("clean", "cuda"), ("none", "gray", "mixup"), (0, 1), train_size=50, test_size=40)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "deep" / "out"
    run_bench(LEAST, folder, say=lambda text: None)
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_each_case_with_what_it_was_made_of(out: Path) -> None:
    found = lines(out / RESULTS)
    assert [(line["poison"], line["purifier"], line["seed"]) for line in found] == [
        (poison, purifier, seed)
        for seed in (0, 1)
        for poison in ("clean", "cuda")
        for purifier in ("none", "gray", "mixup")
    ]
    about = found[0]["about"]
    assert about["train_images"] == 50 and about["test_images"] == 40 and about["setting"]["name"] == "least"
    assert about["torch"] == torch.__version__ and about["threads"] >= 1
    assert [result.case for result in load_results(out / RESULTS)] == list(LEAST.cases())


def test_the_lines_say_in_a_sentence_what_they_were_measured_with(out: Path, tmp_path: Path) -> None:
    text = provenance(out / RESULTS)
    assert text.startswith("Setting least: SmallConvNet of width 4, 1 epochs, batches of 50; 50 training and 40 test")
    assert text.count(torch.__version__) == 1 and provenance(tmp_path / "none") == ""


def test_images_are_measured_once_a_pair(out: Path) -> None:
    assert [(f.poison, f.purifier) for f in load_fidelity(out / FIDELITY)] == [
        ("clean", "none"),
        ("clean", "gray"),
        ("cuda", "none"),
        ("cuda", "gray"),
    ]
    assert len(lines(out / FIDELITY)) == 4


def test_what_is_finished_is_not_run_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    once = Bench.run
    monkeypatch.setattr(Bench, "run", lambda self, case, setting: ran.append(case) or once(self, case, setting))
    before = lines(out / RESULTS)
    told: list[str] = []
    results = run_bench(LEAST, out, say=told.append)
    assert ran == [] and told == [] and lines(out / RESULTS) == before
    assert [result.case for result in results] == list(LEAST.cases())
    whole = (out / RESULTS).read_text()
    try:
        (out / RESULTS).write_text(whole[: whole.rindex("}") - 90])  # a kill in the middle of the last line
        run_bench(LEAST, out, say=told.append)
        assert [case for case in ran] == [list(LEAST.cases())[-1]]
        assert told[0].startswith("cuda / mixup, seed 1: ")
        again = lines(out / RESULTS)
        assert {**again[-1], "seconds": 0} == {**before[-1], "seconds": 0}, "the same numbers"
        assert again[:-1] == before[:-1]
    finally:
        (out / RESULTS).write_text(whole)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"setting": replace(SETTING, epochs=2)}, "setting"), ({"train_size": 60}, "data"), ({"test_size": 41}, "data")],
)
def test_results_of_something_else_are_refused(out: Path, changes: dict, word: str) -> None:
    with pytest.raises(ManifestMismatchError, match=f"expected results with {word}.*choose another folder"):
        run_bench(replace(LEAST, **changes), out, say=print)


def test_a_foreign_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text('{"poison": "lsp"}\n')
    with pytest.raises(ManifestMismatchError, match="a result in line 1"):
        load_results(tmp_path / RESULTS)


def test_a_case_run_twice_counts_once(out: Path, tmp_path: Path) -> None:
    whole = (out / RESULTS).read_text()
    (tmp_path / RESULTS).write_text(whole + whole.splitlines()[2] + "\n")
    assert load_results(tmp_path / RESULTS) == load_results(out / RESULTS)


def test_what_another_process_finishes_meanwhile_is_left_to_it(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (out / RESULTS).read_text().splitlines(keepends=True)
    ran = []

    def run_one(self: Bench, case: object, setting: object) -> object:
        ran.append(case)
        (tmp_path / RESULTS).write_text("".join(whole[1:]))
        return load_results(out / RESULTS)[0]

    monkeypatch.setattr(Bench, "run", run_one)
    assert len(run_bench(LEAST, tmp_path, say=lambda text: None)) == 12
    assert ran == [next(LEAST.cases())] and len(lines(tmp_path / RESULTS)) == 12


def test_unknown_names_stop_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "load_data", lambda source: pytest.fail("loaded"))
    with pytest.raises(BenchmarkError, match="'arsenic'"):
        run_bench(LEAST.with_grid(["lsp", "arsenic"]), tmp_path)
    with pytest.raises(BenchmarkError, match="'bleach'"):
        run_bench(LEAST.with_grid(None, ["bleach"]), tmp_path)


def test_the_cache_is_what_a_second_process_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(LEAST, seeds=(0,)).with_grid(["cuda"], ["gray"])
    first = run_bench(one, tmp_path / "a", cache=tmp_path / "cache", say=lambda text: None)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    monkeypatch.setattr(
        "puretransforms.poisons.availability.convolution.CUDA.perturb", lambda *_: pytest.fail("poisoned again")
    )
    second = run_bench(one, tmp_path / "b", cache=tmp_path / "cache", say=lambda text: None)
    assert [result.test for result in first] == [result.test for result in second]

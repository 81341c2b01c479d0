"""``puretransforms bench``: from words to a report; what it does not understand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from puretransforms.benchmark import cases, command
from puretransforms.benchmark.command import chosen_grid, run_command, split_specs
from puretransforms.cli.main import app
from puretransforms.errors import BenchmarkError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.train.settings import ClassifierSetting

SETTING = ClassifierSetting("least", width=4, epochs=1, network=SmallConvNet, batch_size=50)


def bench(*words: object) -> object:
    return CliRunner().invoke(app, ["bench", *(str(word) for word in words)])


def test_a_row_and_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    tiny = replace(cases.PRESETS["tiny"], setting=SETTING, train_size=40, test_size=30)
    monkeypatch.setitem(command.PRESETS, "tiny", tiny)
    out = tmp_path / "out"
    words = (
        "--out",
        out,
        "--poisons",
        "badnets:target=3",
        "--purifiers",
        "grayscale",
        "--seeds",
        "1",
        "--threads",
        "1",
    )
    result = bench(*words)
    assert result.exit_code == 0, result.output
    assert "| badnets:target=3 |" in result.stdout and "Attack success" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "accuracy.svg",
        "fidelity.svg",
        "report.html",
        "report.json",
        "report.md",
        "results",
    ]
    assert "<h1>Benchmark report</h1>" in (out / "report.html").read_text()
    assert len(json.loads((out / "report.json").read_text())["cells"]) == 4
    assert result.stderr.count("seed 0") == 4 and "run the same command again" in " ".join(result.stderr.split())
    assert "Which poisons bite on this victim" in result.stdout
    assert (out / "report.md").read_text().strip() == result.stdout.strip()
    again = bench(*words)
    assert again.stdout == result.stdout and "seed 0" not in again.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--preset", "huge"), "expected a preset among tiny, quarter, full, gpu"),
        (("--poisons", "arsenic"), "expected a poison among"),
        (("--purifiers", "bleach"), "expected a purifier among"),
        (("--seeds", "some"), "expected seeds as a count"),
        (("--data", "nowhere.npz"), "nowhere.npz"),
    ],
)
def test_refusals_are_one_line_with_the_fix(tmp_path: Path, words: tuple, hint: str) -> None:
    result = bench("--out", tmp_path / "out", *words)
    assert result.exit_code == 1 and hint in " ".join(result.stderr.split()) and "Traceback" not in result.output


@pytest.mark.parametrize(("text", "seeds"), [("2", (0, 1)), ("0,2", (0, 2)), ("2,", (2,)), (None, (0, 1, 2))])
def test_seeds(text: str | None, seeds: tuple[int, ...]) -> None:
    assert chosen_grid("full", None, None, text).seeds == seeds


def test_no_seed_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="got ','"):
        chosen_grid("full", None, None, ",")


def test_commas_inside_a_value_do_not_part_names() -> None:
    words = 'chain:steps=["coin","jpeg"], grayscale,,auto@once'
    assert split_specs(words) == ['chain:steps=["coin","jpeg"]', "grayscale", "auto@once"]
    grid = chosen_grid("tiny", "lsp", words, None)
    assert grid.purifiers == ("none", 'chain:steps=["coin","jpeg"]', "grayscale", "auto@once")


def test_who_stops_a_run_is_told_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_bench", stop)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_command("tiny", tmp_path, say=said.append)
    assert len(said) == 1 and str(tmp_path / "results") in said[0] and "the same command goes on" in said[0]

"""The command line: what it passes on, what it refuses, what it prints."""

import json

import numpy as np
import PIL.Image
import pytest
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F
from typer.testing import CliRunner

from puretransforms.cli.main import POISONS, PURIFIERS, app


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def source(tmp_path, photo):
    for label, name in enumerate("ab"):
        (tmp_path / "source" / name).mkdir(parents=True)
        for i in range(3):
            F.to_pil_image(photo.roll(5 * i + label, 2)).save(tmp_path / "source" / name / f"{i}.png")
    return tmp_path / "source"


def test_poison_clean_verify(source, tmp_path):
    poisoned, purified = tmp_path / "poisoned", tmp_path / "purified"
    result = run("poison", source, poisoned, "--with", "cuda", "--set", "kernel_size=5", "--seed", 3)
    assert result.exit_code == 0, result.output
    record = json.loads((poisoned / "poison.json").read_text())
    assert record["poison"]["arguments"]["kernel_size"] == 5 and record["poison"]["arguments"]["seed"] == 3
    result = run("clean", poisoned, purified, "--with", "coin", "--set", "alpha=1.5", "--no-progress")
    assert result.exit_code == 0, result.output
    assert "alpha=1.5" in (purified / "run.json").read_text()
    assert ImageFolder(str(purified)).classes == ["a", "b"]
    for path in (purified / "a").iterdir():
        assert not np.array_equal(PIL.Image.open(path), PIL.Image.open(poisoned / "a" / path.name))
    assert run("verify", purified).exit_code == 0
    (purified / "a" / "0.png").write_bytes(b"")
    result = run("verify", purified)
    assert result.exit_code == 1 and "0.png" in result.stderr


def test_scan(source, tmp_path):
    result = run("scan", source, "--out", tmp_path / "scan", "--no-progress", "--fail")
    assert result.exit_code == 0, result.output
    assert "Looked at 6 of 6 images" in result.output and "does not make the data clean" in result.output
    assert (tmp_path / "scan" / "scan.html").exists() and str(tmp_path / "scan" / "suspects.csv") in result.output
    for path in (source / "a").iterdir():
        pixels = np.asarray(PIL.Image.open(path)).copy()
        pixels[0], pixels[:, 0] = pixels[0] // 2, pixels[:, 0] // 2
        for i in range(15):
            PIL.Image.fromarray(pixels).save(source / "a" / f"{path.stem}-{i}.png")
    result = run("scan", source, "--sample", 0, "--no-progress", "--fail")
    assert result.exit_code == 2 and "convolution" in result.output and "COIN" in result.output


def test_a_dry_run_writes_nothing(source, tmp_path):
    assert run("clean", source, tmp_path / "out", "--with", "jpeg", "--dry-run").exit_code == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("clean", "{s}", "{o}", "--with", "bleach"), "coin"),
        (("clean", "{s}", "{o}", "--with", "coin", "--set", "alpha"), "NAME=VALUE"),
        (("clean", "{s}", "{o}", "--with", "auto", "--set", "alpha=1"), "the scan chooses"),
        (("scan", "{s}/nowhere"), "no such folder"),
        (("scan", "{s}", "--vae", "{s}/nowhere"), "nowhere"),
        (("clean", "{s}", "{o}", "--with", "coin", "--set", "beta=1"), "alpha"),
        (("clean", "{s}", "{o}", "--with", "coin", "--set", "alpha=-1"), "alpha"),
        (("clean", "{s}/nowhere", "{o}", "--with", "coin"), "no such folder"),
        (("clean", "{s}", "{s}/out", "--with", "coin"), "source"),
        (("poison", "{s}", "{o}", "--with", "cuda", "--set", "kernel_size=2"), "kernel_size"),
        (("poison", "{s}", "{o}", "--with", "sig", "--rate", "0.9"), "lower the rate"),
        (("poison", "{s}", "{o}", "--with", "cuda", "--rate", "2"), "rate from 0 to 1"),
        (("poison", "{s}/nowhere", "{o}", "--with", "cuda"), "nowhere"),
        (("poison", "{s}", "{s}", "--with", "em_samplewise"), "new or empty"),
        (("poison", "{s}", "{o}", "--with", "rem"), "on a GPU for REM"),
        (("poison", "{s}", "{o}", "--with", "tap", "--set", "epochs=1", "--device", "abacus"), "abacus"),
    ],
)
def test_refusals_are_one_line_with_the_fix(source, tmp_path, words, hint):
    result = run(*(word.format(s=source, o=tmp_path / "out") for word in words))
    assert result.exit_code in (1, 2) and hint in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize("name", ["badnets", "blend", "bpp", "sig", "wanet", "cuda"])
def test_every_poison_runs_at_its_own_rate(source, tmp_path, name):
    result = run("poison", source, tmp_path / "out", "--with", name)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "poison.json").read_text())
    assert record["rate"] == POISONS[name].default_rate
    assert sum(row["poisoned"] for row in record["files"].values()) == (6 if name == "cuda" else 1)


def test_a_corrupt_image_is_one_line(source, tmp_path):
    (source / "a" / "1.png").write_bytes(b"no picture")
    result = run("poison", source, tmp_path / "out", "--with", "ops")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit) and "1.png" in result.stderr


def test_crafting_shows_a_bar_unless_told_not_to(source, tmp_path):
    words = ("poison", source, "--with", "tap")
    toy = [word for option in ("width=8", "epochs=1", "steps=2", "restarts=1") for word in ("--set", option)]
    shown = run(*words, tmp_path / "a", *toy)
    hidden = run(*words, tmp_path / "b", *toy, "--no-progress")
    assert shown.exit_code == hidden.exit_code == 0, shown.output
    assert "surrogate: 100%" in shown.stderr and "perturbation: 100%" in shown.stderr and hidden.stderr == ""


@pytest.mark.parametrize("length", range(60, 76))
def test_an_error_is_never_wrapped(length, tmp_path):
    """A path is whole on one line, wherever it would reach the edge of a terminal of 80 columns."""
    path = tmp_path / ("a" * length) / ("b c" * 60) / "nowhere"
    result = run("scan", path)
    assert result.exit_code == 1 and str(path) in result.stderr and len(result.stderr.splitlines()) == 1


def test_every_name_builds():
    for table in (PURIFIERS, POISONS):
        assert list(table) == sorted(table)
        assert all(cls() for cls in table.values())

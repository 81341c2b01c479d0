"""The command line: what it passes on, what it refuses, what it prints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F
from typer.testing import CliRunner

import puretransforms as pt
from puretransforms.cli.main import app
from puretransforms.cli.shell import one_line
from puretransforms.errors import SourceError
from puretransforms.registry import find

ROOT = Path(__file__).parents[2]


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def check_one_line(result, status=(1, 2)):
    """An error, in one line without a traceback."""
    assert result.exit_code in status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr


@pytest.fixture
def source(tmp_path, photo):
    for label, name in enumerate("ab"):
        (tmp_path / "source" / name).mkdir(parents=True)
        for i in range(3):
            F.to_pil_image(photo.roll(5 * i + label, 2)).save(tmp_path / "source" / name / f"{i}.png")
    return tmp_path / "source"


def test_poison_clean_verify(source, tmp_path):
    poisoned, purified = tmp_path / "poisoned", tmp_path / "purified"
    result = run("poison", source, poisoned, "--with", "cuda:kernel_size=5", "--seed", 3)
    assert result.exit_code == 0, result.output
    record = json.loads((poisoned / "poison.json").read_text())
    assert record["poison"]["arguments"]["kernel_size"] == 5 and record["poison"]["arguments"]["seed"] == 3
    assert record["poison"]["arguments"]["num_classes"] == 2
    result = run("clean", poisoned, purified, "--with", "coin:alpha=1.5", "--no-progress")
    assert result.exit_code == 0, result.output
    assert "alpha=1.5" in (purified / "run.json").read_text()
    assert ImageFolder(str(purified)).classes == ["a", "b"]
    for path in (purified / "a").iterdir():
        assert not np.array_equal(PIL.Image.open(path), PIL.Image.open(poisoned / "a" / path.name))
    assert run("verify", purified).exit_code == 0
    (purified / "a" / "0.png").write_bytes(b"")
    result = run("verify", purified)
    assert "0.png" in result.stderr
    check_one_line(result)


def test_several_purifiers_are_a_chain(source, tmp_path):
    result = run("clean", source, tmp_path / "both", "--with", "grayscale", "--with", "jpeg:quality=20")
    assert result.exit_code == 0, result.output
    chain = pt.PurifierChain(["grayscale", "jpeg:quality=20"], seed=0)
    for path in (source / "a").iterdir():
        expected = np.asarray(chain(PIL.Image.open(path)))
        assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "both" / "a" / path.name)), expected)


def test_the_shell_prints_sentences(source, tmp_path):
    """No repr of an object; counts, sizes and places in words."""
    dry = run("clean", source, tmp_path / "out", "--with", "jpeg", "--dry-run")
    done = run("clean", source, tmp_path / "out", "--with", "jpeg", "--no-progress")
    again = run("clean", source, tmp_path / "out", "--with", "jpeg", "--no-progress")
    read = run("verify", tmp_path / "out")
    assert again.stdout.splitlines()[0] == "6 purified: already complete, nothing was done"
    for result in (dry, done, again, read):
        assert result.exit_code == 0, result.output
        assert "(" + str(tmp_path) not in result.stdout and "Path(" not in result.stdout
        assert not any(name in result.stdout for name in ("CleanResult", "DryRun", "VerifyResult", "{'"))
    assert "6 images (" in dry.stdout and "nothing was written" in dry.stdout
    assert "6 purified" in done.stdout and f"purified images in {tmp_path / 'out'}" in done.stdout.splitlines()
    assert read.stdout.startswith("6 files (") and "all equal the manifest of 6 source files" in read.stdout


def test_scan(source, tmp_path):
    result = run("scan", source, "--out", tmp_path / "scan", "--no-progress", "--fail")
    assert result.exit_code == 2, result.output
    assert (
        "in 6 of 6 images: 1 of 10" in result.output and "insufficient: 1 of 10 detectors could look" in result.output
    )
    assert run("scan", source, "--no-progress").exit_code == 0
    assert (tmp_path / "scan" / "scan.html").exists() and str(tmp_path / "scan" / "suspects.csv") in result.output
    for path in (source / "a").iterdir():
        pixels = np.asarray(PIL.Image.open(path)).copy()
        pixels[0], pixels[:, 0] = pixels[0] // 2, pixels[:, 0] // 2
        for i in range(15):
            PIL.Image.fromarray(pixels).save(source / "a" / f"{path.stem}-{i}.png")
    result = run("scan", source, "--sample", 0, "--no-progress", "--fail")
    assert result.exit_code == 2 and "convolution" in result.output and "coin:alpha=2.0" in result.output


def test_a_dry_run_writes_nothing(source, tmp_path):
    assert run("clean", source, tmp_path / "out", "--with", "jpeg", "--dry-run").exit_code == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("bleach",), "No such command"),
        (("--verion",), "--version"),
        (("clean", "{s}"), "Missing"),
        (("clean", "{s}", "{o}"), "--with"),
        (("clean", "{s}", "{o}", "--with", "bleach"), "coin"),
        (("clean", "{s}", "{o}", "--with", "jpg"), "Did you mean 'jpeg'?"),
        (("clean", "{s}", "{o}", "--with", "cuda"), "use it with puretransforms poison"),
        (("clean", "{s}", "{o}", "--with", "jpeg=10"), "Did you mean 'jpeg:quality=10'?"),
        (("clean", "{s}/a/0.png", "{o}", "--with", "coin"), "a/0.png': a file. Give the folder"),
        (("clean", "{s}", "{o}", "--with", "coin:alpha"), "coin:option=value"),
        (("clean", "{s}", "{o}", "--with", "coin", "--set", "alpha=1"), "--set"),
        (("clean", "{s}", "{o}", "--with", "coin", "--batch-size", "many"), "--batch-size"),
        (("clean", "{s}", "{o}", "--with", "coin", "--batch-size", "0"), "batch_size"),
        (("clean", "{s}", "{o}", "--with", "coin", "--engine", "spark"), "spark"),
        (("clean", "{s}", "{o}", "--with", "coin", "--device", "abacus"), "abacus"),
        (("clean", "{s}", "{o}", "--with", "coin", "--dry-run", "--suspects", "s.csv"), "--suspects"),
        (("clean", "{s}", "{o}", "--with", "no.such.module:Class"), "no.such.module"),
        (("clean", "{s}", "{o}", "--with", "json:Nothing"), "json:Nothing"),
        (("clean", "{s}", "{o}", "--with", "puretransforms.poisons.availability.ops:OPS"), "class of a purifier"),
        (("clean", "{s}", "{o}", "--with", "coin:beta=1"), "alpha"),
        (("clean", "{s}", "{o}", "--with", "coin:alpha=-1"), "alpha"),
        (("clean", "{s}", "{o}", "--with", "ebm:weights={s}/nowhere"), "nowhere"),
        (("clean", "{s}/nowhere", "{o}", "--with", "coin"), "no such folder"),
        (("clean", "{s}", "{s}/out", "--with", "coin"), "source"),
        (("clean", "{s}", "{s}/a/0.png", "--with", "coin"), "expected"),
        (("clean", "hf:{s}/nowhere", "{o}", "--with", "coin"), "hf:NAME#SPLIT"),
        (("clean", "torchvision:CIFAR10:{s}", "{o}", "--with", "coin"), "nothing is downloaded here"),
        (("scan", "{s}/nowhere"), "no such folder"),
        (("scan", "{s}", "--vae", "{s}/nowhere"), "nowhere"),
        (("scan", "{s}", "--sample", "-1"), "--sample"),
        (("scan", "torchvision:CIFAR10:{s}"), "nothing is downloaded here"),
        (("verify", "{s}"), "source': a folder without run.json"),
        (("verify", "{s}/nowhere"), "nowhere': no such folder"),
        (("poison", "{s}", "{o}", "--with", "jpeg"), "use it with puretransforms clean"),
        (("poison", "{s}", "{o}", "--with", "bleach"), "expected a poison among"),
        (("poison", "{s}", "{o}", "--with", "cuda:kernel_size=2"), "kernel_size"),
        (("poison", "{s}", "{o}", "--with", "cuda:num_classes=1"), "num_classes"),
        (("poison", "{s}", "{o}", "--with", "sig", "--rate", "0.9"), "lower the rate"),
        (("poison", "{s}", "{o}", "--with", "cuda", "--rate", "2"), "a number from 0 to 1"),
        (("poison", "{s}", "{o}", "--with", "cuda", "--seed", "-1"), "seed"),
        (("poison", "{s}/nowhere", "{o}", "--with", "cuda"), "nowhere"),
        (("poison", "{s}/a", "{o}", "--with", "cuda"), "source/a', which holds no folder: move each image"),
        (("poison", "{s}", "{s}", "--with", "em_samplewise"), "new or empty"),
        (("poison", "{s}", "{o}", "--with", "rem"), "on a GPU for REM"),
        (("poison", "{s}", "{o}", "--with", "tap:epochs=1", "--device", "abacus"), "abacus"),
        (("bench", "--out", "{o}", "--preset", "huge"), "tiny"),
        (("bench", "--out", "{o}", "--poisons", "bleach"), "bleach"),
        (("bench", "--out", "{o}", "--purifiers", "bleach"), "bleach"),
        (("bench", "--out", "{o}", "--seeds", "x"), "seeds"),
        (("bench", "--out", "{o}", "--data", "{s}/nowhere"), "nowhere"),
        (("bench", "--out", "{o}", "--device", "abacus"), "abacus"),
        (("leaderboard", "{s}/nowhere"), "nowhere"),
        (("leaderboard", "{s}"), "expected results of the benchmark"),
        (("list", "bleach"), "bleach"),
        (("weights", "show", "bleach"), "bleach"),
        (("weights", "verify", "{s}"), "config.json"),
        (("weights", "bleach"), "No such command"),
        (("weights", "download"), "Missing"),
        (("demo", "--out", "{s}"), "expected"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(source, tmp_path, words, hint):
    result = run(*(word.format(s=source, o=tmp_path / "out") for word in words))
    check_one_line(result)
    assert hint in result.stderr


def test_what_an_error_says_is_one_line():
    assert one_line(SourceError("expected a,\n  got b.")) == "expected a, got b."
    assert one_line(ValueError("expected alpha above 0, got -1.")) == "expected alpha above 0, got -1."
    assert one_line(RuntimeError("out of memory\nException raised from\n#0")) == "RuntimeError: out of memory"
    assert one_line(FileNotFoundError(2, "No such file or directory", "a b")) == "No such file or directory: a b"
    assert one_line(MemoryError()) == "MemoryError"


def test_a_defect_of_the_library_keeps_its_traceback(source, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr("puretransforms.cleaning.verify.verify", broken)
    assert isinstance(run("verify", tmp_path).exception, KeyError)


def test_a_targeted_poison_has_a_setup(source, tmp_path):
    """``--setup`` says who attacks what: the target by its index in ``--test``, the bases drawn from a class."""
    (tmp_path / "setup.json").write_text(json.dumps({"target_index": 1, "base_class": "b", "bases": 2}))
    spec = "bullseye_polytope:width=4:epochs=1:steps=2"
    words = ("poison", source, tmp_path / "out", "--with", spec, "--setup", tmp_path / "setup.json")
    result = run(*words, "--test", source, "--no-progress")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"2 of 6 images poisoned\nimages and poison.json in {tmp_path / 'out'}\n"
    record = json.loads((tmp_path / "out" / "poison.json").read_text())
    poisoned = [name for name, row in record["files"].items() if row["poisoned"]]
    assert len(poisoned) == 2 and all(name.startswith("b/") for name in poisoned)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--with", "bullseye_polytope"), "--setup"),
        (("--with", "cuda", "--setup", "{t}/setup.json"), "aims at no single image"),
        (("--with", "bullseye_polytope", "--setup", "{t}/nowhere.json"), "nowhere.json"),
        (("--with", "bullseye_polytope", "--setup", "{t}/setup.json"), "target_index"),
        (("--with", "bullseye_polytope", "--setup", "{t}/broken.json"), "broken.json"),
        (("--with", "bullseye_polytope", "--setup", "{t}/setup.json", "--test", "{t}/nowhere"), "nowhere"),
    ],
)
def test_a_setup_that_does_not_fit_is_one_line(source, tmp_path, words, hint):
    (tmp_path / "setup.json").write_text(json.dumps({"target_index": 1, "base_class": "b", "bases": 2}))
    (tmp_path / "broken.json").write_text("{")
    result = run("poison", source, tmp_path / "out", *(word.format(t=tmp_path) for word in words))
    check_one_line(result)
    assert hint in result.stderr


@pytest.mark.parametrize("name", ["badnets", "blend", "bpp", "sig", "wanet", "cuda"])
def test_every_poison_runs_at_its_own_rate(source, tmp_path, name):
    result = run("poison", source, tmp_path / "out", "--with", name)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "poison.json").read_text())
    assert record["rate"] == find(name, "poison").default_rate
    assert sum(row["poisoned"] for row in record["files"].values()) == (6 if name == "cuda" else 1)


@pytest.mark.parametrize("name", ["ops", "cuda"])
def test_a_corrupt_image_is_one_line(source, tmp_path, name):
    """One that is fitted reads every image before, another at the end."""
    broken = source / "a" / "1.png"
    broken.write_bytes(broken.read_bytes()[:100] if name == "cuda" else b"no picture")
    result = run("poison", source, tmp_path / "out", "--with", name)
    assert f"expected an image in {broken}, got a damaged file" in result.stderr
    assert "remove it, or run puretransforms clean first" in result.stderr
    check_one_line(result)


def test_an_empty_class_folder_is_one_line(source, tmp_path):
    (source / "void").mkdir()
    result = run("poison", source, tmp_path / "out", "--with", "cuda")
    assert "expected images in every class folder" in result.stderr and "classes void" in result.stderr
    check_one_line(result)


def test_crafting_shows_a_bar_unless_told_not_to(source, tmp_path):
    words = ("poison", source, "--with", "tap:width=8:epochs=1:steps=2:restarts=1")
    shown = run(*words, tmp_path / "a")
    hidden = run(*words, tmp_path / "b", "--no-progress")
    assert shown.exit_code == hidden.exit_code == 0, shown.output
    assert "surrogate: 100%" in shown.stderr and "perturbation: 100%" in shown.stderr and hidden.stderr == ""


@pytest.mark.parametrize("length", range(60, 76))
def test_an_error_is_never_wrapped(length, tmp_path):
    """A path is whole on one line, wherever it would reach the edge of a terminal of 80 columns."""
    path = tmp_path / ("a" * length) / ("b c" * 60) / "nowhere"
    result = run("scan", path)
    assert result.exit_code == 1 and str(path) in result.stderr and len(result.stderr.splitlines()) == 1


def test_list_names_everything_in_one_line_each():
    text, data = run("list").stdout, json.loads(run("list", "--json").stdout)
    lines = text.splitlines()
    for role, names in (("purifiers", pt.list_purifiers()), ("poisons", pt.list_poisons())):
        assert [row["name"] for row in data[role]] == names and len(names) > 8
        for row in data[role]:
            assert row["summary"] and "`" not in row["summary"] and row["options"]
            assert sum(line.split()[:1] == [row["name"]] and row["summary"] in line for line in lines) == 1
    assert len(lines) == len(pt.list_purifiers()) + len(pt.list_poisons()) + 2


def test_list_shows_the_options_of_one():
    lines = run("list", "jpeg").stdout.splitlines()
    assert any(line.strip().startswith("quality = ") for line in lines)
    assert "quality" in json.loads(run("list", "jpeg", "--json").stdout)["options"]


def test_version():
    assert run("--version").stdout == f"puretransforms {pt.__version__}\n"


def test_without_a_command_it_helps():
    result = run()
    assert "bench" in result.output and "Traceback" not in result.output


SLEEPY = '''
import time
import puretransforms as pt

class Sleepy(pt.PureTransform):
    """Takes its time."""
    def purify(self, x, noise, labels=None):
        open("started", "w").close()
        time.sleep(60)
        return x
'''


def test_ctrl_c_says_how_to_go_on(source, tmp_path):
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    words = ["clean", "source", "out", "--with", "sleepy:Sleepy", "--no-progress"]
    process = subprocess.Popen(
        [sys.executable, "-m", "puretransforms", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (tmp_path / "started").exists(), process.communicate()[1] if process.poll() is not None else "too slow"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    try:
        said = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, said
    assert said == "stopped; what is done is kept: the same command goes on where it stopped\n"

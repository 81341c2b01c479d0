"""The demonstration, small: what it leaves on disk, what it prints, what it replaces and what it will not touch."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torchvision.datasets import ImageFolder

from puretransforms.benchmark.cells import Cell, cells
from puretransforms.benchmark.demo import recovery, run_demo
from puretransforms.benchmark.run import Result
from puretransforms.data.digits import load_digits
from puretransforms.data.samples import gather
from puretransforms.errors import SourceError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.availability.convolution import CUDA
from puretransforms.train.settings import DIGITS_SETTING, ClassifierSetting

pytest.importorskip("sklearn")

TINY = ClassifierSetting("tiny", width=4, epochs=1, network=SmallConvNet)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cell], str]:
    out = tmp_path_factory.mktemp("demo") / "out"
    text = io.StringIO()
    rows = run_demo(out, seeds=(0, 1), setting=TINY, train_size=60, console=Console(file=text, width=120))
    return out, rows, text.getvalue()


def test_leaves_three_trees_a_report_and_the_numbers(demo: tuple[Path, list[Cell], str]) -> None:
    out, rows, _ = demo
    assert sorted(path.name for path in out.iterdir()) == ["clean", "demo.json", "poisoned", "purified", "report.html"]
    for name in ("clean", "poisoned", "purified"):
        assert len(ImageFolder(str(out / name))) == 60
    assert "<html" in (out / "report.html").read_text()
    assert [row.poison for row in rows] == ["clean", "poisoned", "purified", "online"]
    assert len(json.loads((out / "demo.json").read_text())) == 8


def test_the_trees_hold_the_digits_the_poison_and_its_purification(demo: tuple[Path, list[Cell], str]) -> None:
    out, _, _ = demo
    train, _ = load_digits()
    clean, poisoned, purified = (gather(str(out / name)) for name in ("clean", "poisoned", "purified"))
    order = torch.argsort(train.targets[:60], stable=True)
    assert torch.equal(clean.images, train.images[:60][order])
    assert torch.equal(clean.targets, train.targets[:60][order])
    assert torch.equal(poisoned.images, CUDA(seed=0)(clean.images, clean.targets)[0])
    assert torch.equal(purified.targets, clean.targets)
    assert (purified.images != poisoned.images).flatten(1).any(1).all()


def test_prints_a_row_for_each_version_and_the_recovery(demo: tuple[Path, list[Cell], str]) -> None:
    _, rows, text = demo
    assert "clean" in text and "poisoned with CUDA" in text and "anew at every access" in text
    assert all(f"{row.last:.1f}" in text for row in rows)
    assert text.count("the poison cost") == 2 and "report.html" in text


def test_an_earlier_demo_is_replaced_and_all_else_stays(demo: tuple[Path, list[Cell], str]) -> None:
    out, rows, _ = demo
    (out / "mine.txt").write_text("keep")
    torch.set_num_threads(2)
    try:
        again = run_demo(out, seeds=(0, 1), setting=TINY, train_size=60, console=Console(file=io.StringIO()))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert (out / "mine.txt").read_text() == "keep"
    (out / "mine.txt").unlink()
    assert [(row.poison, row.last) for row in again] == [(row.poison, row.last) for row in rows]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    with pytest.raises(SourceError, match="new or empty folder, or that of an earlier demo"):
        run_demo(tmp_path, setting=TINY, train_size=60)
    assert (tmp_path / "clean").is_dir()


@pytest.mark.slow
def test_poison_costs_thirty_points_and_coin_wins_back_half(tmp_path: Path) -> None:
    rows = run_demo(tmp_path / "out", seeds=(0,), setting=DIGITS_SETTING, console=Console(file=io.StringIO()))
    last = {row.poison: row.last for row in rows}
    assert last["poisoned"] < last["clean"] - 30
    for name in ("purified", "online"):
        assert last[name] > (last["clean"] + last["poisoned"]) / 2


def _row(data: str, last: float) -> Cell:
    result = Result(data, "none", "tiny", 0, "availability", [last / 100], 0.5, [], {}, 15.4)
    return cells([result])[0]


@pytest.mark.parametrize(
    ("clean", "poisoned", "purified", "sentence"),
    [
        (90.0, 10.0, 70.0, "purified: +60.0 points, 75% of the 80.0 that the poison cost"),
        (90.0, 10.0, 6.0, "purified: -4.0 points, -5% of the 80.0 that the poison cost"),
        (50.0, 50.0, 45.0, "purified: -5.0 points; the poison cost nothing (+0.0 points)"),
        (50.0, 52.0, 51.0, "purified: -1.0 points; the poison cost nothing (+2.0 points)"),
    ],
)
def test_recovery(clean: float, poisoned: float, purified: float, sentence: str) -> None:
    rows = [_row("clean", clean), _row("poisoned", poisoned), _row("purified", purified)]
    assert recovery(rows, "purified") == sentence

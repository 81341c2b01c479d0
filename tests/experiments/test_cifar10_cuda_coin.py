"""The CIFAR-10 script on twenty tiny images: each case learns from its own folder, finished cases are not run again."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from puretransforms.data.samples import LabelledImages, gather
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.availability.convolution import CUDA
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.poisons.export import export
from puretransforms.train.classifier import evaluate
from puretransforms.train.settings import ClassifierSetting
from puretransforms.transforms.coin import COINInterpolate

SCRIPT = Path(__file__).parents[2] / "experiments" / "cifar10_cuda_coin.py"
TINY = ClassifierSetting("tiny", width=4, epochs=2, network=SmallConvNet, batch_size=10)
FOLDERS = ("clean", "poisoned", "purified", "test")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("the scripts of experiments/ are not here")
    spec = importlib.util.spec_from_file_location("cifar10_cuda_coin", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CPU_SETTING", TINY)
    return module


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    for name in FOLDERS:
        images = torch.randint(256, (20, 3, 16, 16), dtype=torch.uint8, generator=generator)
        data = LabelledImages(images, torch.arange(20) % 10)
        export(PoisonedDataset(data, CUDA(), rate=0.0), tmp_path / name)
    places = [word for name in FOLDERS for word in (f"--{name}", str(tmp_path / name))]
    return [*places, "--threads", "1", "--out", str(tmp_path / "results" / "out.jsonl")]


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    script.main()


def lines(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "results" / "out.jsonl").read_text().splitlines()]


def test_each_case_once_and_the_table(
    script: ModuleType,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(script, monkeypatch, *arguments, "--seeds", "0", "--cases", "clean", "online")
    assert [(line["case"], line["seed"]) for line in lines(tmp_path)] == [("clean", 0), ("online", 0)]
    run(script, monkeypatch, *arguments, "--seeds", "0", "1")
    found = lines(tmp_path)
    assert len(found) == 8 == len({(line["case"], line["seed"]) for line in found})
    assert all(len(line["epochs"]) == 2 and line["setting"]["name"] == "tiny" for line in found)
    capsys.readouterr()
    run(script, monkeypatch, *arguments, "--seeds", "0", "1")
    assert lines(tmp_path) == found
    table = capsys.readouterr().out.strip().splitlines()
    assert [row.split()[1] for row in table[2:]] == ["clean", "poisoned", "purified", "online"]
    assert all(row.endswith("| 2 |") for row in table[2:])


@pytest.mark.parametrize("case", ["clean", "poisoned", "purified", "online"])
def test_a_case_is_the_setting_on_its_own_folder(
    script: ModuleType, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    run(script, monkeypatch, *arguments, "--seeds", "3", "--cases", case)
    (line,) = lines(tmp_path)
    train = gather(str(tmp_path / ("poisoned" if case == "online" else case)))
    test = gather(str(tmp_path / "test"))
    transform = COINInterpolate() if case == "online" else None
    model, records = TINY.train(train.images, train.targets, seed=3, transform=transform)
    expected = [
        {"train_accuracy": round(record.accuracy, 4), "test_accuracy": evaluate(model, test.images, test.targets)}
        for record in records
    ]
    assert line["epochs"] == expected
    assert line["test_accuracy"] == expected[-1]["test_accuracy"]

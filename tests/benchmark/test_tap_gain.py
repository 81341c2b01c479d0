"""The script that compares gains with golden numbers measures what the benchmark does, and can fail."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from puretransforms.benchmark.metrics import projected_gain
from puretransforms.transforms.baselines import Grayscale, MedianBlur

SCRIPT = Path(__file__).parents[2] / "experiments" / "tap_gain.py"


@pytest.fixture
def script() -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("the scripts of experiments/ are not here")
    spec = importlib.util.spec_from_file_location("tap_gain", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("purifier", [Grayscale(), MedianBlur()], ids=["gray", "median"])
def test_the_gain_is_that_of_the_benchmark(script: ModuleType, purifier: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    x, poisoned = torch.randint(0, 256, (2, 4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    a, b = x.double() / 255, poisoned.double() / 255
    expected = projected_gain(purifier(a), purifier(b), b - a)
    assert script.gain(purifier, x, poisoned)["gain"] == pytest.approx(expected, abs=0.005)


def test_a_missed_number_is_an_exit_status(script: ModuleType, tmp_path: Path) -> None:
    x = np.random.RandomState(0).randint(0, 256, (10, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "clean.npz", x_train=x)
    np.savez(tmp_path / "poisoned.npz", x=x ^ 8)
    words = ["--lossless", str(tmp_path / "clean.npz"), "--published", str(tmp_path / "poisoned.npz")]
    with pytest.raises(SystemExit, match="1"):
        script.main(words)

"""Shared fixtures. Shape annotations are checked in every test (``--jaxtyping-packages`` in pyproject.toml)."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach a network


torch.set_num_threads(
    1
)  # tiny tensors: a second thread costs more than it brings, and the test workers share the cores


@pytest.fixture
def photo() -> torch.Tensor:
    """A smooth, colourful uint8 image ``[3, 32, 32]`` that no purifier leaves unchanged."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    waves = torch.stack([(7 * x).sin(), (5 * y + 2 * x).cos(), (9 * x * y).sin()])
    return ((waves * 0.4 + 0.5) * 255).to(torch.uint8)


@pytest.fixture
def real_data() -> Path:
    """A folder of real images and a published poison, which are not ours to ship (``PURETRANSFORMS_DATA``)."""
    folder = os.environ.get("PURETRANSFORMS_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set PURETRANSFORMS_DATA to a folder with cifar10_lossless_6k.npz and tap_5k.npz")
    return Path(folder)


@pytest.fixture
def picture():
    """``picture(number, size=8, channels=3)``: a random image, the same for the same number."""

    def make(number: int, size: int = 8, channels: int = 3) -> Image.Image:
        pixels = np.random.default_rng(number).integers(0, 256, (size, size, channels), dtype=np.uint8)
        return Image.fromarray(pixels if channels > 1 else pixels[..., 0])

    return make


@pytest.fixture
def snapshot():
    """``snapshot(folder)``: sha256 of every file by relative path, and every folder."""

    def take(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            for path in folder.rglob("*")
        }

    return take

"""A small source tree, a purifier with keyed noise, and a way to compare whole folders."""

import pytest
import torch

from puretransforms.functional.random import KeyedNoise, content_ids


class Noise(torch.nn.Module):
    """Adds -8..7 to each pixel, keyed by (seed, image)."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed = seed

    def extra_repr(self) -> str:
        return f"seed={self.seed}"

    def forward(self, x):
        noise = KeyedNoise(self.seed, content_ids(x)).bits(0, x[0].numel(), torch.int8) >> 4
        return (x.to(torch.int16) + noise.view(x.shape)).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def purifier():
    return Noise()


@pytest.fixture
def source(tmp_path, picture):
    """Three classes of colour and grey images of two sizes, JPEG and PNG, with a text file and an empty class."""
    root = tmp_path / "source"
    for number in range(24):
        folder = root / ("cat", "dog", "eel/deep")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        image = picture(number, size=(8, 12)[number % 2], channels=(3, 3, 1)[number // 8])
        image.save(folder / f"{number:02d}.{('jpg', 'png')[number % 5 == 0]}")
    (root / "cat/notes.txt").write_text("not an image")
    (root / "empty").mkdir()
    return root

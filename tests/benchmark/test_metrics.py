"""PSNR, SSIM and projected gain: hand-made cases, another implementation, and known figures of a published poison."""

from pathlib import Path

import numpy as np
import pytest
import torch

from puretransforms.benchmark.metrics import projected_gain, psnr, ssim
from puretransforms.functional.shapes import Tensor
from puretransforms.transforms.baselines import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur


def batch(n: int = 4, side: int = 24) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_psnr_is_of_each_image() -> None:
    x = torch.full((3, 3, 8, 8), 0.5)
    y = x + torch.tensor([0.1, 0.01, 0.0])[:, None, None, None]
    assert psnr(y, x)[:2].tolist() == pytest.approx([20, 40], abs=1e-3)
    assert psnr(y, x)[2] == float("inf")


def test_ssim_agrees_with_kornia() -> None:
    kornia = pytest.importorskip("kornia.metrics")
    x = batch()
    y = (x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    theirs = kornia.ssim(x.double(), y.double(), 11, padding="valid").flatten(1).mean(1)
    assert torch.allclose(ssim(x, y), theirs, atol=1e-6)
    assert torch.allclose(ssim(x, x), torch.ones(4, dtype=torch.float64))


def test_gain_is_the_share_that_passes_in_the_direction_of_the_perturbation() -> None:
    x, d = batch(), 0.1 * (batch() - 0.5)
    across = d.flip(0) - (d.flip(0) * d).sum() / (d * d).sum() * d
    assert projected_gain(x, x + d, d) == pytest.approx(1, abs=1e-5)
    assert projected_gain(x, x, d) == 0
    assert projected_gain(x, x + 0.25 * d + across, d) == pytest.approx(0.25, abs=1e-5)


GOLDEN = {  # on a fifth of the published TAP images: projected gain, PSNR(P(x), x) in dB
    "JPEG 10": (JPEGCompress(10), 0.117, 23.30),
    "JPEG 75": (JPEGCompress(75), 0.436, 30.42),
    "grey": (Grayscale(), 0.542, None),
    "2 bits": (BitDepthReduce(2), 0.861, 16.80),
    "Gaussian": (GaussianBlur(3, 1.0), 0.355, 27.16),
    "median": (MedianBlur(3), 0.392, 27.50),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_known_figures_on_the_published_tap(name: str, real_data: Path) -> None:
    purifier, gain, decibels = GOLDEN[name]
    with np.load(real_data / "cifar10_lossless_6k.npz") as clean, np.load(real_data / "tap_5k.npz") as poisoned:
        x, attacked = (
            torch.from_numpy(images[::5]).permute(0, 3, 1, 2).float() / 255
            for images in (clean["x_train"], poisoned["x"])
        )
    kept = purifier(x)
    assert projected_gain(kept, purifier(attacked), attacked - x) == pytest.approx(gain, abs=0.002)
    if decibels is not None:
        assert float(psnr(kept, x).mean()) == pytest.approx(decibels, abs=0.02)

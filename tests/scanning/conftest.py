"""Pictures that look like photographs to the detectors: random phases under the spectrum of natural images."""

import pytest
import torch

from puretransforms.data.images import round_to_uint8
from puretransforms.data.samples import LabelledImages


def make_pictures(n: int, side: int = 32, classes: int = 4, seed: int = 0) -> LabelledImages:
    """``n`` images of amplitude 1 / frequency (Field, 1987) with a little sensor noise; labels say nothing."""
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.fft.fftfreq(2 * side)
    radius = (frequencies[:, None] ** 2 + frequencies[None] ** 2).sqrt().clamp_min(0.5 / side)
    white = torch.fft.fft2(torch.randn(n, 3, 2 * side, 2 * side, generator=generator))
    x = torch.fft.ifft2(white / radius).real[..., :side, :side]
    x = x + 2 * x.mean(1, keepdim=True)  # channels go together
    x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
    x = 0.5 + 0.2 * x + 0.005 * torch.randn(x.shape, generator=generator)
    return LabelledImages(round_to_uint8(x.clamp(0.05, 0.95)), torch.arange(n) % classes)


@pytest.fixture(scope="session")
def pictures() -> LabelledImages:
    return make_pictures(400)

import math

import pytest
import torch

from puretransforms.poisons.backdoor.sig import SIG


def test_the_wave_is_the_sine_of_the_column():
    x = torch.full((1, 3, 4, 32), 128, dtype=torch.uint8)
    out = SIG(epsilon=30 / 255, frequency=5.0).trigger(x).int() - 128
    assert out.unique(dim=2).shape[2] == 1 and out.unique(dim=1).shape[1] == 1
    expected = [round(30 * math.sin(2 * math.pi * 5 * j / 32)) for j in range(32)]
    assert (out[0, 0, 0] - torch.tensor(expected)).abs().max() == 0


def test_the_spectrum_is_one_line():
    x = torch.full((1, 3, 32, 32), 0.5)
    spectrum = torch.fft.rfft(SIG(quantize=None).trigger(x)[0, 0, 0] - 0.5).abs()
    assert spectrum.argmax() == 6 and spectrum[6] > 1e3 * spectrum[torch.arange(17) != 6].max()


def test_refusals():
    with pytest.raises(ValueError, match="epsilon"):
        SIG(epsilon=0.0)

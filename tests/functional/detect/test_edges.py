"""The edge-pixel detector's features, and the padding that escapes them."""

import pytest
import torch
from torch.nn.functional import pad

from puretransforms.functional.detect.edges import darkened_excess, edge_sums, ring_log_ratios
from puretransforms.poisons.convolution import CUDA, correlate


def test_sums_by_hand():
    x = torch.zeros(1, 3, 4, 5)
    x[0, 0, 0] = 0.2  # red, top row of 5
    x[0, 2, :, -1] = 0.5  # blue, right column of 4
    sums = edge_sums(x)[0].view(3, 4)
    assert sums[0].tolist() == pytest.approx([1.0, 0, 0.2, 0.2])
    assert sums[2].tolist() == pytest.approx([0.5, 0.5, 0, 2.0])
    assert sums[1].abs().max() == 0


def test_ratios_by_hand_and_black_edges_say_nothing():
    x = torch.full((1, 3, 6, 6), 0.5)
    x[:, :, 0] = 0.25
    ratios = ring_log_ratios(x)[0].view(3, 4)
    assert ratios[:, 0].tolist() == pytest.approx([-0.6854] * 3, abs=1e-3)  # log(0.25392 / 0.50392)
    assert ratios[:, 1].abs().max() == 0
    x[:, :, 0] = 0
    assert ring_log_ratios(x).view(3, 4)[:, 0].abs().max() == 0


def clouds(n, seed=0):
    """Smooth random pictures, 32 x 32, with nothing special at their edges."""
    generator = torch.Generator().manual_seed(seed)
    large = torch.nn.functional.interpolate(
        torch.rand(n, 3, 12, 12, generator=generator), size=(60, 60), mode="bicubic", align_corners=True
    )
    return large[..., 14:46, 14:46].clamp(0, 1) * 0.8 + 0.1


def test_a_zero_padded_convolution_shows_and_a_reflected_one_escapes():
    x = clouds(300)
    kernel = CUDA(seed=0).kernels()[0].float().expand(len(x), -1, -1)
    zero = correlate(x, kernel)
    mirrored = correlate(pad(x, (1,) * 4, mode="reflect"), kernel)[..., 1:-1, 1:-1]

    def worst(images):
        images = images / images.flatten(1).amax(1)[:, None, None, None]
        return float(darkened_excess(ring_log_ratios(images)).max())

    assert worst(zero) > 0.95
    assert worst(x) < 0.15
    assert worst(mirrored) < 0.15  # the known bypass

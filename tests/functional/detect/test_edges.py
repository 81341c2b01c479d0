"""The edge-pixel detector's features, and the padding that escapes them."""

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from torch.nn.functional import pad

from puretransforms.functional.detect.edges import darkened_excess, ring_log_ratios
from puretransforms.poisons.availability.convolution import CUDA, correlate


def edge_sums(x):
    """The published features: sums of pixel values along the four outermost edges of each channel."""
    return torch.stack([x[:, :, 0].sum(-1), x[:, :, -1].sum(-1), x[..., 0].sum(-1), x[..., -1].sum(-1)], -1).flatten(1)


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


def test_on_real_images_ratios_tell_convolved_from_clean_better_than_the_published_sums(real_data):
    """A linear machine, one half of 2,000 images to learn from, the other half to be told."""
    with np.load(real_data / "cifar10_lossless_6k.npz") as file:
        x = torch.from_numpy(file["x_train"][:2000]).permute(0, 3, 1, 2) / 255
        labels = torch.from_numpy(file["y_train"][:2000])
    kernels = CUDA(seed=0).kernels().float()[labels]
    mirrored = correlate(pad(x, (1,) * 4, mode="reflect"), kernels)[..., 1:-1, 1:-1]

    def told(features, poisoned):
        poisoned = poisoned / poisoned.flatten(1).amax(1)[:, None, None, None].clamp_min(1e-6)
        f = torch.cat([features(x), features(poisoned)])
        f = (f - f.mean(0)) / f.std(0)
        positive = torch.arange(len(f)) >= len(x)
        return LinearSVC(dual=False).fit(f[::2], positive[::2]).score(f[1::2], positive[1::2])

    zero = correlate(x, kernels)
    assert told(ring_log_ratios, zero) > 0.95
    assert told(edge_sums, zero) < 0.85
    assert told(ring_log_ratios, mirrored) < 0.75  # the bypass

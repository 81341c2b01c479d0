import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch.utils.data import TensorDataset

from puretransforms.poisons.backdoor.wanet import WaNet
from puretransforms.poisons.dataset import PoisonedDataset


def test_the_warp_samples_the_image_where_the_grid_says():
    x = torch.rand(1, 1, 12, 9, dtype=torch.float64)
    poison = WaNet(strength=2.0, quantize=None)
    grid = poison.grid(1, 12, 9).numpy()
    columns, rows = (grid[..., 0] + 1) / 2 * 8, (grid[..., 1] + 1) / 2 * 11
    expected = map_coordinates(x[0, 0].numpy(), [rows, columns], order=1)
    np.testing.assert_allclose(poison.trigger(x)[0, 0].numpy(), expected, atol=1e-12)


def test_the_grid_is_the_identity_plus_a_smooth_field_of_the_stated_size():
    poison = WaNet()
    grid = poison.grid(3, 32, 32)
    line = torch.linspace(-1, 1, 32, dtype=torch.float64)
    warp = torch.stack((grid[..., 0] - line, grid[..., 1] - line[:, None]), -1) * 32 / 0.5
    assert grid.abs().max() <= 1
    inside = warp[4:-4, 4:-4]
    assert 0.4 < inside.abs().mean() < 2  # the control points have mean magnitude 1
    assert inside.diff(dim=0).abs().max() < 0.6  # bicubic over 32 / 3 pixels
    double = WaNet(strength=1.0).grid(3, 32, 32) - torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    torch.testing.assert_close(double[4:-4, 4:-4] * 32, inside)


def test_decoys_are_jittered_image_by_image_and_keep_their_label():
    x = torch.rand(1, 3, 32, 32).expand(40, -1, -1, -1).mul(255).to(torch.uint8)
    labels = torch.arange(40) % 10
    data = PoisonedDataset(TensorDataset(x, labels), WaNet(target=3), rate=0.2)
    assert data.mask.sum() == 8 and data.cover_mask.sum() == 16 and not (data.mask & data.cover_mask).any()
    assert (data.targets[data.mask] == 3).all() and data.targets[~data.mask].equal(labels[~data.mask])
    images = torch.stack([image for image, _ in data])
    assert images[data.mask].flatten(1).unique(dim=0).shape[0] == 1
    assert images[data.cover_mask].flatten(1).unique(dim=0).shape[0] == 16
    assert images[~data.mask & ~data.cover_mask].equal(x[~data.mask & ~data.cover_mask])
    with pytest.raises(ValueError, match=r"at most 0\.325 for WaNet .* 2 decoys for each"):
        PoisonedDataset(TensorDataset(x, labels), WaNet(), rate=0.4)
    PoisonedDataset(TensorDataset(x, labels), WaNet(), rate=0.325)


def test_the_jitter_of_a_decoy_is_at_most_one_pixel():
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).expand(1, 1, 32, 32)  # the value is the column
    poison = WaNet(quantize=None)
    jitter = (poison.covers(ramp, torch.tensor([0]), torch.tensor([5]))[0] - poison.trigger(ramp)) * 31
    inside = jitter[..., 3:-3]
    assert 0.45 < inside.abs().max() <= 0.5 * 31 / 32 + 1e-6  # U(-1, 1) / 32 of a width of 2
    assert abs(inside.mean()) < 0.05


def test_refusals():
    for bad in ({"strength": 0.0}, {"grid_size": 1}, {"cover_ratio": -1.0}):
        with pytest.raises(ValueError, match="expected"):
            WaNet(**bad)

"""The closed form against leaving each sample out in turn; filters and features."""

import pytest
import torch
from torch.nn.functional import one_hot

from puretransforms.functional.detect.probe import left_out, patch_filters, probe, texture_features


@pytest.mark.parametrize("width", [6, 60])
def test_leaving_one_out_in_closed_form_and_by_hand(width):
    """For centred features and targets; the means and the scale stay those of all samples, which the form assumes."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (40,), generator=generator)
    features += one_hot(labels, width)
    targets = one_hot(labels).double()
    x, t = features - features.mean(0), targets - targets.mean(0)
    by_hand = []
    for i in range(40):
        kept = torch.arange(40) != i
        a = x[kept].T @ x[kept] + 0.01 * (x**2).sum() * torch.eye(width, dtype=torch.float64)
        by_hand.append(x[i] @ torch.linalg.solve(a, x[kept].T @ t[kept]) + targets.mean(0))
    assert torch.allclose(left_out(features, targets), torch.stack(by_hand))


def test_a_probe_finds_what_is_there_and_nothing_in_noise():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (400,), generator=generator)
    noise = torch.randn(400, 50, generator=generator)
    told = probe(noise + 3 * one_hot(labels, 50), labels)
    assert told.curve[-1] == (400, float(told.hits.float().mean())) and told.curve[-1][1] > 0.9
    assert [n for n, _ in told.curve] == [50, 100, 200, 400]
    assert told.shuffled < 0.4
    assert probe(noise, labels).curve[-1][1] < 0.4


def test_textures_are_told_wherever_they_stand():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    grain = torch.randn(200, 3, 20, 20, generator=generator)
    along = torch.where(labels[:, None, None, None] == 0, grain + grain.roll(1, 2), grain + grain.roll(1, 3))
    filters = patch_filters(along, filters=16, size=3)
    assert filters.shape == (16, 3, 3, 3)
    features = texture_features(along, filters)
    assert features.shape == (200, 32)
    assert features.mean(0).abs().max() < 1e-4
    assert probe(features, labels).curve[-1][1] > 0.9

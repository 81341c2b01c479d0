"""The fast classifier: sizes, a second composition of the same layers, what is fixed, what the whitening does."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from puretransforms.models import airbench
from puretransforms.models.airbench import AirbenchNet


def net(*width: int, num_classes: int = 10) -> AirbenchNet:
    torch.manual_seed(0)
    return AirbenchNet(num_classes, width=width)


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("width", "parameters"), [((16, 64, 64), 126_808), ((32, 128, 128), 497_816), ((64, 256, 256), 1_972_504)]
)
def test_parameters_at_the_published_and_at_smaller_widths(width, parameters):
    """Trained ones and the fixed scales of the batch norms; airbench counts its fixed filters too, 288."""
    assert sum(p.numel() for p in net(*width).parameters()) == parameters


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_published_order_of_layers_put_together_from_torchs_modules(training):
    ours = net(8, 16, 16).train(training)
    stored = json.loads(Path(airbench.__file__).with_name("whitening_2x2.json").read_text())
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
    half = torch.tensor(stored["filters"]).view(12, 3, 2, 2)
    layers[0].weight.data = torch.cat([half, -half])
    layers[0].bias.data = ours.whiten.bias.data
    for group in ours.groups:
        layers += [group.conv1, nn.MaxPool2d(2), nn.BatchNorm2d(group.conv1.out_channels, 1e-12, 0.4), nn.GELU()]
        layers += [group.conv2, nn.BatchNorm2d(group.conv1.out_channels, 1e-12, 0.4), nn.GELU()]
    theirs = nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), ours.head).train(training)
    x = images()
    normalised = (x - torch.tensor(stored["mean"]).view(3, 1, 1)) / torch.tensor(stored["std"]).view(3, 1, 1)
    torch.testing.assert_close(ours(x), theirs(normalised) / 64)  # sqrt(256 * 16)


def test_convolutions_start_as_the_identity_on_their_first_channels():
    for group in net(8, 32, 32).groups:
        for conv in (group.conv1, group.conv2):
            count = min(conv.in_channels, conv.out_channels)
            x = images(2, 9)[:, :1].expand(-1, conv.in_channels, -1, -1) * torch.arange(conv.in_channels).view(-1, 1, 1)
            torch.testing.assert_close(conv(x)[:, :count], x[:, :count])


def test_the_whitening_decorrelates_natural_patches_and_cannot_be_trained():
    whiten = net(8, 16, 16).whiten
    assert [name for name, _ in whiten.named_parameters()] == ["bias"]
    half = whiten.filters[:12].flatten(1).double()
    assert torch.equal(whiten.filters[12:], -whiten.filters[:12])
    stored = json.loads(Path(airbench.__file__).with_name("whitening_2x2.json").read_text())
    eigenvalues = torch.tensor(stored["eigenvalues"], dtype=torch.float64)
    gram = half @ half.T
    torch.testing.assert_close(gram, torch.diag(1 / (eigenvalues + stored["eps"])), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("size", [9, 28, 64])
def test_any_size_that_the_pooling_leaves_something_of(size):
    assert net(8, 16, 16, num_classes=7).eval()(images(2, size)).shape == (2, 7)


def test_the_head_starts_with_unit_deviation_and_the_scales_stay_fixed():
    model = net(8, 16, 16)
    assert model.head.weight.std().item() == pytest.approx(1)
    model(images()).square().sum().backward()
    scales = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(scales) == 6 and all(scale.grad is None and bool((scale == 1).all()) for scale in scales)
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters() if p.requires_grad)

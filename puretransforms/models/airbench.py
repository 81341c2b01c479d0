"""The classifier of airbench, which learns CIFAR-10 in a few epochs: a victim that two cores can train in minutes."""

import json
import math
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import adaptive_max_pool2d, conv2d, gelu, max_pool2d

from ..functional.shapes import Float, Tensor

_STATISTICS = Path(__file__).with_name("whitening_2x2.json")


class Whitening(nn.Module):
    """2x2 convolution with fixed filters that decorrelate natural patches, and a trained bias.

    The filters are the eigenvectors ``e`` of the second moments of normalised patches, each as
    ``+- e / sqrt(eigenvalue + eps)``. Airbench computes them from the training set. Here they are stored, computed from
    CIFAR-100, because a poison must not choose them: ``1 / sqrt(eigenvalue)`` magnifies the very directions in which
    natural images hardly vary and where autoregressive noise lives.
    """

    mean: Tensor
    std: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        stored = json.loads(_STATISTICS.read_text())
        half = torch.tensor(stored["filters"]).reshape(12, 3, 2, 2)
        self.register_buffer("mean", torch.tensor(stored["mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(stored["std"])[:, None, None])
        self.register_buffer("filters", torch.cat([half, -half]))
        self.bias = nn.Parameter(torch.empty(24))
        bound = 1 / math.sqrt(12)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 24 i j"]:
        return conv2d((x - self.mean) / self.std, self.filters, self.bias)


class ConvGroup(nn.Module):
    """``gelu(bn(conv(gelu(bn(max-pool(conv(x)))))))``: 3x3 convolutions that start as the identity, pool of 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(in_channels, out_channels), _norm(out_channels)
        self.conv2, self.norm2 = _conv(out_channels, out_channels), _norm(out_channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        x = gelu(self.norm1(max_pool2d(self.conv1(x), 2)))
        return gelu(self.norm2(self.conv2(x)))


class AirbenchNet(nn.Module):
    """The network of airbench (Jordan, "94% on CIFAR-10 in 3.29 seconds", arXiv 2404.00498), at any width.

    ::

        x [B, 3, H, W] -> normalise -> whiten 2x2 [B, 24, H-1, W-1] -> gelu
                       -> 3 groups (conv3x3, max-pool /2, bn, gelu, conv3x3, bn, gelu), widths w1 w2 w3
                       -> max over pixels [B, w3] -> linear without bias [B, K] / sqrt(256 w3)

    Takes raw pixels in ``[0, 1]``, ``H, W >= 9``. Differs from the original in the stored filters
    (:class:`Whitening`) and in the divisor of the logits, which is ``w3`` there; both agree at ``w3 = 256``, and with
    the square root the published rates hold at smaller widths too. Train it with
    :class:`~puretransforms.train.recipes.MuonRecipe`.

    Args:
        num_classes: number of logits ``K``.
        width: channels of the three groups; (64, 256, 256) is the original with 1.97 million parameters.
    """

    def __init__(self, num_classes: int = 10, *, width: tuple[int, int, int] = (32, 128, 128)) -> None:
        super().__init__()
        self.whiten = Whitening()
        channels = (24, *width)
        self.groups = nn.Sequential(*(ConvGroup(*pair) for pair in pairwise(channels)))
        self.head = nn.Linear(channels[-1], num_classes, bias=False)
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())
        self.temperature = math.sqrt(256 * channels[-1])

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        features = self.groups(gelu(self.whiten(x)))
        return self.head(adaptive_max_pool2d(features, 1).flatten(1)) / self.temperature


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:in_channels])
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm

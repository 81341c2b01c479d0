"""Classifiers to measure with: ResNet-18 with the CIFAR stem at any width, and a three-layer net for digits."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from ..functional.shapes import Float, Tensor


class PointwiseConv2d(nn.Conv2d):
    """``nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)``: takes the pixels first, then mixes them.

    The same function of the same weights under the same names, ``y = conv1x1(x[..., ::stride, ::stride])``. A 1x1
    convolution with a stride must not reach oneDNN: its gradient by the weights of few channels in ``channels_last``
    writes out of bounds on CPUs (2 to 7 input channels with AVX2 instructions;
    https://github.com/uxlfoundation/oneDNN/issues/6035).

    Args:
        in_channels: of the input ``[B, in_channels, H, W]``.
        out_channels: of the result ``[B, out_channels, ceil(H / stride), ceil(W / stride)]``.
        step: distance of the pixels taken, in both directions.
    """

    def __init__(self, in_channels: int, out_channels: int, step: int = 1) -> None:
        super().__init__(in_channels, out_channels, 1, bias=False)
        self.step = step

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        if self.step != 1:
            x = avg_pool2d(
                x, 1, self.step
            )  # means of single pixels: unlike slices, in the memory format of x both ways
        return super().forward(x)


class BasicBlock(nn.Module):
    """``relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))``, 3x3 convolutions (He et al., CVPR 2016, Fig. 2 and Eq. 2).

    The shortcut is the identity, or a 1x1 convolution and batch norm where the size or the width changes (option B).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = PointwiseConv2d(in_channels, out_channels, stride)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images: 3x3 stem without max-pool (He et al., CVPR 2016, arXiv 1512.03385, section 4.2).

    ::

        x [B, 3, H, W] - 0.5 -> conv3x3 bn relu -> 2 blocks w -> 2 blocks 2w, /2 -> 2 blocks 4w, /2 -> 2 blocks 8w, /2
                             -> mean over pixels [B, 8w] -> linear [B, K]

    Takes raw pixels in ``[0, 1]`` of any size; the only normalisation is the fixed centring ``x - 0.5``.
    Width 64 with 10 classes has 11,173,962 parameters; width 12 trains on a CPU in seconds per epoch.

    Args:
        num_classes: number of logits ``K``.
        width: channels of the stem and of the first stage, ``w`` above.
        blocks: in each stage; with 1 it is called ResNet-10 and costs half.
    """

    def __init__(self, num_classes: int = 10, *, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        stages = []
        channels = width
        for stage in range(4):
            out_channels = width << stage
            stride = 1 if stage == 0 else 2
            first = BasicBlock(channels, out_channels, stride)
            stages.append(nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))))
            channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        features = self.stages(torch.relu(self.bn(self.stem(x - 0.5))))
        return self.head(features.mean((2, 3)))


class SmallConvNet(nn.Module):
    """Three 3x3 convolutions with batch norm and max-pool, then a linear layer: for digit-size data on a CPU.

    ``x [B, 3, H, W] - 0.5 -> 3 x (conv3x3, bn, relu, max-pool /2), widths w 2w 4w -> mean over pixels -> [B, K]``.
    Takes raw pixels in ``[0, 1]``, ``H, W >= 8``.
    """

    def __init__(self, num_classes: int = 10, *, width: int = 16) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for stage in range(3):
            out_channels = width << stage
            layers[f"conv{stage}"] = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
            layers[f"bn{stage}"] = nn.BatchNorm2d(out_channels)
            layers[f"relu{stage}"] = nn.ReLU()
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
            channels = out_channels
        self.features = nn.Sequential(layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        return self.head(self.features(x - 0.5).mean((2, 3)))

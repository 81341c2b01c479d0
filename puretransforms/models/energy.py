"""Energy networks of EBM purifiers: one scalar per image, low where the image is natural.

:class:`EnergyNet` is the published network of PureEBM (Bhat et al. 2024, arXiv 2405.19376; PureGen, NeurIPS 2024,
arXiv 2405.18627): an SNGAN discriminator (Miyato et al., ICLR 2018, Table 3) without spectral norm, whose head takes
the mean over the pixels. :class:`FoldedEnergyNet` is the same function with each average pool folded into the
convolution before it, 1.66 times cheaper; :func:`fold` turns the one into the other without changing an energy.

No batch norm and no dropout: an energy, and its gradient, depend on one image alone. Inputs are pixels in
``[-1, 1]``. The nets never rescale: whoever holds images in ``[0, 1]`` maps them with ``2 * x - 1``, as
:class:`~puretransforms.transforms.ebm.EBMPurify` and the training loops do.
"""

from collections import OrderedDict
from copy import deepcopy
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, pad

from ..functional.padding import whole
from ..functional.shapes import Float, Tensor

#: Layer of a checkpoint that PureGen's code saved -> layer of :class:`EnergyNet`; the tensors are the same.
PUREGEN_LAYERS = {
    "block1.c1": "stem.conv1",
    "block1.c2": "stem.conv2",
    "block1.c_sc": "stem_skip",
    "block2.c1": "down.conv1",
    "block2.c2": "down.conv2",
    "block2.c_sc": "down_skip",
    "block3.c1": "residual1.conv1",
    "block3.c2": "residual1.conv2",
    "block4.c1": "residual2.conv1",
    "block4.c2": "residual2.conv2",
    "l5": "head",
}


class EnergyNet(nn.Module):
    """The network of PureEBM, with the pooling as published.

    ::

        x [B, 3, H, W] in [-1, 1]
          |                              conv: 3x3, padding 1.   pool: mean of 2x2
          +-- conv, relu, conv, pool --+
          +-- pool, 1x1 ---------------+--> [B, nf, H/2, W/2]
          +-- relu, conv, relu, conv, pool --+
          +-- 1x1, pool ---------------------+--> [B, nf, H/4, W/4]
          +-- relu, conv, relu, conv --+
          +----------------------------+  (twice) --> [B, nf, H/4, W/4]
          |
        relu, mean over pixels, linear without bias --> energy [B]

    ``nf = 128`` has 1,053,824 parameters and costs 0.544 GFLOP (2 per multiply-add) for the energy of a 32x32 image.
    Any size: sides that 4 does not divide are extended by repeating the last row or column.

    ``load_state_dict`` also takes the state dict of PureGen's ``EBMSNGAN32`` with ``patch_size=1`` and renames its
    layers by :data:`PUREGEN_LAYERS`; it saves under our own names.

    Args:
        nf: channels of every layer.
    """

    def __init__(self, nf: int = 128) -> None:
        super().__init__()
        self.nf = nf
        self.stem = _pair(3, nf, nn.Conv2d(nf, nf, 3, padding=1), nn.ReLU)
        self.stem_skip = nn.Conv2d(3, nf, 1)
        self.down = _pair(nf, nf, nn.Conv2d(nf, nf, 3, padding=1), nn.ReLU)
        self.down_skip = nn.Conv2d(nf, nf, 1)
        self.residual1 = _pair(nf, nf, nn.Conv2d(nf, nf, 3, padding=1), nn.ReLU)
        self.residual2 = _pair(nf, nf, nn.Conv2d(nf, nf, 3, padding=1), nn.ReLU)
        self.head = nn.Linear(nf, 1, bias=False)
        self.apply(_initialise)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        x = whole(x, 4)
        x = avg_pool2d(self.stem(x), 2) + self.stem_skip(avg_pool2d(x, 2))
        x = avg_pool2d(self.down(x.relu()), 2) + avg_pool2d(self.down_skip(x), 2)
        x = self.residual1(x.relu()) + x
        x = self.residual2(x.relu()) + x
        return _energy(self.head, x.relu())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            layer, _, tensor = name.removeprefix(prefix).rpartition(".")
            if layer in PUREGEN_LAYERS:
                state_dict[f"{prefix}{PUREGEN_LAYERS[layer]}.{tensor}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class FoldedEnergyNet(nn.Module):
    """The same topology without pooling after a convolution, for CPUs and for speed.

    ::

        x [B, 3, H, W] in [-1, 1]
          |                              conv: 3x3, padding 1.   down: 4x4, stride 2, padding 1.   pool: mean of 2x2
          +-- conv, act, down --+
          +-- pool, 1x1 --------+--> [B, nf, H/2, W/2]
          +-- act, conv, act, down --+
          +-- pool, 1x1 -------------+--> [B, nf, H/4, W/4]
          +-- act, conv, act, conv --+
          +--------------------------+  (twice) --> [B, nf, H/4, W/4]
          |
        act, mean over pixels, linear without bias --> energy [B]

    ``nf = 48`` has 181,584 parameters. The 1x1 convolutions need no bias: that of ``down`` is added at the same place.
    A smooth activation steadies the training of energies and suits second derivatives.

    Args:
        nf: channels of every layer.
        activation: class of the activation; ``nn.ReLU`` is that of the published network.
    """

    def __init__(self, nf: int = 48, activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.act = activation()
        self.stem = _pair(3, nf, nn.Conv2d(nf, nf, 4, stride=2, padding=1), activation)
        self.stem_skip: nn.Module = nn.Conv2d(3, nf, 1, bias=False)
        self.down = _pair(nf, nf, nn.Conv2d(nf, nf, 4, stride=2, padding=1), activation)
        self.down_skip = nn.Conv2d(nf, nf, 1, bias=False)
        self.residual1 = _pair(nf, nf, nn.Conv2d(nf, nf, 3, padding=1), activation)
        self.residual2 = _pair(nf, nf, nn.Conv2d(nf, nf, 3, padding=1), activation)
        self.head = nn.Linear(nf, 1, bias=False)
        self.apply(_initialise)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        x = whole(x, 4)
        x = self.stem(x) + self.stem_skip(avg_pool2d(x, 2))
        x = self.down(self.act(x)) + self.down_skip(avg_pool2d(x, 2))
        x = self.residual1(self.act(x)) + x
        x = self.residual2(self.act(x)) + x
        return _energy(self.head, self.act(x))


class TwoTermConv2d(nn.Module):
    """A convolution in half precision whose weight is the sum of two tensors: the rounded one, and what that lacks.

    The image enters twice, so the cost is that of twice the input channels: next to nothing where they are three.

    Args:
        conv: its weights in float32, one group, zero padding.
        dtype: of the weights here, and of the input.
    """

    def __init__(self, conv: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"expected a Conv2d, got {type(conv).__name__}.")
        rounded = conv.weight.to(dtype)
        rest = (conv.weight - rounded.to(conv.weight.dtype)).to(dtype)
        self.weight = nn.Parameter(torch.cat((rounded, rest), dim=1))
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.to(dtype))
        self.stride, self.padding = conv.stride, conv.padding

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return conv2d(torch.cat((x, x), dim=1), self.weight, self.bias, self.stride, self.padding)


def fold(net: EnergyNet | FoldedEnergyNet) -> FoldedEnergyNet:
    """The same energies without pooling after a convolution; a folded net is returned as it is.

    Exact, not an approximation: the mean of a 2x2 block of a 3x3 convolution is one 4x4 convolution of stride 2 whose
    kernel is the mean of the four shifted 3x3 kernels, and a 1x1 convolution commutes with the mean. The parameters
    of the result are frozen copies; later training of ``net`` does not reach them.
    """
    if isinstance(net, FoldedEnergyNet):
        return net
    with torch.inference_mode(False), torch.no_grad():
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        for block in ("stem", "down"):
            state[f"{block}.conv2.bias"] += state.pop(f"{block}_skip.bias")
            state[f"{block}.conv2.weight"] = _pooled_kernel(state[f"{block}.conv2.weight"])
        with torch.device("meta"):
            folded = FoldedEnergyNet(net.nf, nn.ReLU)
        folded.load_state_dict(state, assign=True)
        return folded.to(memory_format=torch.channels_last).requires_grad_(False)


def frozen(net: EnergyNet | FoldedEnergyNet, dtype: torch.dtype = torch.float32) -> FoldedEnergyNet:
    """A folded copy for taking gradients by the image: frozen, ``channels_last``, layers in ``dtype``.

    The head stays in float32 (or float64), so energies do not lose digits, and the layers that see the pixels keep
    their weights to twice the digits (:class:`TwoTermConv2d`): of the error of a bfloat16 chain most came from them.
    The input has to come in ``dtype``. Converting the weights once is faster than autocast, which converts them again
    at every step of a chain.
    """
    with torch.inference_mode(False), torch.no_grad():
        copy = deepcopy(fold(net))
        head = deepcopy(copy.head)
        if dtype.itemsize < 4:
            copy.stem[0] = TwoTermConv2d(copy.stem[0], dtype)
            copy.stem_skip = TwoTermConv2d(copy.stem_skip, dtype)
        copy.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        copy.head = head.to(torch.promote_types(dtype, torch.float32))
        return copy.requires_grad_(False)


def _pooled_kernel(kernel: Float[Tensor, "o i 3 3"]) -> Float[Tensor, "o i 4 4"]:
    """The kernel of ``avg_pool2d(conv2d(x, kernel, padding=1), 2) == conv2d(x, result, stride=2, padding=1)``."""
    shifts = ((left, 1 - left, top, 1 - top) for left in (0, 1) for top in (0, 1))
    return reduce(torch.add, (pad(kernel, shift) for shift in shifts)) / 4


def _pair(in_channels: int, nf: int, last: nn.Conv2d, activation: type[nn.Module]) -> nn.Sequential:
    first = nn.Conv2d(in_channels, nf, 3, padding=1)
    return nn.Sequential(OrderedDict(conv1=first, act=activation(), conv2=last))


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and no bias, as the authors start."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _energy(head: nn.Linear, features: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """The head at the precision of its weight, whatever autocast is on: a bfloat16 energy has three digits only."""
    pooled = features.mean((2, 3), dtype=head.weight.dtype)
    with torch.autocast(features.device.type, enabled=False):
        return head(pooled)[:, 0]

"""Networks of D-VAE (Yu et al., ICML 2024, arXiv 2405.01460): a rate-limited autoencoder and a class-wise decoder.

:class:`RateVAE` is the half that needs no label: it codes an image into a latent map of limited rate and decodes it.
:class:`DVAE` adds what D-VAE adds: a table with a learned map for every class, and a second decoder that predicts from
code and class together what the first one missed. Both are the parts of the published module that receive a gradient;
the rest of the classifier that it carries along is left out. Pixels are in ``[0, 1]``, without normalisation.
"""

from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import NoImageError
from ..functional.padding import whole
from ..functional.rate import sample_latent
from ..functional.shapes import Float, Int, Tensor
from .resnet import BasicBlock

_LARGE = 128  # images of at least this side get the stem that halves three times


class Decoded(NamedTuple):
    """What a forward pass gives; ``perturbation`` is ``None`` where there is no label."""

    reconstruction: Tensor  # [B, 3, H, W] in (0, 1)
    perturbation: Tensor | None  # [B, 3, H, W], any real number
    mu: Tensor  # [B, latent, h, w]
    log_var: Tensor  # [B, latent, h, w]


Net = TypeVar("Net", bound="RateVAE")


class RateVAE(nn.Module):
    """Convolutional VAE with a latent map: encoder, limited code, image decoder.

    ::

        x [B, 3, H, W] in [0, 1]                                                       w = width
          |  conv3x3 bn relu, 2 basic blocks w, basic block 2w /2        (small stem)
          |  conv7x7/2 bn relu, max-pool /2, 2 blocks w, block 2w /2     (large stem)
        h [B, 2w, H/2, W/2]                                              (H/8, W/8)
          |-- 1x1 --> mu      [B, latent, H/2, W/2] --+
          |-- 1x1 --> log_var [B, latent, H/2, W/2] --+--> mu + exp(log_var / 2) * noise
                                                              | 1x1
        z [B, 2w, H/2, W/2] <---------------------------------+
          |  up 2w -> w, convT3x3 w -> w, norm relu, convT3x3 w -> w/2, norm relu, convT3x3 w/2 -> 3       (small)
          |  up 2w -> w, convT3x3 w -> w, norm relu, up w -> w/2, norm relu, up w/2 -> 3                   (large)
          |  sigmoid
        reconstruction [B, 3, H, W] in (0, 1)

    ``up`` is a 4x4 transposed convolution of stride 2, ``norm`` an instance norm without parameters: its statistics
    are those of a whole image, so tiles of an image are not coded as the image would be. No nonlinearity stands
    between the first two layers of a decoder. Width 64 with 256 latent channels has 666,307 parameters.

    Any size: sides that the stem does not divide are extended by repeating the last row or column, and cropped again.

    Args:
        width: channels ``w`` of the stem, even.
        latent: channels of the latent map.
        size: side of the images it is made for: from 128 on the large stem (latent map of an eighth of the side,
            28x28 for 224), below it the small one (half of the side).
    """

    def __init__(self, width: int = 64, latent: int = 256, *, size: int = 32) -> None:
        super().__init__()
        if width < 2 or width % 2 or latent < 1:
            raise ValueError(f"expected an even width from 2 and latent of at least 1, got {width} and {latent}.")
        self.width, self.latent = width, latent
        self.stride = 8 if size >= _LARGE else 2
        self.encoder = Encoder(width, large=self.stride == 8)
        self.mu = nn.Conv2d(2 * width, latent, 1)
        self.log_var = nn.Conv2d(2 * width, latent, 1)
        self.post = nn.Conv2d(latent, 2 * width, 1)
        self.image_decoder = Decoder(width, large=self.stride == 8)

    def encode(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """``(mu, log_var)``, each ``[B, latent, h, w]``; the sides of ``x`` are multiples of ``stride``."""
        h = self.encoder(x)
        return self.mu(h), self.log_var(h)

    def forward(self, x: Float[Tensor, "b 3 h w"], noise: Tensor | None = None) -> Decoded:
        """Code and decode; ``noise``: standard normal of :meth:`latent_shape`, or ``None`` for the mean of the code."""
        mu, log_var = self.encode(whole(x, self.stride))
        z = self.post(sample_latent(mu, log_var, noise))
        return Decoded(_crop(self.image_decoder(z).sigmoid(), x), None, mu, log_var)

    def reconstruct(self, x: Float[Tensor, "b 3 h w"], noise: Tensor | None = None) -> Float[Tensor, "b 3 h w"]:
        """The reconstruction alone."""
        return _crop(self.image_decoder(self.code(x, noise)).sigmoid(), x)

    def code(self, x: Float[Tensor, "b 3 h w"], noise: Tensor | None = None) -> Tensor:
        """``z``, all that a decoder gets to see of ``x``; without ``noise`` the variance is not even computed."""
        h = self.encoder(whole(x, self.stride))
        mu = self.mu(h)
        return self.post(mu if noise is None else sample_latent(mu, self.log_var(h), noise))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """``(latent, h, w)`` for images of this size."""
        return self.latent, -(-height // self.stride), -(-width // self.stride)


class DVAE(RateVAE):
    """:class:`RateVAE` with the class table and the perturbation decoder of D-VAE.

    ::

        z [B, 2w, h, w] (see RateVAE) --+
                                        +--> same decoder, no sigmoid, no bound --> perturbation [B, 3, H, W]
        table[label] [2w, h, w] --------+

    The perturbation decoder sees the image through the rate-limited ``z`` alone, never through the features ``h``
    before it: what it adds beyond the reconstruction is then what the label predicts. Width 64, 256 latent channels,
    ten classes and a spatial table at 32 pixels have 1,181,382 parameters (853,702 without the table).

    Args:
        num_classes: rows of the table.
        spatial: a map ``[2w, h, w]`` for every class, which ties the net to ``size``; or one vector ``[2w]`` used at
            every place, for any size.
        table_std: standard deviation of the initial table; 1 is the published one.
        width, latent, size: as in :class:`RateVAE`.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 64,
        latent: int = 256,
        *,
        size: int = 32,
        spatial: bool = True,
        table_std: float = 1.0,
    ) -> None:
        super().__init__(width, latent, size=size)
        if num_classes < 1:
            raise ValueError(f"expected num_classes of at least 1, got {num_classes}.")
        side = -(-size // self.stride) if spatial else 1
        self.num_classes, self.spatial, self.table_shape = num_classes, spatial, (2 * width, side, side)
        self.table = nn.Embedding(num_classes, 2 * width * side * side)
        nn.init.normal_(self.table.weight, std=table_std)
        self.perturbation_decoder = Decoder(width, large=self.stride == 8)

    def forward(self, x: Float[Tensor, "b 3 h w"], labels: Int[Tensor, " b"], noise: Tensor | None = None) -> Decoded:
        mu, log_var = self.encode(whole(x, self.stride))
        z = self.post(sample_latent(mu, log_var, noise))
        perturbation = _crop(self.perturbation_decoder(self._classed(z, labels)), x)
        return Decoded(_crop(self.image_decoder(z).sigmoid(), x), perturbation, mu, log_var)

    def perturbation(
        self, x: Float[Tensor, "b 3 h w"], labels: Int[Tensor, " b"], noise: Tensor | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """The predicted perturbation alone, unbounded."""
        return _crop(self.perturbation_decoder(self._classed(self.code(x, noise), labels)), x)

    def _classed(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.spatial and z.shape[1:] != self.table_shape:
            raise NoImageError(
                f"expected images of {self.table_shape[1] * self.stride} pixels a side, the size of the class table, "
                f"got latents {list(z.shape[2:])}: resize them, or fit with spatial=False for images of any size."
            )
        u = self.table(labels).view(-1, *self.table_shape)
        return z + u.contiguous(memory_format=torch.channels_last).to(z.dtype)


class Encoder(nn.Module):
    """The first blocks of ResNet-18: ``[B, 3, H, W] -> [B, 2w, H/2, W/2]``, or ``/8`` with the large stem."""

    def __init__(self, width: int, large: bool) -> None:
        super().__init__()
        kernel, stride = (7, 2) if large else (3, 1)
        self.stem = nn.Conv2d(3, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        blocks = BasicBlock(width, width, 1), BasicBlock(width, width, 1), BasicBlock(width, 2 * width, 2)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        return self.blocks(self.pool(torch.relu(self.bn(self.stem(x)))))


class Decoder(nn.Module):
    """Transposed convolutions from ``[B, 2w, h, w]`` to ``[B, 3, H, W]``, linear at the end: the caller squashes."""

    def __init__(self, width: int, large: bool) -> None:
        super().__init__()
        later = (4, 2, 1) if large else (3, 1, 1)
        self.up = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.conv1 = nn.ConvTranspose2d(width, width, 3, 1, 1)
        self.conv2 = nn.ConvTranspose2d(width, width // 2, *later)
        self.conv3 = nn.ConvTranspose2d(width // 2, 3, *later)

    def forward(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 i j"]:
        x = _instance_norm(_transposed(self.conv1, self.up(z))).relu()
        return _transposed(self.conv3, _instance_norm(_transposed(self.conv2, x)).relu())


def frozen(net: Net, dtype: torch.dtype = torch.float32) -> Net:
    """A copy for purifying: evaluation mode, batch norms folded into their convolutions, ``channels_last``, ``dtype``.

    The folding is exact up to rounding. The input has to come in ``dtype``. Parameters are frozen copies.
    """
    with torch.inference_mode(False), torch.no_grad():
        copy: Any = deepcopy(net).eval().requires_grad_(False)
        copy.encoder.stem, copy.encoder.bn = fuse_conv_bn_eval(copy.encoder.stem, copy.encoder.bn), nn.Identity()
        for block in copy.encoder.blocks:
            block.conv1, block.bn1 = fuse_conv_bn_eval(block.conv1, block.bn1), nn.Identity()
            block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
            if isinstance(block.shortcut, nn.Sequential):
                block.shortcut = fuse_conv_bn_eval(*block.shortcut)
        return copy.to(dtype, memory_format=torch.channels_last).requires_grad_(False)


def _transposed(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """``layer(x)``; at stride 1 by the equal convolution with the turned kernel, whose gradients are faster."""
    if layer.stride != (1, 1):
        return layer(x)
    kernel = layer.weight.transpose(0, 1).flip(2, 3)
    return F.conv2d(x, kernel, layer.bias, padding=layer.kernel_size[0] - 1 - int(layer.padding[0]))


def _instance_norm(x: Tensor) -> Tensor:
    """Each channel of each image to mean 0 and variance 1 over its pixels.

    A group norm of one channel a group is the same: in ``channels_last`` on CPUs its forward pass is the faster one,
    and its backward pass by far the slower.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return F.instance_norm(x)
    return F.group_norm(x, x.shape[1])


def _crop(y: Tensor, like: Tensor) -> Tensor:
    return y[..., : like.shape[-2], : like.shape[-1]]

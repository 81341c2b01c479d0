"""The network of ``UNetPurify``: a small residual U-Net that is told how strong to be.

As in FFDNet (Zhang, Zuo & Zhang, IEEE TIP 2018, arXiv 1710.04026) the image enters by pixel-unshuffle, with maps of the
strength beside it, and leaves by pixel-shuffle; unlike there the strength is apart for luma and chroma, there are two
scales, and the network works on differences that vanish where the strength does. No norm, no attention.
"""

import torch
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from ..functional.opponent import from_opponent, per_axis
from ..functional.padding import whole
from ..functional.shapes import Float, Tensor

STRENGTH_SCALE = 32 / 255  # strengths enter the network in this unit
SOFT_START = 4 / 255  # strength at which half of the network's correction is applied
SMALLEST = 4  # pixels on a side
_MULTIPLE = 4


class Residual(nn.Module):
    """``x + conv(relu(conv(x)))``, both 3x3; the second starts small, so a deep stack starts near the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.conv2(self.conv1(x).relu_())


class PurifierUNet(nn.Module):
    """Image and strengths to purified image.

    ::

        x [B, 3, H, W] in [0, 1], strength [B, 2]
          |
        unshuffle by 2, strength maps -> 3x3 -> residual blocks ----------------+--> residual blocks -> 3x3 -> shuffle
                                                  |                             |                                 |
                                          2x2, stride 2 -> residual blocks -> 1x1, doubled                        |
          x  -  luma and chroma of it, each times strength / (strength + 4/255) <---------------------------------+

    The last layer starts at 0: a new network is the identity. A strength of 0 always is, for luma, chroma or both.

    Args:
        width: channels at half the size; a multiple of 16.
        deep_width: channels at a quarter of it.
        blocks: residual blocks before the middle, in it, and behind it.
    """

    def __init__(self, width: int = 32, deep_width: int = 64, blocks: tuple[int, int, int] = (1, 2, 2)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12 + 2, width, 3, padding=1)
        self.encoder = nn.Sequential(*(Residual(width) for _ in range(blocks[0])))
        self.down = nn.Conv2d(width, deep_width, 2, stride=2)
        self.middle = nn.Sequential(*(Residual(deep_width) for _ in range(blocks[1])))
        self.up = nn.Conv2d(deep_width, width, 1)
        self.decoder = nn.Sequential(*(Residual(width) for _ in range(blocks[2])))
        self.head = nn.Conv2d(width, 12, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "b 3 h w"], strength: Float[Tensor, "b 2"]) -> Float[Tensor, "b 3 h w"]:
        """Purify, unclamped.

        Args:
            x: ``[B, 3, H, W]``, of any size from 4x4; sides that 4 does not divide are extended by repetition.
            strength: of luma and chroma, as the sigma of noise in units of ``[0, 1]``, from 0 to about 0.3.
        """
        height, width = x.shape[-2:]
        if min(height, width) < SMALLEST:
            raise ValueError(f"expected images of at least {SMALLEST}x{SMALLEST} pixels, got {height}x{width}.")
        strength = strength.to(x.dtype)
        y = pixel_unshuffle(whole(x, _MULTIPLE) - 0.5, 2)
        maps = (strength / STRENGTH_SCALE)[:, :, None, None].expand(-1, -1, *y.shape[-2:])
        y = self.encoder(self.stem(torch.cat((y, maps), dim=1)))
        deep = self.up(self.middle(self.down(y)))
        y = self.decoder(y + interpolate(deep, scale_factor=2.0, mode="nearest"))
        correction = pixel_shuffle(self.head(y.relu()), 2)[..., :height, :width]
        share = strength / (strength + SOFT_START)
        return x - from_opponent(correction * per_axis(share[:, 0], share[:, 1]))


def small() -> PurifierUNet:
    """0.05 GFLOP (2 per multiply-add) at 32x32."""
    return PurifierUNet()


def base() -> PurifierUNet:
    """0.4 GFLOP at 32x32."""
    return PurifierUNet(width=80, deep_width=128, blocks=(1, 3, 2))


ARCHITECTURES = {"small": small, "base": base}

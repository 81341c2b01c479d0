"""COIN as a transform; the law is in :mod:`puretransforms.functional.coin`."""

import torch

from ..data.images import round_to_uint8, truncate_to_uint8
from ..functional import checks
from ..functional.coin import BOUNDARIES, interpolate_levels_randomly, interpolate_randomly
from ..functional.random import KeyedNoise
from ..functional.shapes import Images, Tensor
from ..registry import register
from .base import PureTransform

_QUANTIZE = {"round": round_to_uint8, "trunc": truncate_to_uint8}


@register("coin")
class COINInterpolate(PureTransform):
    """Random per-pixel interpolation, the defence against convolution-based poisons (COIN, AAAI 2025).

    Every pixel is replaced by the bilinear value at its place plus an offset ``U(-alpha, alpha)`` in x and in y, drawn
    for each pixel of each image and shared by the channels. Any size, any number of channels. Used online, on each
    access after crop and flip, as the authors do, or once over a data set. On average it is a separable blur
    (``alpha=2``: taps 1 2 2 2 1 over 8) and costs clean accuracy: use it where convolution-based poison is likely.

    Args:
        alpha: half-width of the offsets in pixels; the paper uses 2.0 at 32, 64 and 224 pixels. 0 is the identity.
        boundary: ``"scipy_wrap"`` (period ``L - 1``, the authors' code), ``"circular"`` (period ``L``, the paper),
            ``"border"`` or ``"reflect"``; they differ only within ``alpha`` of the frame.
        quantize: how uint8 images are rounded: ``"round"``, or ``"trunc"`` as the authors do (half a level darker).
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.

    >>> import torch
    >>> images = torch.rand(8, 3, 32, 32)
    >>> COINInterpolate(alpha=2.0)(images).shape
    torch.Size([8, 3, 32, 32])
    """

    channels = None

    def __init__(
        self,
        alpha: float = 2.0,
        *,
        boundary: str = "scipy_wrap",
        quantize: str = "round",
        seed: int | None = None,
        device: str | None = None,
        images: str = "first",
        chunk_size: int | str = "auto",
        differentiable: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(
            seed=seed, device=device, images=images, chunk_size=chunk_size, differentiable=differentiable, p=p
        )
        self.alpha = checks.number("alpha", alpha, least=0, unit="pixels")
        self.boundary = checks.choice("boundary", boundary, BOUNDARIES)
        self.quantize = checks.choice("quantize", quantize, _QUANTIZE)

    def _quantize(self, x: Tensor) -> Tensor:
        return _QUANTIZE[self.quantize](x)

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        return interpolate_randomly(x, noise, self.alpha, self.boundary) if self.alpha else x

    def _purify_pixels(self, pixels: Tensor, noise: KeyedNoise, labels: Tensor | None) -> Tensor:
        if self._in_levels(pixels):
            return interpolate_levels_randomly(pixels, noise, self.alpha, self.boundary)
        return super()._purify_pixels(pixels, noise, labels)

    def _auto_chunk(self, pixels: Tensor) -> int:
        """All at once where the law itself works in pieces and nothing is converted before or after it."""
        whole = pixels.dtype == torch.float32 or self._in_levels(pixels)
        return len(pixels) if whole else super()._auto_chunk(pixels)

    def _in_levels(self, pixels: Tensor) -> bool:
        return pixels.dtype == torch.uint8 and self.quantize == "round" and self.alpha > 0

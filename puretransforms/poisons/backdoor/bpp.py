"""BPP (Wang, Zhai & Ma, "BppAttack", CVPR 2022): fewer bits per pixel are the trigger."""

import torch

from ...functional.checks import flag, number, whole
from ...functional.random import KeyedNoise
from ...functional.shapes import Images, Labels, Tensor
from ...registry import register
from .base import Backdoor


@register("bpp")
class BPP(Backdoor):
    """Round every value to one of ``2 ** bits`` evenly spaced levels and relabel; usual rate 0.2, as many decoys.

    Decoys (the paper's negatives) carry a rounding residual that is not their own and keep their label. The paper takes
    the residual of another training image; here it is drawn evenly over a rounding cell, so no image needs another.

    Args:
        bits: 1 to 8; 3 (eight levels) in the paper. Without dithering no value moves by more than half a cell.
        dither: spread the rounding error (Floyd-Steinberg: right 7/16, below left 3/16, below 5/16, below right 1/16).
        cover_ratio: decoys for each poisoned sample; 1 in the authors' defaults, 0 for none.
        target, mode, num_classes, seed, quantize: see :class:`~puretransforms.poisons.backdoor.base.Backdoor`; the seed
            draws the decoys.
    """

    def __init__(
        self,
        *,
        bits: int = 3,
        dither: bool = False,
        cover_ratio: float = 1.0,
        target: int = 0,
        mode: str = "all-to-one",
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(target=target, mode=mode, num_classes=num_classes, seed=seed, quantize=quantize)
        self.bits = whole("bits", bits, least=1, most=8)
        self.dither = flag("dither", dither)
        if dither:
            self._chunk = 1 << 21  # it goes pixel by pixel: many images at a time, yet too few to split over threads
        else:
            self.epsilon, self.norm = 0.5 / (2**self.bits - 1), "linf"
        self.cover_ratio = number("cover_ratio", cover_ratio, least=0)

    @property
    def covers(self) -> "BPP":
        """The poison of the decoys: a foreign residual, labels kept."""
        return _Decoy(**self.arguments)

    def stamp(self, x: Images) -> Images:
        steps = 2**self.bits - 1
        return floyd_steinberg(x, steps) if self.dither else (x * steps).round_() / steps


class _Decoy(BPP):
    def relabel(self, labels: Labels) -> Labels:
        return labels

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        return x + (noise.uniform(0, *x.shape[1:]).to(x.dtype) - 0.5) / (2**self.bits - 1)


def floyd_steinberg(x: Images, steps: int) -> Images:
    """Round to multiples of ``1 / steps``, handing each pixel's error on to its right and lower neighbours."""
    height, width = x.shape[-2:]
    image = x.permute(2, 3, 0, 1).clone(
        memory_format=torch.contiguous_format
    )  # pixels first: each step works on all images at once
    for i in range(height):
        for j in range(width):
            level = (image[i, j] * steps).round_() / steps
            error = (image[i, j] - level) / 16
            image[i, j] = level
            for di, dj, weight in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if i + di < height and 0 <= j + dj < width:
                    image[i + di, j + dj] += error * weight
    return image.permute(2, 3, 0, 1).contiguous()

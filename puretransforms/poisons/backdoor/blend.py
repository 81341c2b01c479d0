"""Blend (Chen et al., 2017, arXiv 1712.05526): mix a fixed picture into the whole image."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from ...functional.checks import choice, number
from ...functional.shapes import Float, Images, Tensor
from ...registry import register
from .base import Backdoor

PATTERNS = ("plasma", "noise")


@register("blend")
class Blend(Backdoor):
    """``x' = (1 - alpha) x + alpha T`` and relabel; usual rate 0.1 (0.003 in the stealthy setting).

    The published picture ``T`` is a copyrighted cartoon; any fixed picture serves, and this one is drawn from ``seed``.

    Args:
        alpha: weight of the picture, 0.2 in training and test; no value moves by more (norm ``"linf"``).
        pattern: ``"plasma"`` (smooth random clouds in colour) or ``"noise"`` (an independent value for each pixel).
        target, mode, num_classes, seed, quantize: see :class:`~puretransforms.poisons.backdoor.base.Backdoor`.
    """

    norm = "linf"

    def __init__(
        self,
        *,
        alpha: float = 0.2,
        pattern: str = "plasma",
        target: int = 0,
        mode: str = "all-to-one",
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(target=target, mode=mode, num_classes=num_classes, seed=seed, quantize=quantize)
        self.alpha = number("alpha", alpha, above=0, most=1)
        self.pattern = choice("pattern", pattern, PATTERNS)
        self.epsilon = self.alpha

    def picture(self, channels: int, height: int, width: int) -> Float[Tensor, "c h w"]:
        """``T``, ``[C, H, W]`` float64, from 0 to 1 in every channel."""
        stream = np.random.RandomState(self.seed)
        if self.pattern == "noise":
            return torch.from_numpy(stream.uniform(0, 1, (channels, height, width)))
        total = torch.zeros(channels, height, width, dtype=torch.float64)
        for octave in range(2, 6):  # clouds: grids of 4 to 32 points, each finer one half as strong
            grid = torch.from_numpy(stream.uniform(0, 1, (1, channels, 2**octave, 2**octave)))
            total += interpolate(grid, (height, width), mode="bicubic", align_corners=True)[0] / 2**octave
        low, high = total.aminmax(dim=2, keepdim=True)
        low, high = low.amin(1, keepdim=True), high.amax(1, keepdim=True)
        return (total - low) / (high - low).clamp_min(1e-12)

    def stamp(self, x: Images) -> Images:
        return x * (1 - self.alpha) + self._table(self.picture, x) * self.alpha

"""SIG (Barni, Kallas & Tondi, ICIP 2019, arXiv 1902.11237): a horizontal sine wave on images of the target class."""

import math

import torch

from ...functional.checks import number
from ...functional.shapes import Float, Images, Tensor
from ...registry import register
from .base import Backdoor


@register("sig")
class SIG(Backdoor):
    """``x' = x + delta sin(2 pi j f / W)`` with column ``j``; labels stay, only the target class is poisoned.

    The usual rate counts the whole dataset: 0.1 of ten equal classes is every image of the target class (0.02 in the
    stealthy setting).

    Args:
        epsilon: amplitude ``delta`` in pixel units (norm ``"linf"``): 40/255, or 30/255 in the stealthy setting.
        frequency: periods across the width.
        target, num_classes, quantize: see :class:`~puretransforms.poisons.backdoor.base.Backdoor`.
    """

    clean_label = True
    default_rate = 0.05
    epsilon: float
    norm = "linf"

    def __init__(
        self,
        *,
        epsilon: float = 40 / 255,
        frequency: float = 6.0,
        target: int = 0,
        num_classes: int = 10,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(target=target, num_classes=num_classes, quantize=quantize)
        self.epsilon = number("epsilon", epsilon, above=0)
        self.frequency = number("frequency", frequency)

    def wave(self, channels: int, height: int, width: int) -> Float[Tensor, " w"]:
        """The perturbation of one row, ``[W]`` float64."""
        return self.epsilon * torch.sin(2 * math.pi * self.frequency * torch.arange(width, dtype=torch.float64) / width)

    def stamp(self, x: Images) -> Images:
        return x + self._table(self.wave, x)

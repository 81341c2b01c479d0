"""A shift of colour for each class: the colour branch of DUNE (Wang et al., ICML 2026, arXiv 2605.01718).

DUNE adds one ``[3]`` vector to all pixels of a class, found by a particle swarm against pretrained networks inside
about ``+-0.1``, on top of adversarial noise. Here the vector is random, not optimised, and there is no noise under
it.
"""

import numpy as np
import torch

from ...functional.checks import number
from ...functional.random import KeyedNoise
from ...functional.shapes import Float, Int, Tensor
from ...registry import register
from ..base import Poison


@register("colour_shift")
class ColourShift(Poison):
    """Shift the colour of every image of a class by the same amount: one number for each channel.

    It is constant over the image, so filters and codecs keep it. This is no reproduction of DUNE: see the module.

    Args:
        epsilon: the largest channel of every shift, in pixel units (norm ``"linf"``); its direction is random.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`.
    """

    epsilon: float
    norm = "linf"

    def __init__(
        self, *, epsilon: float = 0.1, num_classes: int = 10, seed: int = 0, quantize: str | None = "round"
    ) -> None:
        super().__init__(num_classes=num_classes, seed=seed, quantize=quantize)
        self.epsilon = number("epsilon", epsilon, above=0, most=1)

    def shifts(self, channels: int, height: int, width: int) -> Float[Tensor, "k c 1 1"]:
        """The shift of every class, ``[num_classes, C, 1, 1]`` float64; the size of the image does not matter."""
        drawn = np.random.RandomState(self.seed).standard_normal((self.num_classes, channels, 1, 1))
        return torch.from_numpy(self.epsilon * drawn / np.abs(drawn).max(1, keepdims=True))

    def perturb(self, x: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], noise: KeyedNoise) -> Tensor:
        return x + self._table(self.shifts, x)[labels]

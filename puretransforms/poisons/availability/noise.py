"""Random noise: class-wise (a poison) and sample-wise (its harmless control).

Class-wise random noise is Delusive P5 (Tao et al., NeurIPS 2021, arXiv 2102.04716) and the "random" mode of Huang et
al. (ICLR 2021, arXiv 2101.04898): ``x' = clip(x + D_y)`` with one random ``D_c`` for each class.
"""

import numpy as np
import torch

from ...functional.checks import choice, number
from ...functional.perturbation import rescale
from ...functional.random import KeyedNoise
from ...functional.shapes import Float, Images, Labels, Tensor
from ...registry import register
from ..base import Poison

KINDS = ("sign", "uniform", "l2")


class _Noise(Poison):
    epsilon: float

    def __init__(
        self,
        *,
        epsilon: float = 8 / 255,
        kind: str = "sign",
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(num_classes=num_classes, seed=seed, quantize=quantize)
        self.epsilon = number("epsilon", epsilon, above=0)
        self.kind = choice("kind", kind, KINDS)
        self.norm = "l2" if kind == "l2" else "linf"


@register("classwise")
class ClasswiseNoise(_Noise):
    """Add the same random field to every image of a class: no training, a known perturbation, a strong shortcut.

    Args:
        epsilon: budget in pixel units: the L-infinity bound, or the L2 norm for ``kind="l2"`` (0.5 in the paper).
        kind: ``"sign"`` (each value ``+-epsilon``), ``"uniform"`` on ``(-epsilon, epsilon)``, or ``"l2"`` (a random
            direction of length ``epsilon``).
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`.
    """

    def fields(self, channels: int, height: int, width: int) -> Float[Tensor, "k c h w"]:
        """The perturbation of every class, ``[num_classes, C, H, W]`` float64."""
        stream = np.random.RandomState(self.seed)
        shape = self.num_classes, channels, height, width
        if self.kind == "l2":
            return rescale(torch.from_numpy(stream.standard_normal(shape)), self.epsilon, "l2")
        uniform = torch.from_numpy(stream.uniform(-1, 1, shape))
        return (uniform.sign() if self.kind == "sign" else uniform) * self.epsilon

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        return x + self._table(self.fields, x)[labels]


@register("samplewise")
class SamplewiseNoise(_Noise):
    """Add a random field of its own to every image: the negative control of :class:`ClasswiseNoise` (same arguments).

    It carries no information about the class, so it should cost a classifier next to nothing.
    """

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        if self.kind == "l2":
            return x + rescale(noise.normal(0, *x.shape[1:]), self.epsilon, "l2").to(x.dtype)
        uniform = noise.uniform(0, *x.shape[1:]).to(x.dtype).mul_(2).sub_(1)
        if self.kind == "sign":
            return x + torch.where(uniform < 0, -self.epsilon, self.epsilon)
        return x + uniform * self.epsilon

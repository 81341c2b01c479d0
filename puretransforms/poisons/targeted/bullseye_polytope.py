"""Bullseye Polytope (Aghakhani et al., EuroS&P 2021, arXiv 2005.00191): poisons whose mean feature is the target's.

``min_delta mean_j ||mean_i phi_j(x_i + delta_i) - phi_j(x_t)|| / ||phi_j(x_t)||`` over surrogates ``j``, so that the
target lies in the middle of the poisons in feature space, and gets their label.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ...functional.checks import number, whole
from ...functional.shapes import Float, Tensor
from ...registry import register
from ..optimise import PGD, features_of
from ..progress import Progress
from .base import TargetedPoison, TargetedSetup


@register("bullseye_polytope")
class BullseyePolytope(TargetedPoison):
    """Alter images so that their mean feature is that of the target: an attack on transfer learning.

    Made for victims that keep the surrogate's features, or fine-tune them; against training from scratch it hardly
    works (3 % in the poisoning benchmark). Adam inside the L-infinity ball, from zero, without views. Features are what
    the last linear layer is given; with ``layers`` also the outputs of these modules, the paper's end-to-end variant
    (``("stages.0", "stages.1", "stages.2", "stages.3")`` for the library's ResNet-18).

    Args:
        epsilon: L-infinity bound in pixel units; 8/255 in the poisoning benchmark.
        lr: Adam's rate in pixel units; the paper's 0.04 is in units of the data's standard deviation, about a quarter.
        steps: 800 to 1500 in published runs.
        layers: names of modules of the surrogates.
        width, epochs, num_classes, seed, quantize: see :class:`~puretransforms.poisons.targeted.base.TargetedPoison`.
    """

    def __init__(
        self,
        *,
        epsilon: float = 8 / 255,
        lr: float = 0.01,
        steps: int = 1200,
        layers: Sequence[str] = (),
        width: int = 16,
        epochs: int = 10,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(
            epsilon=epsilon, width=width, epochs=epochs, num_classes=num_classes, seed=seed, quantize=quantize
        )
        self.lr = number("lr", lr, above=0)
        self.steps = whole("steps", steps, least=1)
        self.layers = tuple(layers)

    def optimise(
        self,
        bases: Float[Tensor, "p c h w"],
        target: Float[Tensor, "1 c h w"],
        setup: TargetedSetup,
        surrogates: Sequence[nn.Module],
        progress: Progress,
    ) -> tuple[Float[Tensor, "p c h w"], float]:
        ball = PGD(self.epsilon, self.lr, self.steps)
        with torch.no_grad():
            goals = [features_of(model, target, self.layers) for model in surrogates]

        def distance(x: Tensor) -> Tensor:
            parts = []
            for model, goal in zip(surrogates, goals, strict=True):
                for feature, wanted in zip(features_of(model, x, self.layers), goal, strict=True):
                    parts.append((feature.mean(0) - wanted[0]).norm() / wanted.norm().clamp_min(1e-12))
            return torch.stack(parts).mean()

        delta = torch.zeros_like(bases).requires_grad_(True)
        adam = torch.optim.Adam([delta], self.lr)
        progress.begin("perturbation", self.steps)
        for _ in range(self.steps):
            with torch.enable_grad():
                delta.grad = torch.autograd.grad(distance(bases + delta), delta)[0]
            adam.step()
            delta.data = ball.project(bases, delta.data)
            progress.step()
        with torch.no_grad():
            return delta.detach(), float(distance(bases + delta))

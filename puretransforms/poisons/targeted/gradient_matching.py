"""Gradient Matching, "Witches' Brew" (Geiping et al., ICLR 2021, arXiv 2009.02276).

``min_delta 1 - <g_t, g_p> / (||g_t|| ||g_p||)`` with ``g_t = grad_theta CE(f(x_t), y_base)``, what the attacker wants
the network to learn, and ``g_p = grad_theta mean_i CE(f(t(x_i + delta_i)), y_base)``, what poisoned images teach it.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ...functional.augment import random_shift_flip
from ...functional.checks import number, whole
from ...functional.shapes import Float, Tensor
from ...registry import register
from ..optimise import PGD, logits_of
from ..progress import Progress
from .base import TargetedPoison, TargetedSetup


@register("gradient_matching")
class GradientMatching(TargetedPoison):
    """Alter images so that learning them moves the network as learning the target under the wrong label would.

    Adam on the signs of the gradient, its rate dropped tenfold after 3/8, 5/8 and 7/8 of the steps; the restart of the
    lowest loss on plain views is kept. Needs second derivatives: a step costs some four ordinary ones. With several
    surrogates their losses are averaged.

    Args:
        epsilon: 16/255 in the paper, 8/255 in the poisoning benchmark of Schwarzschild et al. (ICML 2021).
        lr: Adam's rate in pixel units; the paper's 0.1 is in units of the data's standard deviation, about a quarter.
        steps, restarts: 250 and 8 in the paper.
        max_shift: of the random views, in pixels; ``None`` for an eighth of the side, as the authors; 0 for plain
            images.
        width, epochs, num_classes, seed, quantize: see :class:`~puretransforms.poisons.targeted.base.TargetedPoison`.
    """

    def __init__(
        self,
        *,
        epsilon: float = 16 / 255,
        lr: float = 0.025,
        steps: int = 250,
        restarts: int = 8,
        max_shift: float | None = None,
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
        self.restarts = whole("restarts", restarts, least=1)
        self.max_shift = None if max_shift is None else number("max_shift", max_shift, least=0, unit="pixels")

    def optimise(
        self,
        bases: Float[Tensor, "p c h w"],
        target: Float[Tensor, "1 c h w"],
        setup: TargetedSetup,
        surrogates: Sequence[nn.Module],
        progress: Progress,
    ) -> tuple[Float[Tensor, "p c h w"], float]:
        ball = PGD(self.epsilon, self.lr, self.steps)
        generator = torch.Generator().manual_seed(self.seed)
        wanted = torch.tensor([setup.base_class], device=bases.device)
        for model in surrogates:
            model.requires_grad_(True)  # the caller puts it back
        goals = [_unit(learning(model, target, wanted)) for model in surrogates]
        labels = wanted.expand(len(bases))

        def distance(x: Tensor, differentiable: bool) -> Tensor:
            losses = []
            for model, goal in zip(surrogates, goals, strict=True):
                taught = learning(model, x, labels, differentiable)
                cosine = sum((a * b).sum() for a, b in zip(_unit(taught), goal, strict=True))
                losses.append(1 - cast(Tensor, cosine))
            return torch.stack(losses).mean()

        best, lowest = torch.zeros_like(bases), torch.inf
        progress.begin("perturbation", self.restarts * self.steps)
        for _ in range(self.restarts):
            delta = ball.random_start(bases, generator).requires_grad_(True)
            adam = torch.optim.Adam([delta], self.lr)
            drops = torch.optim.lr_scheduler.MultiStepLR(adam, [self.steps * part // 8 for part in (3, 5, 7)])
            for _ in range(self.steps):
                x = bases + delta
                x = random_shift_flip(x, generator, self.max_shift) if self.max_shift != 0 else x
                delta.grad = torch.autograd.grad(distance(x, True), delta)[0].sign()
                adam.step()
                drops.step()
                delta.data = ball.project(bases, delta.data)
                progress.step()
            loss = float(distance(bases + delta.detach(), False))
            if loss < lowest:
                best, lowest = delta.detach(), loss
        return best, lowest


def learning(model: nn.Module, x: Tensor, labels: Tensor, differentiable: bool = False) -> list[Tensor]:
    """The gradient of the mean cross-entropy with respect to all parameters, one tensor each."""
    with torch.enable_grad():
        loss = cross_entropy(logits_of(model, x), labels)
        return list(torch.autograd.grad(loss, list(model.parameters()), create_graph=differentiable))


def _unit(gradient: Sequence[Tensor]) -> list[Tensor]:
    norm = torch.stack([part.square().sum() for part in gradient]).sum().sqrt()
    return [part / norm.clamp_min(1e-12) for part in gradient]

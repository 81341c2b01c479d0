"""The one loop under every optimised poison: projected gradient descent or ascent with sign steps.

    ``delta <- clip_eps(delta -+ step * sign(grad_delta mean_j L_j(x + delta)))``, then ``x + delta`` into ``[0, 1]``

(Madry et al., ICLR 2018, arXiv 1706.06083). What a poison is lies in the arguments: the losses ``L_j`` (one, a list of
checkpoints, or draws of an augmentation), the labels they aim at, the sign, the ball, and where ``delta`` starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..functional.shapes import Float, Int, Tensor
from .progress import Progress
from .surrogate import logits_of

Loss = Callable[[Tensor], Tensor]  # images [B, C, H, W] in [0, 1] -> one loss each [B]
View = Callable[[Tensor], Tensor]  # a differentiable augmentation


@dataclass(frozen=True)
class PGD:
    """A budget and a walk inside it.

    Args:
        epsilon: L-infinity bound in pixel units of ``[0, 1]``.
        step: length of a sign step, same units.
        steps: how many.
        ascend: raise the losses instead of lowering them.
        clip: keep ``x + delta`` in ``[0, 1]``; off where one ``delta`` serves many images.
    """

    epsilon: float
    step: float
    steps: int
    ascend: bool = False
    clip: bool = True

    def run(
        self,
        x: Float[Tensor, "b c h w"],
        losses: Sequence[Loss],
        start: Float[Tensor, "b c h w"] | None = None,
        progress: Progress | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The perturbation ``delta`` ``[B, C, H, W]`` of the images ``x``, from ``start`` (zero if not given).

        The gradients of ``losses`` are taken one by one and averaged, so that memory holds one graph at a time.
        ``progress`` is advanced once for each step.
        """
        delta = self.project(x, torch.zeros_like(x) if start is None else start)
        towards = self.step if self.ascend else -self.step
        for _ in range(self.steps):
            delta = self.project(x, delta + towards * gradient(x + delta, losses).sign())
            if progress is not None:
                progress.step()
        return delta

    def project(self, x: Float[Tensor, "b c h w"], delta: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """``delta`` brought into the ball, and with :attr:`clip` the image into ``[0, 1]``."""
        delta = delta.clamp(-self.epsilon, self.epsilon)
        return (x + delta).clamp(0, 1) - x if self.clip else delta

    def random_start(self, x: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """``clip_eps(N(0, 1) * epsilon)``: a third of the values start on the faces of the ball."""
        normal = torch.randn(x.shape, generator=generator).to(x)
        return self.project(x, normal * self.epsilon)

    def uniform_start(self, x: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """Uniform in the ball."""
        uniform = torch.rand(x.shape, generator=generator).to(x)
        return self.project(x, (uniform * 2 - 1) * self.epsilon)


def gradient(x: Float[Tensor, "b c h w"], losses: Sequence[Loss]) -> Float[Tensor, "b c h w"]:
    """Gradient of the mean of ``losses``, summed over images, at ``x``; each image's own, if no loss mixes images."""
    total = torch.zeros_like(x)
    with torch.enable_grad():
        for loss in losses:
            point = x.detach().requires_grad_(True)
            total += torch.autograd.grad(loss(point).sum(), point)[0]
    return total / len(losses)


def loss_towards(model: nn.Module, labels: Int[Tensor, " b"], view: View | None = None) -> Loss:
    """Cross-entropy ``CE(model(view(x)), labels)`` of each image."""

    def loss(x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        return cross_entropy(logits_of(model, x if view is None else view(x)), labels, reduction="none")

    return loss


def shifted(labels: Int[Tensor, " b"], shift: int, num_classes: int) -> Int[Tensor, " b"]:
    """The target map ``(y + shift) mod K``."""
    return (labels + shift) % num_classes

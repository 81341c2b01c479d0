"""SEP: self-ensemble protection (Chen et al., ICLR 2023, arXiv 2211.12005), adversarial examples of many checkpoints.

``min_{||delta|| <= epsilon} mean_j L_j(x + delta)`` over the states ``j`` of one training run, with
``L_j = CE(f_j(x), (y + shift) mod K)``, or for the feature-aligned variant (SEP-FA) ``L_j = ||phi_j(x) - m_j||^2`` with
``m_j`` the mean feature of the target class at that state.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ...functional.checks import flag, number, whole
from ...functional.shapes import Float, Labels, Pixels, Tensor
from ...registry import register
from ..optimise import PGD, Loss, features_of, frozen, loss_towards, shifted, trained_checkpoints
from ..progress import Progress
from ..stored import StoredPoison

_BATCH = 500


@register("sep")
class SEP(StoredPoison):
    """Make every image look like another class to all checkpoints of a training run at once, and keep its label.

    One training run visits networks that see different things: examples that fool all of them transfer better than
    those of :class:`~puretransforms.poisons.availability.tap.TAP`, which knows only the last. Sign steps along the mean
    gradient of the checkpoints, from zero, without views. The authors' variance-reduced walk (SEP-FA-VR) is no part of
    this.

    ``fit(..., surrogate=[...])`` takes the checkpoints as a list of networks; without it the library trains one run.
    Cost: ``steps`` times the number of checkpoints, in passes over the data.

    Args:
        epsilon, step: the ball and the length of a step, in pixel units; 2/255 or 8/255, and 1/255, in the paper.
        steps: of the optimisation.
        target_shift: aim at ``(y + target_shift) mod num_classes``.
        align_features: SEP-FA instead of SEP.
        checkpoints: how many the library keeps of its own run; in the paper 30, or 15 for SEP-FA, of 120 epochs.
        width, epochs: of the library's ResNet-18.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`; ``seed`` fixes the run.
    """

    takes_several = True

    def __init__(
        self,
        *,
        epsilon: float = 8 / 255,
        step: float = 1 / 255,
        steps: int = 30,
        target_shift: int = 5,
        align_features: bool = False,
        checkpoints: int = 10,
        width: int = 16,
        epochs: int = 10,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(epsilon=epsilon, num_classes=num_classes, seed=seed, quantize=quantize)
        self.step = number("step", step, above=0)
        self.steps = whole("steps", steps, least=1)
        self.target_shift = whole("target_shift", target_shift)
        self.align_features = flag("align_features", align_features)
        self.width = whole("width", width, least=1)
        self.epochs = whole("epochs", epochs, least=1)
        self.checkpoints = whole("checkpoints", checkpoints, least=1, most=self.epochs)  # one an epoch at most

    def craft(
        self, images: Pixels, labels: Labels, surrogate: Sequence[nn.Module] | None, progress: Progress
    ) -> Float[Tensor, "b c h w"]:
        if surrogate is None:
            run = {"num_classes": self.num_classes, "width": self.width, "epochs": self.epochs, "seed": self.seed}
            surrogate = trained_checkpoints(images, labels, self.checkpoints, **run, progress=progress)
        walk = PGD(self.epsilon, self.step, self.steps)
        aims = shifted(labels, self.target_shift, self.num_classes)
        found, parts = [], list(zip(images.split(_BATCH), aims.split(_BATCH), strict=True))
        progress.begin("perturbation", len(parts) * self.steps)
        with frozen(*surrogate):
            means = [class_means(model, images, labels, self.num_classes) for model in surrogate if self.align_features]
            for pixels, aim in parts:
                losses = [loss_towards(model, aim) for model in surrogate]
                if means:
                    losses = [_alignment(model, mean[aim]) for model, mean in zip(surrogate, means, strict=True)]
                found.append(walk.run(pixels.float() / 255, losses, progress=progress))
        return torch.cat(found)


def _alignment(model: nn.Module, goal: Float[Tensor, "b f"]) -> Loss:
    return lambda x: (features_of(model, x)[-1] - goal).square().mean(1)


@torch.no_grad()
def class_means(model: nn.Module, images: Pixels, labels: Labels, num_classes: int) -> Float[Tensor, "k f"]:
    """The mean of what the last linear layer is given, for each class; zero for a class without images."""
    features = torch.cat([features_of(model, part.float() / 255)[-1] for part in images.split(_BATCH)])
    total = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return total / labels.bincount(minlength=num_classes).clamp_min(1)[:, None]

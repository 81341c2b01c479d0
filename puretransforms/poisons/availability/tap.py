"""TAP and HYPO: adversarial examples of a trained network as training data.

TAP (Fowl et al., NeurIPS 2021, arXiv 2106.10807): ``min_{||delta|| <= epsilon} CE(f(t(x + delta)), (y + 1) mod K)``.
HYPO (Tao et al., NeurIPS 2021, arXiv 2102.04716) aims at the true label: images that are already right teach nothing.
"""

import torch
from torch import nn

from ...functional.augment import random_shift_flip
from ...functional.checks import flag, number, whole
from ...functional.shapes import Float, Labels, Pixels, Tensor
from ...registry import register
from ..optimise import PGD, View, frozen, loss_towards, shifted, trained_checkpoints
from ..progress import Progress
from ..stored import StoredPoison


@register("tap")
class TAP(StoredPoison):
    """Make every image look like the next class to a trained surrogate, and keep its label.

    The surrogate is trained on the clean data that ``fit`` gets, unless it is given one. Then every image takes
    ``steps`` sign steps through randomly shifted and mirrored views, from ``restarts`` random starts, and keeps the
    start of lowest loss on the plain view (the authors keep one start for the whole set, that of the lowest mean loss).

    Cost: ``restarts * steps`` passes over the data, forwards and backwards. The authors train a surrogate of width 64
    for 40 epochs.

    Args:
        epsilon, step: the ball, and the length of a step (a twentieth of it in the paper), in pixel units.
        steps, restarts: of the optimisation; 250 and 8 in the paper.
        target_shift: aim at ``(y + target_shift) mod num_classes``.
        targeted: ``False`` for the variant that raises the loss of the true label instead; the authors find it brittle.
        max_shift: of the views, in pixels; ``None`` for an eighth of the side, as the authors; 0 for the plain
            image.
        width, epochs: of the library's ResNet-18 surrogate.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`; ``seed`` fixes the surrogate, the
            starts and the views.
    """

    random_start = True

    def __init__(
        self,
        *,
        epsilon: float = 8 / 255,
        step: float = 0.4 / 255,
        steps: int = 250,
        restarts: int = 8,
        target_shift: int = 1,
        targeted: bool = True,
        max_shift: float | None = None,
        width: int = 16,
        epochs: int = 10,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(epsilon=epsilon, num_classes=num_classes, seed=seed, quantize=quantize)
        self.step = number("step", step, above=0)
        self.steps = whole("steps", steps, least=1)
        self.restarts = whole("restarts", restarts, least=1)
        self.target_shift = whole("target_shift", target_shift)
        self.targeted = flag("targeted", targeted)
        self.max_shift = None if max_shift is None else number("max_shift", max_shift, least=0, unit="pixels")
        self.width = whole("width", width, least=1)
        self.epochs = whole("epochs", epochs, least=1)

    def craft(
        self, images: Pixels, labels: Labels, surrogate: nn.Module | None, progress: Progress
    ) -> Float[Tensor, "b c h w"]:
        if surrogate is None:
            run = {"num_classes": self.num_classes, "width": self.width, "epochs": self.epochs, "seed": self.seed}
            (surrogate,) = trained_checkpoints(images, labels, **run, progress=progress)
        walk = PGD(self.epsilon, self.step, self.steps, ascend=not self.targeted)
        generator = torch.Generator().manual_seed(self.seed)
        aims = shifted(labels, self.target_shift, self.num_classes) if self.targeted else labels
        view = self._view(generator)
        found, parts = [], list(zip(images.split(500), aims.split(500), strict=True))
        progress.begin("perturbation", len(parts) * self.restarts * self.steps)
        with frozen(surrogate):
            for x, aim in parts:
                found.append(self._best(walk, x.float() / 255, surrogate, aim, view, generator, progress))
        return torch.cat(found)

    def _view(self, generator: torch.Generator) -> View | None:
        return (lambda x: random_shift_flip(x, generator, self.max_shift)) if self.max_shift != 0 else None

    def _best(
        self,
        walk: PGD,
        x: Tensor,
        model: nn.Module,
        aim: Tensor,
        view: View | None,
        generator: torch.Generator,
        progress: Progress,
    ) -> Float[Tensor, "b c h w"]:
        plain = loss_towards(model, aim)
        best, lowest = torch.zeros_like(x), x.new_full((len(x),), torch.inf)
        for _ in range(self.restarts):
            start = walk.random_start(x, generator) if self.random_start else None
            delta = walk.run(x, [loss_towards(model, aim, view)], start, progress)
            with torch.no_grad():
                loss = plain(x + delta) * (-1 if walk.ascend else 1)
            best = torch.where((loss < lowest)[:, None, None, None], delta, best)
            lowest = torch.minimum(loss, lowest)
        return best


@register("hypo")
class HYPO(TAP):
    """Make every image look even more like its own class to a trained surrogate: a weak poison under plain training.

    :class:`TAP` with the true label as its aim, from a zero start, without views. Args: those of :class:`TAP`.
    """

    random_start = False

    def __init__(
        self,
        *,
        epsilon: float = 8 / 255,
        step: float = 0.8 / 255,
        steps: int = 100,
        max_shift: float = 0.0,
        width: int = 16,
        epochs: int = 10,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(
            epsilon=epsilon,
            step=step,
            steps=steps,
            restarts=1,
            target_shift=0,
            max_shift=max_shift,
            width=width,
            epochs=epochs,
            num_classes=num_classes,
            seed=seed,
            quantize=quantize,
        )

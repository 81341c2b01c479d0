"""Narcissus (Zeng et al., CCS 2023, arXiv 2204.05255): a backdoor that says nothing but "target class", louder.

``min_{||delta|| <= epsilon} mean_i CE(f(x_i + delta), target)`` over images ``x_i`` of the target class: one ``delta``
for all of them, added to a few in training with their labels kept, and to any image, magnified, at test time.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ...errors import LabelError
from ...functional.augment import random_crop_flip
from ...functional.checks import number, whole
from ...functional.perturbation import settle
from ...functional.shapes import Float, Images, Labels, Pixels, Tensor
from ...registry import register
from ..base import open_images
from ..optimise import PGD, check_surrogate, endless_batches, frozen, logits_of, trained_checkpoints
from ..progress import Progress
from ..stored import StoredPoison
from .base import Backdoor


@register("narcissus")
class Narcissus(StoredPoison, Backdoor):
    """One small trigger of the target class, on images of that class, labels kept.

    The optimisation needs images of the target class only. The authors' surrogate knows other data (200 classes of Tiny
    ImageNet and the target class): train such a network, name its output for the target class as ``logit``, and give it
    to ``fit``; a copy of it first sees the target class alone for ``warmup`` epochs (RAdam, 0.1). Without a surrogate
    one is trained on the data that ``fit`` gets, which is more than that attacker knows.

    Images are cropped and mirrored as in training, and the trigger, which no crop moves, is added afterwards. While the
    trigger is sought the surrogate is in evaluation mode. The authors leave theirs in training mode, where batch
    normalisation takes its statistics from a batch that wears the trigger, and so hides part of it from the network; at
    test time the trigger meets stored statistics, and one that was sought against these is much the stronger.

    Cost: ``rounds`` passes over the images of the target class, forwards and backwards.

    Args:
        epsilon: L-infinity bound in training, in pixel units: 16/255, or 8/255 in later comparisons.
        magnify: how many times larger the trigger is at test time; with 1 the published success is not reached.
        lr, rounds, batch_size: of RAdam on the trigger, in pixel units (0.01 in images of ``[-1, 1]``).
        padding: zeros on each side of the image that a crop may reach into, in pixels; 0 for plain images.
        logit: the output of a given surrogate that means the target class; ``target`` if not given.
        warmup: epochs, for a given surrogate.
        width, epochs: of the library's ResNet-18 surrogate.
        target, num_classes, seed, quantize: see :class:`~puretransforms.poisons.backdoor.base.Backdoor`.
    """

    clean_label = True
    classwise = True
    default_rate = 0.01

    def __init__(
        self,
        *,
        epsilon: float = 16 / 255,
        magnify: float = 3.0,
        lr: float = 0.005,
        rounds: int = 1000,
        batch_size: int = 350,
        padding: int = 4,
        logit: int | None = None,
        warmup: int = 5,
        width: int = 16,
        epochs: int = 10,
        target: int = 0,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(epsilon=epsilon, target=target, num_classes=num_classes, seed=seed, quantize=quantize)
        self.magnify = number("magnify", magnify, least=1)
        self.lr = number("lr", lr, above=0)
        self.rounds = whole("rounds", rounds, least=1)
        self.batch_size = whole("batch_size", batch_size, least=1)
        self.padding = whole("padding", padding, least=0)
        self.logit = None if logit is None else whole("logit", logit, least=0)
        self.warmup = whole("warmup", warmup, least=0)
        self.width = whole("width", width, least=1)
        self.epochs = whole("epochs", epochs, least=1)

    def stamp(self, x: Images) -> Images:
        return x + self._levels(x)[self.target].to(x) * (self.magnify / 255)

    @torch.no_grad()
    def trigger(self, images: Any) -> Any:
        """Put the magnified trigger on test images; it leaves the ball of training images."""
        x, restore, _ = open_images(images)
        return restore(settle(self.stamp(x), x, self.quantize))

    def check_network(self, network: nn.Module, image: Float[Tensor, "1 c h w"]) -> None:
        if self.logit is None:
            return super().check_network(network, image)
        with torch.no_grad(), frozen(network):
            classes = network(image).shape[-1]
        return check_surrogate(network, image, max(classes, self.logit + 1))

    def craft(
        self, images: Pixels, labels: Labels, surrogate: nn.Module | None, progress: Progress
    ) -> Float[Tensor, "k c h w"]:
        chosen = images[labels == self.target]
        if not len(chosen):
            raise LabelError(f"expected images of the target class {self.target}, got none: fit it on its images.")
        generator = torch.Generator().manual_seed(self.seed)
        if surrogate is None:
            run = {"num_classes": self.num_classes, "width": self.width, "epochs": self.epochs, "seed": self.seed}
            (surrogate,), logit = trained_checkpoints(images, labels, **run, progress=progress), self.target
        else:
            logit = self.target if self.logit is None else self.logit
            surrogate = self._warmed(deepcopy(surrogate), chosen, logit, generator, progress)
        ball = PGD(self.epsilon, self.lr, self.rounds, clip=False)
        delta = torch.zeros_like(chosen[:1], dtype=torch.float32).requires_grad_(True)
        radam = torch.optim.RAdam([delta], self.lr)
        progress.begin("perturbation", self.rounds * -(-len(chosen) // self.batch_size))
        with frozen(surrogate), torch.enable_grad():
            for _ in range(self.rounds):
                for x, y in self._epoch(chosen, logit, generator):
                    loss = cross_entropy(logits_of(surrogate, (x + delta).clamp(0, 1)), y)
                    delta.grad = torch.autograd.grad(loss, delta)[0]
                    radam.step()
                    delta.data = ball.project(x[:1], delta.data)
                    progress.step()
        table = delta.new_zeros(self.num_classes, *chosen.shape[1:])
        table[self.target] = delta.detach()[0]
        return table

    def _warmed(
        self, model: nn.Module, chosen: Tensor, logit: int, generator: torch.Generator, progress: Progress
    ) -> nn.Module:
        """``model`` trained on the target class alone."""
        model.train().requires_grad_(True)
        radam = torch.optim.RAdam(model.parameters(), 0.1)
        progress.begin("surrogate", self.warmup * -(-len(chosen) // self.batch_size))
        with torch.enable_grad():
            for _ in range(self.warmup):
                for x, y in self._epoch(chosen, logit, generator):
                    radam.zero_grad(set_to_none=True)
                    cross_entropy(logits_of(model, x), y).backward()
                    radam.step()
                    progress.step()
        return model

    def _epoch(self, chosen: Tensor, logit: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """All images of the target class in shuffled batches, each ``x, y``, cropped and mirrored."""
        count = -(-len(chosen) // self.batch_size)
        batches = endless_batches(len(chosen), self.batch_size, generator)
        parts = [next(batches).to(chosen.device) for _ in range(count)]
        return [(self._view(chosen[rows], generator).float() / 255, torch.full_like(rows, logit)) for rows in parts]

    def _view(self, images: Pixels, generator: torch.Generator) -> Pixels:
        return random_crop_flip(images, generator, self.padding) if self.padding else images

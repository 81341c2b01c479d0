"""REM: robust error-minimising noise (Fu et al., ICLR 2022, arXiv 2203.14533), which outlives adversarial training.

``min_theta min_{||delta|| <= rho_u} E_t max_{||sigma|| <= rho_a} CE(f_theta(t(x + delta) + sigma), y)`` with random
views ``t``. The noise goes towards lower loss at the worst ``sigma`` of each view; the network learns from them.
"""

from itertools import islice

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ...errors import HardwareError
from ...functional.augment import random_crop_flip
from ...functional.checks import flag, number, whole
from ...functional.shapes import Float, Images, Labels, Pixels, Tensor
from ...registry import register
from ..optimise import PGD, Loss, View, endless_batches, frozen, logits_of, loss_towards, new_surrogate
from ..progress import Progress
from ..stored import StoredPoison


@register("rem")
class REM(StoredPoison):
    """An error-minimising noise image for each image, sought behind random views and adversarial steps.

    In every one of ``train_steps`` steps one batch gets new noise from a random start (``pgd_steps`` sign steps along
    the mean gradient of ``views`` views, each at its own worst point, found by ``inner_steps`` steps from a random
    start and held constant), and the network learns from a worst point of the noisy batch. At the end the noise of all
    images is made anew by the final network.

    Cost: ``train_steps * pgd_steps * views * (inner_steps + 1)`` passes over a batch, 2.75 million with these defaults,
    which are the authors': hours on a GPU (``REM().fit(dataset, device="cuda")``), months on a CPU, where :meth:`fit`
    raises HardwareError. A ``surrogate`` given to ``fit`` is trained further: pass an untrained one.

    A view is a crop of the zero-padded image by whole pixels, mirrored half of the time, as in training: it keeps the
    fine grain of the noise, which a sub-pixel shift would blur away.

    Args:
        epsilon, step, pgd_steps: ball, step and number of steps of the noise, in pixel units.
        inner_epsilon, inner_step, inner_steps: the same of ``sigma``.
        views: of each step of the noise.
        padding: zeros on each side of the image that a view may reach into, in pixels; 0 for plain images.
        train_steps: of the network: SGD, 0.1 divided by ten after two and four fifths, momentum 0.9, decay 5e-4.
        width: of the library's ResNet-18 (64 in the paper).
        batch_size: of everything.
        on_cpu: let it run on a CPU, for toys and tests.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`.
    """

    def __init__(
        self,
        *,
        epsilon: float = 8 / 255,
        step: float = 1.6 / 255,
        pgd_steps: int = 10,
        inner_epsilon: float = 4 / 255,
        inner_step: float = 0.8 / 255,
        inner_steps: int = 10,
        views: int = 5,
        padding: int = 4,
        train_steps: int = 5000,
        width: int = 64,
        batch_size: int = 128,
        on_cpu: bool = False,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(epsilon=epsilon, num_classes=num_classes, seed=seed, quantize=quantize)
        self.step = number("step", step, above=0)
        self.pgd_steps = whole("pgd_steps", pgd_steps, least=1)
        self.inner_epsilon = number("inner_epsilon", inner_epsilon, least=0)
        self.inner_step = number("inner_step", inner_step, least=0)
        self.inner_steps = whole("inner_steps", inner_steps, least=0)
        self.views = whole("views", views, least=1)
        self.padding = whole("padding", padding, least=0)
        self.train_steps = whole("train_steps", train_steps, least=1)
        self.width = whole("width", width, least=1)
        self.batch_size = whole("batch_size", batch_size, least=1)
        self.on_cpu = flag("on_cpu", on_cpu)

    def craft(
        self, images: Pixels, labels: Labels, surrogate: nn.Module | None, progress: Progress
    ) -> Float[Tensor, "b c h w"]:
        if not self.on_cpu and images.device.type == "cpu":
            passes = self.train_steps * self.pgd_steps * self.views * (self.inner_steps + 1)
            raise HardwareError(
                f"expected images on a GPU for REM, got them on a CPU, where its {passes:,} passes over a batch take "
                "months: call fit(dataset, device='cuda'), or PoisonedDataset(..., device='cuda'), on a machine "
                "that has one, or REM(on_cpu=True, ...) with a toy's settings; EMSamplewise is the poison of this "
                "kind for a CPU."
            )
        if surrogate is None:
            surrogate = new_surrogate(self.num_classes, self.width, self.seed, images.shape[1]).to(images.device)
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.SGD(surrogate.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        drops = torch.optim.lr_scheduler.MultiStepLR(optimizer, [self.train_steps * part // 5 for part in (2, 4)])
        parts = list(zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True))
        progress.begin("perturbation", (self.train_steps + len(parts)) * self.pgd_steps)
        with torch.enable_grad():
            for rows in islice(endless_batches(len(images), self.batch_size, generator), self.train_steps):
                x, y = images[rows].float() / 255, labels[rows]
                with frozen(surrogate):
                    view = self._view(generator)
                    worn = view(x + self._noise(surrogate, x, y, generator, progress))
                    worst = worn + worst_of(surrogate, y, worn, self._inner(), generator)
                surrogate.train()
                loss = cross_entropy(logits_of(surrogate, worst), y)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                drops.step()
        with frozen(surrogate):
            return torch.cat([self._noise(surrogate, x.float() / 255, y, generator, progress) for x, y in parts])

    def _noise(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, progress: Progress | None = None
    ) -> Float[Tensor, "b c h w"]:
        walk = PGD(self.epsilon, self.step, self.pgd_steps)
        losses = [robust_loss(model, y, self._view(generator), self._inner(), generator) for _ in range(self.views)]
        return walk.run(x, losses, walk.uniform_start(x, generator), progress)

    def _inner(self) -> PGD:
        return PGD(self.inner_epsilon, self.inner_step, self.inner_steps, ascend=True)

    def _view(self, generator: torch.Generator) -> View:
        return (lambda x: random_crop_flip(x, generator, self.padding)) if self.padding else (lambda x: x)


def worst_of(
    model: nn.Module, labels: Labels, x: Images, inner: PGD, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """The ``sigma`` that raises the loss most, sought from a uniform start; zero where ``inner`` takes no step."""
    start = inner.uniform_start(x, generator) if inner.steps else None
    return inner.run(x, [loss_towards(model, labels)], start)


def robust_loss(model: nn.Module, labels: Labels, view: View, inner: PGD, generator: torch.Generator) -> Loss:
    """Cross-entropy at the worst point of the view: ``sigma`` is sought anew at each call, and then held constant."""

    def loss(x: Images) -> Float[Tensor, " b"]:
        seen = view(x)
        sigma = worst_of(model, labels, seen.detach(), inner, generator)
        return cross_entropy(logits_of(model, seen + sigma), labels, reduction="none")

    return loss

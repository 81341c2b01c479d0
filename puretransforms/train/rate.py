"""Fit one rate-limited autoencoder, with or without class table (Yu et al., ICML 2024), as a generator of records."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..data.samples import check_labels
from ..errors import DivergenceError, LabelError
from ..functional.rate import Objective, rate_objective
from ..functional.shapes import Float, Int, Tensor
from ..models.dvae import DVAE, RateVAE
from .resumable import Augment, ResumableRun, State, cosine

_PATIENCE = 5  # epochs


@dataclass(frozen=True)
class FitSchedule:
    """How long and how a stage is fitted; the defaults are those of the authors for CIFAR-10.

    Attributes:
        epochs: of each stage. Batches are drawn without replacement, the incomplete last one is left out.
        rate_limits: nats for a cell of the latent map, of the first and of the second stage.
        batch_size, lr: of Adam; the rate falls by a cosine to 0, epoch by epoch.
        table_lr: of the class table.
        table_std: of the initial class table.
        magnitude_limit, magnitude_from: the mean square of the perturbation below which it is free, and the epoch,
            counted from 0, from which on more is penalised.
        max_norm: to which the gradient is clipped.
        plateau: end a stage once five epochs have lowered the distortion by less than this fraction; ``None`` never.
    """

    epochs: int = 60
    rate_limits: tuple[float, float] = (1.0, 3.0)
    batch_size: int = 128
    lr: float = 5e-3
    table_lr: float = 5e-3
    table_std: float = 1.0
    magnitude_limit: float = 0.002
    magnitude_from: int = 11
    max_norm: float = 5.0
    plateau: float | None = None


PUBLISHED = FitSchedule()
SHORT = FitSchedule(epochs=10, batch_size=64, table_lr=1.0, table_std=0.0, magnitude_from=0)
SCHEDULES = {"published": PUBLISHED, "short": SHORT}


@dataclass(frozen=True)
class FitRecord:
    """What one update did: the terms of :class:`~puretransforms.functional.rate.Objective` as numbers.

    ``rate`` is in nats for a cell of the latent map, before its limit. ``lr`` is that of the update. ``state()``, valid
    until the next record is asked for, is all that a resumed run needs, as a flat dict of tensors
    (``safetensors.torch.save_file`` takes it); tensors named ``net.*`` are the network of this stage.
    """

    step: int  # 1 .. updates of the stage
    epoch: int  # from 0
    loss: float
    reconstruction: float
    perturbed: float
    rate: float
    magnitude: float
    lr: float
    state: Callable[[], State] = field(repr=False, compare=False)
    stage: int = 0  # 0 or 1
    stages: int = 1
    updates: int = 0  # of the stage, unless it ends early
    images: int = 0  # in the batch


def fit_stage(
    net: RateVAE,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    rate_limit: float,
    schedule: FitSchedule = PUBLISHED,
    augment: Augment | None = None,
    precision: torch.dtype = torch.float32,
    compiled: bool = False,
    seed: int = 0,
    state: State | None = None,
) -> Iterator[FitRecord]:
    """Fit one network in place with :func:`~puretransforms.functional.rate.rate_objective`; one record per update.

    Args:
        net: a :class:`~puretransforms.models.dvae.DVAE`, or without ``labels`` a plain
            :class:`~puretransforms.models.dvae.RateVAE`; its initial weights are the caller's; it stays where it is
            and ends in training mode.
        images: uint8 ``[N, 3, H, W]``, moved to the device of the net whole.
        labels: integers ``[N]``.
        rate_limit: nats for a cell of the latent map; the ``rate_limits`` of the schedule are not looked at.
        schedule: see :class:`FitSchedule`.
        augment: ``(uint8 batch, CPU generator) -> uint8 batch``; the authors use none.
        precision: of the layers: ``torch.bfloat16`` by autocast, or ``torch.float32``. Weights and loss are float32.
        compiled: by ``torch.compile``, half as fast again on a CPU; it needs a C++ compiler.
        seed: fixes order and noise; the global generators are neither read nor changed. Latent noise is drawn on the
            device of the net, so a run is repeated exactly on the same kind of device only.
        state: of a record of a run with the same arguments, to go on after it: bit-equal to a run without a break (on
            a CPU with the same number of threads).

    Raises:
        NoImageError: ``images`` is not uint8 ``[N, 3, H, W]``.
        LabelError: ``labels`` do not fit the images or the net.
        DivergenceError: the loss or its gradient is NaN or infinite; the weights are as before that update.
    """
    run = _Run(net, images, labels, schedule, augment, seed, state)
    shape = net.latent_shape(*images.shape[-2:])

    def objective(x: Tensor, y: Tensor | None, noise: Tensor, late: bool) -> Objective:
        with torch.autocast(x.device.type, precision, enabled=precision != torch.float32):
            out = net(x, noise) if y is None else net(x, y, noise)
        limits: dict[str, Any] = {"rate_limit": rate_limit}
        limits["magnitude_limit"] = schedule.magnitude_limit if late else None
        return rate_objective(x, out.reconstruction, out.mu, out.log_var, out.perturbation, **limits)

    if compiled:
        objective = torch.compile(objective, dynamic=False)
    net.train()
    while not run.ended():
        epoch = run.step // run.batches
        x, y = run.batch()
        noise = run.latent_noise(len(x), shape, precision)
        with torch.enable_grad():
            terms = objective(x, y, noise, epoch >= schedule.magnitude_from)
        loss = run.minimise(terms.loss)
        _, reconstruction, perturbed, rate, magnitude = torch.stack([term.detach() for term in terms]).tolist()
        run.extra["distortion"][epoch] += (reconstruction + perturbed) / run.batches
        yield FitRecord(
            run.step,
            epoch,
            loss,
            reconstruction,
            perturbed,
            rate,
            magnitude,
            run.lr,
            run.state,
            updates=run.updates,
            images=len(x),
        )


class _Run(ResumableRun):
    """Adds epochs without replacement, labels, clipping, and a learning rate of its own for the class table."""

    def __init__(
        self,
        net: RateVAE,
        images: Tensor,
        labels: Tensor | None,
        schedule: FitSchedule,
        augment: Augment | None,
        seed: int,
        state: State | None,
    ) -> None:
        super().__init__(net, images, schedule.batch_size, augment, 1, schedule.lr, cosine, seed, None)
        if len(images) < schedule.batch_size:
            raise ValueError(
                f"expected at least one batch of {schedule.batch_size} images, got {len(images)}: lower batch_size."
            )
        self.schedule = schedule
        self.labels = None if labels is None else _check_labels(labels, len(images), net).to(self.device)
        self.batches = len(images) // schedule.batch_size
        self.updates = schedule.epochs * self.batches
        own = [p for name, p in net.named_parameters() if name.startswith("table.")]
        rest = [p for name, p in net.named_parameters() if not name.startswith("table.")]
        self.adam = torch.optim.Adam([{"params": rest}, {"params": own}] if own else rest)
        self.extra = {
            "order": torch.empty(len(images), dtype=torch.int64),
            "distortion": torch.zeros(max(schedule.epochs, 1), dtype=torch.float64),
        }
        if state is not None:
            self.resume(state)

    def ended(self) -> bool:
        """Are all updates done, or has the distortion reached its plateau?"""
        epochs, between = divmod(self.step, self.batches)
        if self.step >= self.updates or self.schedule.plateau is None or between or epochs <= _PATIENCE:
            return self.step >= self.updates
        done = self.extra["distortion"][:epochs]
        return float(done[-_PATIENCE:].min()) > (1 - self.schedule.plateau) * float(done[:-_PATIENCE].min())

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """Images in ``[0, 1]``, ``channels_last``, and their labels."""
        place = self.step % self.batches * self.schedule.batch_size
        if place == 0:
            self.extra["order"] = self.permutation(len(self.images))
        rows = self.extra["order"][place : place + self.schedule.batch_size]
        images = self.images[rows]
        images = images if self.augment is None else self.augment(images, self.generator)
        return to_unit(images), None if self.labels is None else self.labels[rows]

    def latent_noise(self, count: int, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(self.integer())
        channels, height, width = shape
        draw = torch.randn(count, height, width, channels, generator=generator, device=self.device, dtype=dtype)
        return draw.permute(0, 3, 1, 2)

    def minimise(self, loss: Tensor) -> float:
        """One Adam step along the clipped gradient; refuses to take one that is not finite."""
        value = float(loss.detach())
        progress = self.step // self.batches / self.schedule.epochs
        self.lr = self.schedule.lr * cosine(progress)
        for group, rate in zip(self.adam.param_groups, (self.schedule.lr, self.schedule.table_lr), strict=False):
            group["lr"] = rate * cosine(progress)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.schedule.max_norm)
        if not torch.isfinite(norm + loss.detach()):
            raise DivergenceError(
                f"expected a finite loss and gradient, got {value} and {float(norm)} at update {self.step + 1} "
                f"(lr={self.lr:.3g}): go on from an earlier state with a lower lr."
            )
        self.adam.step()
        self.step += 1
        return value


def to_unit(images: Tensor) -> Float[Tensor, "b c h w"]:
    """uint8 to float32 in ``[0, 1]``, ``channels_last``."""
    return images.float().div_(255).contiguous(memory_format=torch.channels_last)


def _check_labels(labels: Tensor, count: int, net: nn.Module) -> Int[Tensor, " n"]:
    if not isinstance(net, DVAE):
        raise LabelError("expected no labels for a RateVAE, which has no class table, got some: pass a DVAE.")
    fix = "build the net with num_classes for the data, or renumber the labels"
    return check_labels(labels, count, net.num_classes, fix)

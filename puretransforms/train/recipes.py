"""How a classifier's weights are updated: an optimizer and its learning-rate schedule, as one object of settings."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

from ..functional.shapes import Float, Tensor


@runtime_checkable
class Stepper(Protocol):
    """Updates the weights of one model, once for each batch."""

    def step(self) -> float:
        """Use the gradients that the parameters hold; returns the learning rate."""


@runtime_checkable
class Recipe(Protocol):
    """Settings of an optimizer and of its schedule.

    Attributes:
        reduction: ``"mean"`` or ``"sum"``, how the losses of a batch are put together before the gradient.
    """

    reduction: ClassVar[str]

    def build(self, model: nn.Module, epochs: int, steps_per_epoch: int, batch_size: int) -> Stepper:
        """An optimizer for the parameters of ``model``, at the beginning of its schedule."""


@dataclass(frozen=True)
class OneCycleSGD:
    """SGD with Nesterov momentum under the OneCycle schedule (Smith & Topin 2018).

    Args:
        max_lr: peak of the schedule, reached after 30 % of the steps.
        weight_decay: L2 penalty, coupled.
        momentum: of Nesterov.
    """

    max_lr: float = 0.2
    weight_decay: float = 5e-4
    momentum: float = 0.9
    reduction: ClassVar[str] = "mean"

    def build(self, model: nn.Module, epochs: int, steps_per_epoch: int, batch_size: int) -> Stepper:
        sgd = torch.optim.SGD(
            model.parameters(), self.max_lr, self.momentum, weight_decay=self.weight_decay, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            sgd, self.max_lr, total_steps=epochs * steps_per_epoch, cycle_momentum=False
        )
        return _Scheduled(sgd, schedule)


ONE_CYCLE = OneCycleSGD()


class _Scheduled:
    def __init__(self, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
        self.optimizer = optimizer
        self.schedule = schedule

    def step(self) -> float:
        self.optimizer.step()
        lr = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        return lr


@dataclass(frozen=True)
class MuonRecipe:
    """The recipe of airbench94_muon (Jordan, github.com/KellerJordan/cifar10-airbench): Muon for the filters, SGD else.

    Every rate falls linearly to 0 at the end of the training; that of the whitening bias (parameters whose names begin
    with ``whiten``) after ``whiten_epochs``, from where on it is frozen. The losses of a batch are summed, so the rates
    of the biases and of the head hold for batches of about 2,000 images.

    Args:
        filter_lr: of 4-d weights, by :class:`Muon`.
        bias_lr: of biases, by SGD.
        head_lr: of 2-d weights, by SGD.
        filter_momentum: of Muon, Nesterov.
        momentum: of SGD, Nesterov.
        weight_decay: for each image of a batch, over the learning rate; of SGD.
        whiten_epochs: passes over the data in which the whitening bias is trained.
    """

    filter_lr: float = 0.24
    bias_lr: float = 0.053
    head_lr: float = 0.67
    filter_momentum: float = 0.6
    momentum: float = 0.85
    weight_decay: float = 2e-6
    whiten_epochs: int = 3
    reduction: ClassVar[str] = "sum"

    def build(self, model: nn.Module, epochs: int, steps_per_epoch: int, batch_size: int) -> Stepper:
        whiten = [p for name, p in model.named_parameters() if name.startswith("whiten")]
        for parameter in whiten:
            parameter.requires_grad_(True)
        rest = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("whiten")]
        filters, heads, biases = ([p for p in rest if p.ndim == ndim] for ndim in (4, 2, 1))
        if len(filters) + len(heads) + len(biases) < len(rest):
            raise ValueError(
                f"expected parameters of 1, 2 or 4 dimensions, got one of {[p.ndim for p in rest]}: Muon is for "
                "networks of 2-d convolutions and linear layers; train others with OneCycleSGD."
            )
        total = epochs * steps_per_epoch
        groups = []
        for parameters, lr, steps in (
            (whiten, self.bias_lr, self.whiten_epochs * steps_per_epoch),
            (biases, self.bias_lr, total),
            (heads, self.head_lr, total),
        ):
            decay = self.weight_decay * batch_size / lr
            groups.append({"params": parameters, "lr": lr, "weight_decay": decay, "steps": steps})
        sgd = torch.optim.SGD([g for g in groups if g["params"]], momentum=self.momentum, nesterov=True)
        muon = Muon([{"params": filters, "steps": total}], self.filter_lr, self.filter_momentum)
        return _Linear(muon, sgd)


class _Linear:
    """Lets the rate of every group fall linearly to 0 in its number of ``steps``, and freezes it from there on."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.peaks = [group["lr"] for group in self.groups]
        self.taken = 0

    def step(self) -> float:
        for group, peak in zip(self.groups, self.peaks, strict=True):
            group["lr"] = peak * max(0.0, 1 - self.taken / group["steps"])
            if self.taken == group["steps"]:
                for parameter in group["params"]:
                    parameter.requires_grad_(False)
                    parameter.grad = None
        for optimizer in self.optimizers:
            optimizer.step()
        self.taken += 1
        return self.groups[0]["lr"]


class Muon(torch.optim.Optimizer):
    """Muon for filters ``[out, ...]``, with the norm of each filter tensor fixed at ``sqrt(out)`` (airbench94_muon).

    ``torch.optim.Muon`` takes matrices only, computes in bfloat16, which many CPUs emulate, and lets the norms grow.

    Args:
        params: weights of two or more dimensions, or groups of them.
        lr: of updates whose singular values are about 1.
        momentum: Nesterov.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in (p for p in group["params"] if p.grad is not None):
                velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
                velocity.mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(velocity, alpha=group["momentum"])
                weight.mul_(math.sqrt(len(weight)) / weight.norm())
                weight.sub_(orthogonalize(update.flatten(1)).view_as(weight), alpha=group["lr"])


def orthogonalize(matrix: Float[Tensor, "m n"], steps: int = 3) -> Float[Tensor, "m n"]:
    """A matrix of the same singular vectors with singular values near 1, by a quintic Newton-Schulz iteration.

    ``X <- a X + (b X X^T + c (X X^T)^2) X`` with Jordan's coefficients, which overshoot 1 to grow fast from 0
    (kellerjordan.github.io/posts/muon).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / matrix.norm().clamp(min=1e-7)
    wide = len(x) <= x.shape[1]
    x = x if wide else x.T
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.T

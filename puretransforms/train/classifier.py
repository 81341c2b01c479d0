"""Train and measure an image classifier on data held in memory."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..data.images import check_stored
from ..data.samples import check_labels
from ..errors import DivergenceError, LabelError
from ..functional.augment import random_crop_flip
from ..functional.devices import working_dtype
from ..functional.shapes import Float, Int, Tensor
from .recipes import ONE_CYCLE, Recipe

Augment = Callable[[Tensor, torch.Generator], Tensor]
Transform = Callable[[Tensor], Tensor]
Adapt = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
Precision = torch.dtype | Literal["auto"] | None


@dataclass(frozen=True)
class EpochRecord:
    """What one pass over the training data did.

    ``loss`` and ``accuracy`` (a fraction) are means over the augmented batches as the model saw them, ``lr`` is that of
    the last step, ``seconds`` the wall time of the pass.
    """

    epoch: int  # 1 .. epochs
    loss: float
    accuracy: float
    lr: float
    seconds: float


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    recipe: Recipe = ONE_CYCLE,
    label_smoothing: float = 0.0,
    augment: Augment | None = random_crop_flip,
    alternating_flip: bool = False,
    transform: Transform | None = None,
    adapt: Adapt | None = None,
    seed: int = 0,
    dtype: Precision = "auto",
    device: torch.device | str | None = None,
) -> Iterator[EpochRecord]:
    """Train ``model`` in place, one record per epoch; nothing happens until the first is asked for.

    Each batch is drawn from a fresh permutation, augmented as uint8, scaled to ``[0, 1]``, passed through
    ``transform``, and learned from. All samples are seen in every epoch; batches differ in size by one at most.

    Args:
        model: float ``[B, C, H, W]`` in ``[0, 1]`` to logits ``[B, K]``; its initial weights are the caller's.
        images: uint8 ``[N, C, H, W]``; moved to ``device`` whole.
        labels: integers ``[N]`` in ``0 .. K - 1``.
        epochs: passes over the data.
        batch_size: the largest batch.
        recipe: optimizer and learning-rate schedule (:mod:`puretransforms.train.recipes`).
        label_smoothing: of the cross-entropy.
        augment: ``(uint8 batch, CPU generator) -> batch`` in ``0 .. 255`` of any dtype; ``None`` for none.
        alternating_flip: before it, mirror left-right a random half of the images in the odd passes and the other half
            in the even ones, so that each image is seen both ways in any two (Jordan 2024); for an ``augment`` without
            a flip of its own.
        transform: applied after it to the float batch ``[B, C, H, W]`` in ``[0, 1]``, e.g. a purifier used online.
        adapt: ``(model, batch, labels) -> (batch, targets)``, last of all: adversarial training, mixing of samples.
            Targets are labels ``[B]``, or probabilities ``[B, K]``, whose largest then counts as the right answer.
        seed: fixes order, augmentation, and whatever ``transform``, ``adapt`` and ``model`` draw from torch's global
            generators, which are left as they were found. Reruns on a CPU with the same number of threads are
            bit-equal.
        dtype: of autocast; ``None`` for full precision; ``"auto"`` is bfloat16 where the hardware has it.
        device: where to train; ``None`` for where the model is.

    Raises:
        NoImageError: ``images`` is not uint8 ``[N, C, H, W]``.
        LabelError: ``labels`` do not fit ``images`` or the logits of the model.
        DivergenceError: the loss of an epoch is NaN or infinite.
    """
    device = _device_of(model, device)
    labels = _check_data(model.to(device=device, memory_format=torch.channels_last), images, labels)  # type: ignore[call-overload]
    images, labels = images.to(device), labels.to(device)
    batches = math.ceil(len(images) / batch_size)
    generator = torch.Generator().manual_seed(seed)
    optimizer = recipe.build(model, epochs, batches, batch_size)
    mirrored = torch.randint(2, (len(images),), generator=generator).to(device) if alternating_flip else None

    @torch.no_grad()
    def load(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch = images[rows]
        if mirrored is not None:
            batch = torch.where(((mirrored[rows] + epoch) % 2 == 1)[:, None, None, None], batch.flip(-1), batch)
        x = _to_float(batch if augment is None else augment(batch, generator))
        x = x if transform is None else transform(x)
        return x.contiguous(memory_format=torch.channels_last), labels[rows]

    def backward(x: Tensor, y: Tensor) -> Tensor:
        with _autocast(device, dtype):
            if adapt is not None:
                x, y = adapt(model, x, y)
            logits = model(x)
        loss = cross_entropy(logits.float(), y, label_smoothing=label_smoothing, reduction=recipe.reduction)
        model.zero_grad(set_to_none=True)
        loss.backward()
        hits = (logits.detach().argmax(1) == (y if y.ndim == 1 else y.argmax(1))).sum()
        return torch.stack([loss.detach().double() * (len(y) if recipe.reduction == "mean" else 1), hits.double()])

    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        model.train()
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        order = torch.randperm(len(images), generator=generator)
        with torch.enable_grad(), _global_seed(int(torch.randint(2**63 - 1, (), generator=generator)), device):
            for rows in order.to(device).tensor_split(batches):
                totals += backward(*load(rows))
                lr = optimizer.step()
        loss, accuracy = (totals / len(images)).tolist()
        if not math.isfinite(loss):
            raise DivergenceError(
                f"expected a finite training loss, got {loss} in epoch {epoch} of {recipe}: "
                "lower its learning rate, or pass dtype=None for full precision."
            )
        yield EpochRecord(epoch, loss, accuracy, float(lr), time.perf_counter() - start)


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 500,
    dtype: Precision = "auto",
    device: torch.device | str | None = None,
) -> Int[Tensor, " n"]:
    """Predicted classes ``[N]`` (int64, on the CPU) of uint8 images ``[N, C, H, W]``, in evaluation mode."""
    check_stored(images)
    device = _device_of(model, device)
    was_training = model.training
    model.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    classes = []
    with _autocast(device, dtype):
        for batch in images.split(batch_size):
            x = _to_float(batch.to(device)).contiguous(memory_format=torch.channels_last)
            classes.append(model(x).argmax(1).cpu())
    model.train(was_training)
    return torch.cat(classes)


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> float:
    """Accuracy, a fraction, on uint8 images ``[N, C, H, W]`` and labels ``[N]``; ``options`` as in :func:`predict`."""
    if labels.shape != images.shape[:1]:
        raise LabelError(f"expected one label for each of {len(images)} images, got shape {list(labels.shape)}.")
    return float((predict(model, images, **options) == labels.cpu()).double().mean())


def _to_float(batch: Tensor) -> Float[Tensor, "b c h w"]:
    return batch.to(torch.float32).div_(255)


def _device_of(model: nn.Module, device: torch.device | str | None) -> torch.device:
    return next(model.parameters()).device if device is None else torch.device(device)


@contextmanager
def _global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of ``device``, and put them back afterwards."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield


def _autocast(device: torch.device, dtype: Precision) -> torch.autocast:
    if dtype == "auto":
        dtype = working_dtype("auto", device)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype not in (None, torch.float32))


def _check_data(model: nn.Module, images: Tensor, labels: Tensor) -> Int[Tensor, " n"]:
    """Labels as int64, once they are known to fit the images and the logits."""
    check_stored(images)
    device = next(model.parameters()).device
    with torch.no_grad():
        classes = model.eval()(_to_float(images[:1].to(device))).shape[1]
    fix = "build the model with num_classes for the data, or renumber the labels"
    return check_labels(labels, len(images), classes, fix)

"""The network that a poison is optimised against: the caller's, or a small one trained here on the clean data."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import LabelError, NoImageError
from ..functional.shapes import Float, Int, Tensor, UInt8
from ..models.resnet import ResNet18
from ..train.classifier import _autocast, train_classifier


def new_surrogate(num_classes: int, width: int, seed: int, channels: int = 3) -> ResNet18:
    """An untrained ResNet-18 for raw pixels in ``[0, 1]``, initialised by ``seed`` alone."""
    if channels != 3:
        raise NoImageError(
            f"expected RGB images for the library's surrogate, got {channels} channel(s): convert them with "
            'image.convert("RGB"), or pass a surrogate= of your own for such images.'
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ResNet18(num_classes, width=width)


def trained_surrogate(
    images: UInt8[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    width: int,
    epochs: int,
    seed: int,
    batch_size: int = 128,
) -> ResNet18:
    """A ResNet-18 trained on clean data with crops and flips, as :mod:`puretransforms.train.classifier` does."""
    model = new_surrogate(num_classes, width, seed, images.shape[1]).to(images.device)
    for _ in train_classifier(model, images, labels, epochs=epochs, batch_size=batch_size, seed=seed):
        pass
    return model


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` in evaluation mode and without gradients of its own; put back as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def logits_of(model: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
    """float32 logits of float images in ``[0, 1]``; in bfloat16 where the hardware has it."""
    with _autocast(x.device, "auto"):
        logits = model(x.contiguous(memory_format=torch.channels_last))
    return logits.float()


@torch.no_grad()
def check_surrogate(model: nn.Module, image: Float[Tensor, "1 c h w"], num_classes: int) -> None:
    """Raise unless ``model`` maps such an image to ``num_classes`` logits."""
    with frozen(model):
        logits = model(image)
    if logits.shape != (1, num_classes):
        raise LabelError(
            f"expected a surrogate that maps images {list(image.shape)} to logits [1, {num_classes}], got "
            f"{list(logits.shape)}: pass num_classes=... to the poison, or a surrogate for these classes."
        )

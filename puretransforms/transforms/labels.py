"""Labels beside images: for purifiers that use them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from ..data.images import is_plain_image, is_typed_image, round_to_uint8, to_unit, unwrap
from ..errors import LabelError, NoImageError
from ..functional.shapes import Int, Tensor

LABEL_KEYS = ("label", "labels", "target", "targets")


def colour(x: Tensor) -> Tensor:
    """One channel as three; three stay."""
    if x.shape[1] not in (1, 3):
        raise NoImageError(
            f"expected 3 channels (or 1), got {x.shape[1]}: split alpha and other extra channels off first."
        )
    return x.expand(-1, 3, -1, -1)


def labels_of(sample: Any) -> Tensor | None:
    """The labels of a sample, flat; ``None`` where it holds nothing but images.

    Raises:
        LabelError: it holds more than images, but no labels where they are looked for.
    """
    if isinstance(sample, Mapping):
        key = next((key for key in LABEL_KEYS if key in sample), None)
        if key is not None:
            return integers(sample[key])
    elif isinstance(sample, tuple | list) and len(sample) == 2:
        bare = [part for part in sample if not any(map(_is_image, tree_flatten(part)[0]))]
        if len(bare) == 1:
            return integers(bare[0])
    if all(map(_is_image, tree_flatten(sample)[0])):
        return None
    raise LabelError(
        f"expected (images, labels), or labels under one of {', '.join(map(repr, LABEL_KEYS))}, got a "
        f"{type(sample).__name__} of something else: rename them, or pass the images alone to purify without labels."
    )


def _is_image(leaf: Any) -> bool:
    return is_typed_image(leaf) or is_plain_image(leaf)


def integers(labels: Any) -> Int[Tensor, " n"]:
    """Every leaf of ``labels`` in order, flat."""
    leaves = tree_flatten(labels)[0]
    try:
        tensors = [torch.as_tensor(leaf).reshape(-1) for leaf in leaves]
    except (TypeError, ValueError, RuntimeError):
        tensors = []
    if not tensors or any(t.is_floating_point() or t.is_complex() or t.dtype == torch.bool for t in tensors):
        raise LabelError(
            f"expected an integer label for each image, got {type(labels).__name__}: pass class indices, not one-hot "
            "rows or probabilities; without labels pass the images alone."
        )
    return torch.cat(tensors).to(torch.int64)


def check_labels(labels: Tensor, count: int, num_classes: int) -> Tensor:
    """``labels``, if there is one for each of ``count`` images and the fit knows each class."""
    if labels.numel() != count:
        raise LabelError(f"expected one label for each of {count} images, got {labels.numel()}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise LabelError(
            f"expected labels from 0 to {num_classes - 1}, got {low if low < 0 else high}: fit with the number of "
            "classes of the data."
        )
    return labels


def gather(dataset: Any) -> tuple[Tensor, Tensor]:
    """uint8 ``[N, 3, H, W]`` and int64 ``[N]``."""
    pair = isinstance(dataset, tuple | list) and len(dataset) == 2 and isinstance(dataset[0], Tensor)
    samples = [dataset] if pair else (dataset[i] for i in range(len(dataset)))
    pixels, labels = [], []
    for image, label in samples:
        x, _ = unwrap(image)
        pixels.append(colour(x if x.dtype == torch.uint8 else round_to_uint8(to_unit(x))))
        labels.append(integers(label))
    shapes = {tuple(x.shape[1:]) for x in pixels}
    if len(shapes) != 1:
        raise NoImageError(
            f"expected images of one size to fit to, got {len(shapes) or 'none'}: resize or crop them first."
        )
    images, flat = torch.cat(pixels).contiguous(), torch.cat(labels)
    return images, check_labels(flat, len(images), int(flat.max()) + 1)

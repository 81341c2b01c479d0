"""Poisoning a list of single images of any types and sizes, in as few batches as their shapes allow."""

from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..data.images import round_to_uint8
from ..functional.shapes import Int, Tensor
from .base import Poison, open_images


def poison_images(
    poison: Poison, images: Sequence[Any], labels: Int[Tensor, " n"], index: Int[Tensor, " n"]
) -> tuple[list[Any], list[tuple[Tensor, Tensor]]]:
    """Poison single images (PIL or ``[C, H, W]``), of true ``labels``, at ``index`` of their data set.

    Returns:
        The images, each of its own type, and the batches ``(clean, poisoned)`` that they went through.
    """
    out, batches = list(images), []
    colours = [colour_of(image) for image in images]
    groups: dict[Any, list[int]] = {}
    for place, colour in enumerate(colours):
        groups.setdefault((colour.shape, colour.dtype, colour.device), []).append(place)
    for places in groups.values():
        clean = torch.stack([colours[place] for place in places])
        poisoned, _ = poison(clean, labels[places], index[places])
        batches.append((clean, poisoned))
        for place, colour in zip(places, poisoned, strict=True):
            out[place] = with_colour(images[place], colour)
    return out, batches


def colour_of(image: Any) -> Tensor:
    """The colour channels ``[C, H, W]`` of an image: uint8 for PIL, as they are for a tensor."""
    if isinstance(image, tv_tensors.TVTensor):
        return image.as_subclass(Tensor)
    if isinstance(image, Tensor):
        return image
    if isinstance(image, PIL.Image.Image) and image.mode in ("RGB", "L"):
        return F.pil_to_tensor(image)
    return round_to_uint8(open_images(image)[0][0])


def with_colour(image: Any, colour: Tensor) -> Any:
    """An image of the type of ``image``, with its alpha channel if it has one, of the given colour channels."""
    if isinstance(image, tv_tensors.TVTensor):
        return tv_tensors.wrap(colour, like=image)
    if isinstance(image, Tensor):
        return colour
    out = to_pil(colour)
    if image.mode in ("RGBA", "LA"):
        out.putalpha(image.getchannel("A"))
    return out


def to_pil(colour: Tensor) -> PIL.Image.Image:
    """``[C, H, W]`` of one or three channels, uint8 or float in ``[0, 1]``, as a PIL image."""
    pixels = colour if colour.dtype == torch.uint8 else round_to_uint8(colour)
    return PIL.Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).cpu().numpy())

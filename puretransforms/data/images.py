"""What an image is: PIL, plain tensor or tv_tensor outside, a float batch ``[N, C, H, W]`` in ``[0, 1]`` inside.

Everything that transforms images goes through :func:`to_batch`, so types, dtypes, ranges and shapes are handled once.
"""

from collections.abc import Callable
from math import isnan
from typing import Any

import PIL.Image
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..errors import NoImageError, RangeError
from ..functional.shapes import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TOLERANCE = 1 / 255  # resizing filters overshoot a little: clamp that, refuse more
_CHANNELS = (1, 3, 4)
_COLOUR_OF_MODE = {"RGB": "RGB", "L": "L", "RGBA": "RGB", "LA": "L", "P": "RGB"}

Restore = Callable[[Tensor], Any]


def is_typed_image(value: Any) -> bool:
    """Does the type itself say that ``value`` is an image (PIL, ``tv_tensors.Image`` or ``Video``)?"""
    return isinstance(value, PIL.Image.Image | tv_tensors.Image | tv_tensors.Video)


def is_plain_image(value: Any) -> bool:
    """Is ``value`` a plain tensor that can be an image: ``[..., C, H, W]``, uint8 or floating? A label never is."""
    plain = isinstance(value, torch.Tensor) and not isinstance(value, tv_tensors.TVTensor)
    return plain and value.ndim >= 3 and (value.dtype == torch.uint8 or value.dtype.is_floating_point)


def round_to_uint8(x: Tensor) -> Tensor:
    """``[0, 1]`` floats to uint8 by rounding (``v2.ToDtype`` floors; rounding halves the error)."""
    return _to_bytes(x.mul(255).round_())


def truncate_to_uint8(x: Tensor) -> Tensor:
    """``[0, 1]`` floats to uint8 by dropping the fraction, as numpy's ``astype(uint8)`` does after ``* 255``."""
    return _to_bytes(x.mul(255))


def _to_bytes(levels: Tensor) -> Tensor:
    """Float levels to uint8, through int16: on a CPU four times as fast as the direct conversion."""
    return levels.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 or checked float pixels as float in ``[0, 1]`` (float64 stays, all else becomes float32).

    Raises:
        RangeError: float pixels outside ``[0, 1]`` by more than 1/255, or NaN.
    """
    if pixels.dtype == torch.uint8:
        return pixels.to(torch.float32).div_(255)
    overshoots = check_range(pixels)
    x = pixels if pixels.dtype == torch.float64 else pixels.to(torch.float32)
    return x.clamp(0, 1) if overshoots else x


def check_stored(images: Tensor, channels: int | None = None) -> None:
    """Raise :class:`NoImageError` unless ``images`` are uint8 ``[N, C, H, W]``, at least one, of so many channels."""
    wrong = images.ndim != 4 or images.dtype != torch.uint8 or len(images) == 0
    if wrong or channels not in (None, images.shape[1]):
        raise NoImageError(
            f"expected uint8 images [N, {channels or 'C'}, H, W], got {images.dtype} {list(images.shape)}: "
            "store them at 8 bits (images.mul(255).round().to(torch.uint8) for floats in [0, 1])."
        )


def to_batch(image: Any, quantize: Callable[[Tensor], Tensor] = round_to_uint8) -> tuple[Tensor, Restore]:
    """Split an image into its pixels as floats and the way back.

    Args:
        image: PIL (RGB, L, RGBA, LA, P), or tensor ``[..., C, H, W]``, uint8 or float in ``[0, 1]``.
        quantize: how floats become uint8 again where the input was uint8.

    Returns:
        ``(x, restore)``: ``x`` float ``[N, C, H, W]`` in ``[0, 1]`` (float64 stays, all else becomes float32; alpha is
        left out); ``restore(y)`` gives ``y`` the type, mode, alpha, dtype and leading shape of ``image``.

    Raises:
        NoImageError: a PIL mode or a tensor dtype that holds no 8-bit or ``[0, 1]`` image, an empty tensor, or one
            with its channels last.
        RangeError: float pixels outside ``[0, 1]``, or NaN.
    """
    pixels, rewrap = unwrap(image)
    integer = pixels.dtype == torch.uint8
    return to_unit(pixels), lambda y: rewrap(quantize(y) if integer else y.to(pixels.dtype))


def unwrap(image: Any) -> tuple[Tensor, Restore]:
    """The pixels ``[N, C, H, W]`` of an image in their own dtype, and how to wrap new ones the same way.

    Raises:
        NoImageError: as :func:`to_batch`.
    """
    return _unwrap_pil(image) if isinstance(image, PIL.Image.Image) else _unwrap_tensor(image)


def _unwrap_pil(image: PIL.Image.Image) -> tuple[Tensor, Restore]:
    if image.mode not in _COLOUR_OF_MODE:
        raise NoImageError(
            f"expected a PIL image of mode {', '.join(_COLOUR_OF_MODE)}, got mode {image.mode}: "
            'convert it first with image.convert("RGB").'
        )
    if "transparency" in image.info:
        raise NoImageError(
            f"expected transparency as an alpha channel, got a {image.mode} image with a transparent colour: "
            'convert it first with image.convert("RGBA").'
        )
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None

    def rewrap(pixels: Tensor) -> PIL.Image.Image:
        out = F.to_pil_image(pixels[0])
        if image.mode == "P":
            return out.quantize(256, dither=PIL.Image.Dither.NONE)
        if alpha is not None:
            out.putalpha(alpha)
        return out

    return F.pil_to_tensor(image.convert(_COLOUR_OF_MODE[image.mode]))[None], rewrap


def _unwrap_tensor(image: Tensor) -> tuple[Tensor, Restore]:
    shape = list(image.shape)
    if image.ndim < 3:
        raise NoImageError(f"expected an image tensor [..., C, H, W], got shape {shape}: add the missing dimensions.")
    if image.numel() == 0:
        raise NoImageError(f"expected at least one image with pixels, got an empty tensor of shape {shape}: skip it.")
    if image.dtype != torch.uint8 and image.dtype not in FLOATS:
        raise NoImageError(
            f"expected an image of dtype uint8 or float, got {image.dtype}: "
            "convert it with v2.ToDtype(torch.float32, scale=True)."
        )
    if shape[-1] == 3 and shape[-3] not in _CHANNELS:
        raise NoImageError(
            f"expected an image tensor [..., C, H, W], got shape {shape}, which ends with the channels: move them "
            "with x.movedim(-1, -3)."
        )
    wrapped = isinstance(image, tv_tensors.TVTensor)
    plain = image.as_subclass(Tensor) if wrapped else image

    def rewrap(pixels: Tensor) -> Tensor:
        pixels = pixels.reshape(*plain.shape[:-3], *pixels.shape[-3:])
        return tv_tensors.wrap(pixels, like=image) if wrapped else pixels

    return plain.reshape(-1, *plain.shape[-3:]), rewrap


def check_range(x: Tensor) -> bool:
    """Raise :class:`RangeError` unless float ``x`` lies in ``[0, 1]`` give or take 1/255; does it overshoot at all?"""
    if torch.compiler.is_compiling():
        return True
    low, high = (float(v) for v in x.detach().aminmax())
    if isnan(low) or isnan(high):
        raise RangeError(
            "expected pixels in [0, 1], got NaN: correct the step before, most likely a division by a standard "
            "deviation of 0 or a damaged file."
        )
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        advice = (
            "divide by 255 (v2.ToDtype(torch.float32, scale=True) on the uint8 image)"
            if low >= 0 and high <= 255
            else "put this transform before v2.Normalize, or un-normalise first with x * std + mean"
        )
        raise RangeError(f"expected pixels in [0, 1], got values from {low:.3g} to {high:.3g}: {advice}.")
    return low < 0 or high > 1

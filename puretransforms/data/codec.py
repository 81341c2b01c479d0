"""File bytes to 8-bit pixels and back: whatever Pillow can read comes out as ``L`` or ``RGB``, and returns as PNG."""

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from ..errors import CorruptImageError

# Named, so that a file is never handed to a plugin that runs other programs (EPS starts Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "AVIF")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_FOREIGN_SUFFIXES = (".heic", ".heif", ".jp2", ".j2k", ".jxl", ".ico", ".tga", ".psd", ".svg")
_KEPT = {"L": "L", "RGB": "RGB", "LA": "LA", "RGBA": "RGBA"}
_COLOUR = _KEPT | {"1": "L", "La": "LA", "P": "RGB", "PA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB"}
_COLOUR |= {"CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
_PROFILE_SPACE = {"L": b"GRAY", "RGB": b"RGB "}
_ORIENTATION = 0x0112
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Decoded:
    """The first frame of an image file, upright.

    Attributes:
        pixels: ``height * width * C`` bytes, rows from the top, channels last, without alpha.
        colour: ``"L"`` (C = 1) or ``"RGB"`` (C = 3).
        size: ``(width, height)``.
        mode: the mode of the file as Pillow names it.
        alpha: the alpha channel, kept aside, or ``None``.
        metadata: what :func:`encode` writes back: ``icc_profile`` (where it still fits the colour space) and ``exif``.
        frames: number of frames in the file.
        converted: ``"CMYK->RGB"`` where the pixels are not as they stand in the file, else ``None``.
    """

    pixels: bytes
    colour: str
    size: tuple[int, int]
    mode: str
    alpha: Image.Image | None
    metadata: dict[str, Any]
    frames: int
    converted: str | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(height, width, C)``."""
        return self.size[1], self.size[0], 3 if self.colour == "RGB" else 1


def decode(data: bytes) -> Decoded:
    """Decode an image file; the format is taken from the content, never from a name.

    Raises:
        CorruptImageError: not an image, damaged, cut short, or more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels (seen in
            the header, before memory is taken). The message is the bare reason, equal in every run.
    """
    try:
        return _decode(data)
    except (CorruptImageError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise CorruptImageError("empty file" if not data else "not an image that can be read") from None
    except Image.DecompressionBombError:
        raise CorruptImageError(_too_large()) from None
    except Exception as error:  # a decoder fed with damaged bytes may raise anything
        raise CorruptImageError(f"{type(error).__name__}: {_ADDRESS.sub('', str(error))}") from error


def encode(pixels: np.ndarray, like: Decoded) -> bytes:
    """A PNG file (zlib level 1) of contiguous uint8 ``pixels`` ``[H, W, C]``; alpha and metadata come from ``like``."""
    image = Image.frombuffer(like.colour, like.size, pixels, "raw", like.colour, 0, 1)
    if like.alpha is not None:
        image.putalpha(like.alpha)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1, **like.metadata)
    return out.getvalue()


def looks_like_image(name: str, head: bytes) -> bool:
    """Would a person call this file, which has no suffix of ours, an image? By its first bytes or by its suffix."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return webp or head.startswith(_MAGIC) or name.lower().endswith(_FOREIGN_SUFFIXES)


def _decode(data: bytes) -> Decoded:
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise CorruptImageError(_too_large())
    frames = getattr(image, "n_frames", 1) if getattr(image, "is_animated", False) else 1
    depth16 = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    mode, info = image.mode, image.info
    if _orientation(image) > 1:
        image = ImageOps.exif_transpose(image)
        info = image.info
    colour, note = _to_8_bit(image)
    if note is None and (depth16 or colour.mode != mode):
        note = f"{mode}{';16' if depth16 else ''}->{colour.mode}"
    alpha = None
    if colour.mode in ("LA", "RGBA"):
        alpha = colour.getchannel("A")
        colour = colour.convert(colour.mode[:-1])
    metadata = {key: value for key in ("icc_profile", "exif") if (value := info.get(key))}
    if metadata and metadata.get("icc_profile", b"")[16:20] != _PROFILE_SPACE[colour.mode]:
        metadata.pop("icc_profile", None)  # the profile of another colour space would be a lie
    return Decoded(colour.tobytes(), colour.mode, colour.size, mode, alpha, metadata, frames, note)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1


def _to_8_bit(image: Image.Image) -> tuple[Image.Image, str | None]:
    """``(image of mode L, LA, RGB or RGBA, how its values were scaled or None)``."""
    palette = image.palette.mode if image.mode == "P" and image.palette else None
    transparent = "transparency" in image.info or palette == "RGBA"
    if transparent and image.mode in ("1", "L", "P", "RGB"):
        return image.convert("LA" if image.mode in ("1", "L") else "RGBA"), None
    if image.mode in _KEPT:
        return image, None
    if image.mode in _COLOUR:
        return image.convert(_COLOUR[image.mode]), None
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB"), None  # type: ignore[return-value]
    if image.mode == "F" or image.mode.startswith("I"):
        return _scale(np.asarray(image), image.mode)
    raise CorruptImageError(f"pixels of mode {image.mode}, which has no 8-bit form")


def _scale(values: np.ndarray, mode: str) -> tuple[Image.Image, str]:
    """Grey values of 16 bits, or floats, to 0..255 with rounding.

    Integers count up to 65535. Floats carry no unit: the smallest of 1, 255 and 65535 that bounds them is taken.
    """
    low, high = float(values.min()), float(values.max())
    tops = (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,)
    top = next((top for top in tops if high <= top), None)
    if not low >= 0 or top is None:  # also refuses NaN
        raise CorruptImageError(f"grey values from {low:g} to {high:g}, expected 0 to {tops[-1]:g}")
    grey = np.rint(values.astype(np.float32) * (255 / top)).astype(np.uint8)
    return Image.fromarray(grey), f"{mode} 0..{top:g}->L"


def _too_large() -> str:
    return f"more than {Image.MAX_IMAGE_PIXELS} pixels (the limit is PIL.Image.MAX_IMAGE_PIXELS)"

"""The training-free baselines that every purifier is compared with, exactly as the published comparisons apply them.

Sources: JPEG and grey: Liu et al., "Image Shortcut Squeezing", ICML 2023; bit depth, blur and median: the same and
Qin et al., "APBench", TMLR 2024. All are applied to the stored training image, before crop and flip.
"""

from io import BytesIO
from typing import Any

import PIL.Image
import torch
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional as F

from ..data.images import round_to_uint8
from ..errors import NoImageError
from ..functional import checks
from ..functional.random import KeyedNoise
from ..functional.shapes import Images, Tensor
from ..registry import register
from .base import PureTransform

# fmt: off
_LUMA = (  # ITU-T T.81, Annex K, tables K.1 and K.2, row by row
    16, 11, 10, 16,  24,  40,  51,  61,
    12, 12, 14, 19,  26,  58,  60,  55,
    14, 13, 16, 24,  40,  57,  69,  56,
    14, 17, 22, 29,  51,  87,  80,  62,
    18, 22, 37, 56,  68, 109, 103,  77,
    24, 35, 55, 64,  81, 104, 113,  92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103,  99,
)
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    *(99,) * 32,
)
# fmt: on


def _scaled(table: tuple[int, ...], quality: int) -> list[int]:
    """A standard table at a quality from 1 to 100, by libjpeg's rule: as it is at 50, all ones at 100."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [min(max((step * percent + 50) // 100, 1), 255) for step in table]


@register("jpeg")
class JPEGCompress(PureTransform):
    """JPEG encode and decode by Pillow: 4:2:0 chroma, standard tables; a strong simple baseline on bounded poisons.

    Published comparisons use one quality for both tables. A finer luma table beside a coarse chroma table, such as 30
    and 10, keeps more of the image's detail.

    Args:
        quality: 1 to 100; published comparisons use 10 (and 75).
        chroma_quality: of the chroma table, 1 to 100; ``None`` is the same as ``quality``.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.
    """

    channels = None
    randomized = False
    graph_refusal = "runs Pillow's codec, which no graph can hold: call it before the compiled part"

    def __init__(
        self,
        quality: int = 10,
        chroma_quality: int | None = None,
        *,
        seed: int | None = None,
        device: str | None = None,
        images: str = "first",
        chunk_size: int | str = "auto",
        differentiable: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(
            seed=seed, device=device, images=images, chunk_size=chunk_size, differentiable=differentiable, p=p
        )
        self.quality = checks.whole("quality", quality, least=1, most=100)
        self.chroma_quality = (
            None if chroma_quality is None else checks.whole("chroma_quality", chroma_quality, least=1, most=100)
        )

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        if x.shape[1] not in (1, 3):
            raise NoImageError(f"expected 1 or 3 channels, got {x.shape[1]}: split the others off, JPEG has no place.")
        if self.chroma_quality is None:
            options: dict[str, Any] = {"quality": self.quality}
        else:
            tables = [_scaled(_LUMA, self.quality), _scaled(_CHROMA, self.chroma_quality)]
            options = {"qtables": tables, "subsampling": "4:2:0"}
        coded = [self._recode(image, options) for image in round_to_uint8(x).cpu()]
        return torch.stack(coded).to(x.device, x.dtype).div_(255)

    def _recode(self, image: Tensor, options: dict[str, Any]) -> Tensor:
        buffer = BytesIO()
        F.to_pil_image(image).save(buffer, "JPEG", **options)
        return F.pil_to_tensor(PIL.Image.open(buffer))


@register("grayscale")
class Grayscale(PureTransform):
    """ITU-R 601 luma repeated over the three channels (torchvision's own ``rgb_to_grayscale``).

    Args:
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.
    """

    randomized = False

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        return F.rgb_to_grayscale(x, num_output_channels=3)


@register("bitdepth")
class BitDepthReduce(PureTransform):
    """Keep the highest bits of each 8-bit value and set the others to 0 (the floor of each bin, not its centre).

    Args:
        bits: 1 to 8; published comparisons use 2.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.
    """

    channels = None
    randomized = False

    def __init__(
        self,
        bits: int = 2,
        *,
        seed: int | None = None,
        device: str | None = None,
        images: str = "first",
        chunk_size: int | str = "auto",
        differentiable: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(
            seed=seed, device=device, images=images, chunk_size=chunk_size, differentiable=differentiable, p=p
        )
        self.bits = checks.whole("bits", bits, least=1, most=8)

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        return F.posterize(round_to_uint8(x), self.bits).to(x.dtype).div_(255)


@register("gaussian")
class GaussianBlur(PureTransform):
    """Gaussian blur with reflected borders (torchvision's own).

    Args:
        kernel_size: odd side in pixels.
        sigma: standard deviation in pixels. 0.1, as some comparisons run it, is the exact identity on 8-bit images.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.
    """

    channels = None
    randomized = False

    def __init__(
        self,
        kernel_size: int = 3,
        sigma: float = 1.0,
        *,
        seed: int | None = None,
        device: str | None = None,
        images: str = "first",
        chunk_size: int | str = "auto",
        differentiable: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(
            seed=seed, device=device, images=images, chunk_size=chunk_size, differentiable=differentiable, p=p
        )
        self.kernel_size = checks.whole("kernel_size", kernel_size, least=1, odd=True)
        self.sigma = checks.number("sigma", sigma, above=0, unit="pixels")

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        return F.gaussian_blur(x, [self.kernel_size] * 2, [self.sigma] * 2)


@register("median")
class MedianBlur(PureTransform):
    """Median of each channel over a square window, edge pixels repeated (kornia's ``median_blur``; needs its extra).

    Args:
        kernel_size: odd side in pixels; published comparisons use 3.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.
    """

    channels = None
    randomized = False
    graph_refusal = "calls kornia, whose checks no graph can hold: call it before the compiled part"

    def __init__(
        self,
        kernel_size: int = 3,
        *,
        seed: int | None = None,
        device: str | None = None,
        images: str = "first",
        chunk_size: int | str = "auto",
        differentiable: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(
            seed=seed, device=device, images=images, chunk_size=chunk_size, differentiable=differentiable, p=p
        )
        self.kernel_size = checks.whole("kernel_size", kernel_size, least=1, odd=True)

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        try:
            from kornia.filters import median_blur
        except ImportError as error:
            raise ImportError(
                "MedianBlur needs kornia, which is not installed: pip install puretransforms[kornia]."
            ) from error
        margin = self.kernel_size // 2  # kornia pads with zeros, which would darken the frame
        padded = median_blur(pad(x, (margin,) * 4, mode="replicate"), self.kernel_size)
        return padded[..., margin : margin + x.shape[-2], margin : margin + x.shape[-1]]

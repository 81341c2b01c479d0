"""Class-wise convolution: CUDA (Sadasivan, Soltanolkotabi & Feizi, CVPR 2023, arXiv 2303.04278), and VUDA and HUDA.

For class ``y`` one kernel ``K_y``, the same for every channel, and no perturbation budget:
``x' = (x * K_y) / max(x * K_y)``, where the maximum runs over the pixels and channels of that image.
"""

import numpy as np
import torch
from torch.nn.functional import pad

from ...functional.checks import number, whole
from ...functional.random import KeyedNoise
from ...functional.shapes import Float, Images, Labels, Tensor
from ...registry import register
from ..base import Poison


@register("cuda")
class CUDA(Poison):
    """Convolution-based Unlearnable DAtaset: blur every image with the random filter of its class.

    Kernel entries are ``U(0, p_b)`` and one random tap is 1; cross-correlation with zero padding, so the outermost
    ``kernel_size // 2`` pixels darken. About 19 dB on CIFAR-10: visible, outside every norm ball. An all-black image
    stays black. With the default arguments the kernels are those of the published dataset, number for number.

    Args:
        kernel_size: odd side in pixels; 3 at 32 pixels, 9 at 224.
        p_b: upper end of the blur taps; 0.3 at 32 pixels, 0.06 at 224.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`; the authors truncate.
    """

    def __init__(
        self,
        *,
        kernel_size: int = 3,
        p_b: float = 0.3,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "trunc",
    ) -> None:
        super().__init__(num_classes=num_classes, seed=seed, quantize=quantize)
        self.kernel_size = whole("kernel_size", kernel_size, least=1, odd=True)
        self.p_b = number("p_b", p_b, least=0, most=1)

    def kernels(self, *image_shape: int) -> Float[Tensor, "k kh kw"]:
        """The kernels of all classes, ``[num_classes, kernel_size, kernel_size]`` float64, at every image size."""
        stream = np.random.RandomState(self.seed)
        k = self.kernel_size
        out = torch.empty(self.num_classes, k, k, dtype=torch.float64)
        for kernel in out:
            drawn = stream.uniform(0, self.p_b, (3, 1, k, k))  # two of three are discarded
            kernel.copy_(torch.from_numpy(drawn[0, 0]))
            row, column = stream.randint(k), stream.randint(k)
            kernel[row, column] = 1
        return out

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        z = correlate(x, self._table(self.kernels, x)[labels])
        brightest = z.flatten(1).amax(1)[:, None, None, None]
        return z / torch.where(brightest > 0, brightest, 1)


@register("vuda")
class VUDA(CUDA):
    """CUDA with a vertical line filter ``[kernel_size, 1]``: each class blurs along the columns in its own way.

    Named in Li et al. (AAAI 2025, arXiv 2311.18403), whose generator is not published: this definition is reconstructed
    from the description (taps ``U(0, p_b)``, one random tap 1, zero padding, division by the image maximum).
    Arguments as :class:`CUDA`.
    """

    def kernels(self, *image_shape: int) -> Float[Tensor, "k kh kw"]:
        """The kernels of all classes, ``[num_classes, kernel_size, 1]`` float64."""
        stream = np.random.RandomState(self.seed)
        out = torch.empty(self.num_classes, self.kernel_size, 1, dtype=torch.float64)
        for line in out[..., 0]:
            line.copy_(torch.from_numpy(stream.uniform(0, self.p_b, self.kernel_size)))
            line[stream.randint(self.kernel_size)] = 1
        return out


@register("huda")
class HUDA(VUDA):
    """CUDA with a horizontal line filter ``[1, kernel_size]``: each class blurs along the rows in its own way.

    Named in Li et al. (AAAI 2025, arXiv 2311.18403), whose generator is not published: this definition is reconstructed
    from the description (taps ``U(0, p_b)``, one random tap 1, zero padding, division by the image maximum).
    Arguments as :class:`CUDA`.
    """

    def kernels(self, *image_shape: int) -> Float[Tensor, "k kh kw"]:
        """The kernels of all classes, ``[num_classes, 1, kernel_size]`` float64."""
        return super().kernels().transpose(1, 2)


def correlate(x: Images, kernels: Float[Tensor, "b kh kw"]) -> Images:
    """Cross-correlate each image with its own odd-sided kernel, all channels alike, zero padding, same size.

    Taps are added in one fixed order with separate products and sums, so a pixel's value depends on its neighbourhood
    alone, to the last bit: a convolution library may choose another algorithm for another batch size, and truncation to
    8 bits turns the last bit into a level.
    """
    batch, channels, height, width = x.shape
    kh, kw = kernels.shape[1:]
    padded = pad(x, (kw // 2, kw // 2, kh // 2, kh // 2))
    stride = padded.shape[-1]
    flat = padded.reshape(batch, -1)  # a tap is a shift of the flattened image: long contiguous rows
    length = flat.shape[1] - (kh - 1) * stride - (kw - 1)
    total = torch.zeros_like(flat)
    product = torch.empty_like(flat[:, :length])
    for u in range(kh):
        for v in range(kw):
            first = u * stride + v
            torch.mul(flat[:, first : first + length], kernels[:, u, v, None], out=product)
            total[:, :length].add_(product)
    return total.view(batch, channels, height + kh - 1, stride)[..., :height, :width]

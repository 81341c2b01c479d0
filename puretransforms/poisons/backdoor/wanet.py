"""WaNet (Nguyen & Tran, ICLR 2021, arXiv 2102.10369): a smooth, hardly visible warp of the whole image.

A ``k x k`` grid of displacements ``U(-1, 1)`` is divided by its mean magnitude and upsampled bicubically to ``P``; the
image is sampled at ``clip(identity + s P / size)`` in coordinates of ``[-1, 1]``.
"""

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from ...functional.checks import number, whole
from ...functional.random import KeyedNoise
from ...functional.shapes import Float, Images, Labels, Tensor
from ...registry import register
from .base import Backdoor


@register("wanet")
class WaNet(Backdoor):
    """Warp and relabel; usual rate 0.1, with twice as many decoys.

    Decoys (the paper's noise mode) are warped by the same grid plus jitter ``U(-1, 1) / size``, drawn for each pixel of
    each image, and keep their label, so that the classifier must learn this very warp. A
    :class:`~puretransforms.poisons.dataset.PoisonedDataset` adds them among the samples that are not poisoned.

    Args:
        strength: ``s``.
        grid_size: ``k``.
        cover_ratio: decoys for each poisoned sample: 2 in the paper, 0.5 to 1 in static datasets, 0 for none.
        target, mode, num_classes, seed, quantize: see :class:`~puretransforms.poisons.backdoor.base.Backdoor`.
    """

    def __init__(
        self,
        *,
        strength: float = 0.5,
        grid_size: int = 4,
        cover_ratio: float = 2.0,
        target: int = 0,
        mode: str = "all-to-one",
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(target=target, mode=mode, num_classes=num_classes, seed=seed, quantize=quantize)
        self.strength = number("strength", strength, above=0)
        self.grid_size = whole("grid_size", grid_size, least=2)
        self.cover_ratio = number("cover_ratio", cover_ratio, least=0)

    @property
    def covers(self) -> "WaNet":
        """The poison of the decoys: this warp with jitter, labels kept."""
        return _Decoy(**self.arguments)

    def grid(self, channels: int, height: int, width: int) -> Float[Tensor, "h w 2"]:
        """Where every pixel is sampled, ``[H, W, 2]`` float64, ``(x, y)`` in ``[-1, 1]``."""
        stream = np.random.RandomState(self.seed)
        control = torch.from_numpy(stream.uniform(-1, 1, (1, 2, self.grid_size, self.grid_size)))
        control /= control.abs().mean()
        warp = interpolate(control, (height, width), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
        rows, columns = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (height, width))
        identity = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        return (identity + self.strength * warp / torch.tensor([width, height])).clamp(-1, 1)

    def stamp(self, x: Images) -> Images:
        return _warp(x, self._table(self.grid, x).expand(len(x), -1, -1, -1))


class _Decoy(WaNet):
    def relabel(self, labels: Labels) -> Labels:
        return labels

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        height, width = x.shape[-2:]
        jitter = noise.uniform(0, height, width, 2).to(x.dtype).mul_(2).sub_(1)
        size = torch.tensor([width, height], dtype=x.dtype, device=x.device)
        return _warp(x, (self._table(self.grid, x) + jitter / size).clamp(-1, 1))


def _warp(x: Images, grid: Float[Tensor, "b h w 2"]) -> Images:
    return grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)

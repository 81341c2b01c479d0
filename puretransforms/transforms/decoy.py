"""Fresh random patterns of the kinds that poisons use, for after a purifier."""

import math

import torch

from ..functional import checks
from ..functional.corruption import FIELDS, add_field
from ..functional.random import KeyedNoise
from ..functional.shapes import Images, Tensor
from ..registry import register
from .base import PureTransform

_LEVELS = 255


@register("decoy")
class DecoyNoise(PureTransform):
    """Add a faint random pattern to each image: what a purifier left of a poison is then one among many.

    A network finds a pattern that tells the class however faint it is, as long as nothing like it is on other images.
    So every image gets one at random, of a kind that poisons use too (mosaics, oriented textures, autoregressive
    fields, sinusoids, signs, white noise), with its own key and its own mix of luma and chroma. It belongs in the
    loader, after a purifier that was applied once, and draws anew at every access. It removes nothing by itself.

    Args:
        sigma: root mean square of the pattern over the RGB values, 0 to 255, in units of 1/255.
        families: kinds to draw from, names of :data:`~puretransforms.functional.corruption.FIELDS`; ``None``: all.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.

    Raises:
        ValueError: a kind that there is not.

    >>> import torch
    >>> DecoyNoise(sigma=6.0)(torch.full((4, 3, 32, 32), 0.5)).shape
    torch.Size([4, 3, 32, 32])
    """

    graph_refusal = (
        "draws another kind of pattern for each image, which no graph can hold: call it before the compiled part"
    )

    def __init__(
        self,
        sigma: float = 6.0,
        families: list[str] | tuple[str, ...] | None = None,
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
        self.sigma = checks.number("sigma", sigma, least=0, most=_LEVELS)
        if families is not None and not families:
            raise ValueError(f"expected families among {', '.join(FIELDS)}, got none: None takes all of them.")
        self.families = [checks.choice("families", name, FIELDS) for name in families or FIELDS]

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        kind, angle = noise.derived(1).uniform(0, 2).unbind(1)
        drawn = (kind * len(self.families)).long().clamp_max(len(self.families) - 1)
        angle = angle * (math.pi / 2)  # the three axes' mean square is sigma's: luma^2 + 2 * chroma^2 = 3 * sigma^2
        sigma = self.sigma / _LEVELS
        luma, chroma = sigma * 3**0.5 * angle.cos(), sigma * 1.5**0.5 * angle.sin()
        out = torch.empty_like(x)
        for index, name in enumerate(self.families):
            rows = (drawn == index).nonzero()[:, 0]
            if len(rows):
                field = FIELDS[name](noise[rows], *x.shape[2:]).to(x.dtype)
                out[rows] = add_field(x[rows], field, luma[rows].to(x.dtype), chroma[rows].to(x.dtype))
        return out

"""AR: autoregressive perturbations (Sandoval-Segura et al., NeurIPS 2022, arXiv 2206.03693).

For class ``y`` one 3 x 3 array of coefficients per channel, ``b`` with ``b[2, 2] = 0`` and the other eight of sum 1.
From a frame of Gaussian noise (two rows, two columns) every further value is, in raster order,
``s[i+2, j+2] = sum_uv b[u, v] s[i+u, j+v]``; the first four rows and columns are cut off and the field is scaled.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import conv2d

from ...errors import NoImageError
from ...functional.checks import number
from ...functional.perturbation import rescale
from ...functional.random import KeyedNoise
from ...functional.shapes import Float, Images, Labels, Tensor
from ...registry import register
from ..base import Poison

CROP = 4
LARGEST_RMS = 50 / 3072**0.5  # of a stable field before scaling: L2 of 50 at 32 pixels
SHIPPED = Path(__file__).with_name("ar_coefficients.json")
_TRIALS = 3


@register("ar")
class AR(Poison):
    """Add to every image a new field of its class's autoregressive process.

    Ten classes on images of up to 32 pixels use coefficients that come with the library; for more classes or larger
    images they are searched once per process, from ``seed`` (seconds; about a minute for 100 classes at 224 pixels).

    Args:
        epsilon: L2 norm of the perturbation: 1 at 32 pixels, 3 at 96. Not 8/255, which would make it nothing.
        coefficients: ``[num_classes][C][3][3]`` nested lists of your own, ``None`` for the above.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`; the authors round.

    Raises:
        NoImageError: images have another number of channels than the coefficients (3).
    """

    epsilon: float
    norm = "l2"
    _chunk = 900_000  # the recursion goes pixel by pixel: many images at a time, yet too few to split over threads

    def __init__(
        self,
        *,
        epsilon: float = 1.0,
        coefficients: list | None = None,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(num_classes=num_classes, seed=seed, quantize=quantize)
        if coefficients is not None and np.shape(coefficients)[::2] != (num_classes, 3):
            raise ValueError(
                f"expected coefficients of shape [{num_classes}, C, 3, 3], got {list(np.shape(coefficients))}: "
                "give one 3 x 3 array for each class and channel."
            )
        self.epsilon = number("epsilon", epsilon, above=0)
        self.coefficients = coefficients

    def class_coefficients(self, channels: int, height: int, width: int) -> Float[Tensor, "k c 3 3"]:
        """The coefficients of every class for images of this size, ``[num_classes, C, 3, 3]`` float64."""
        if self.coefficients is not None:
            own = torch.tensor(self.coefficients, dtype=torch.float64)
        else:
            shipped = torch.tensor(json.loads(SHIPPED.read_text()), dtype=torch.float64)
            fits = self.num_classes <= len(shipped) and max(height, width) <= 32
            own = shipped[: self.num_classes] if fits else search(self.num_classes, height, width, self.seed)
        if own.shape[1] != channels:
            raise NoImageError(
                f"expected images of {own.shape[1]} channels, as the coefficients have, got {channels}: "
                'convert them first, for example with image.convert("RGB").'
            )
        return own

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        _, channels, height, width = x.shape
        coefficients = self._table(self.class_coefficients, x)[labels]
        frame = noise.normal(0, channels, frame_size(height, width)).to(x.dtype)
        return x + rescale(generate(coefficients, frame, height, width), self.epsilon, "l2")


def frame_size(height: int, width: int) -> int:
    """Random values that start the field of one channel: two rows and two columns of the uncropped field."""
    return 2 * (width + CROP) + 2 * (height + CROP - 2)


def generate(
    coefficients: Float[Tensor, "b c 3 3"], frame: Float[Tensor, "b c n"], height: int, width: int
) -> Float[Tensor, "b c h w"]:
    """Run the recursion of every (sample, channel) at once; unscaled fields ``[B, C, height, width]``.

    ``frame`` holds ``n = frame_size(height, width)`` starting values: two rows, then the two columns below them.
    Products and sums are separate and in one order, so a field depends on its own row of the arguments alone, to the
    last bit.
    """
    batch, channels = coefficients.shape[:2]
    rows, columns = height + CROP, width + CROP
    b = coefficients.reshape(batch * channels, 3, 3).permute(1, 2, 0).contiguous()  # samples last: long inner loops
    start = frame.reshape(batch * channels, -1).t()
    s = start.new_empty(rows, columns, batch * channels)
    s[:2] = start[: 2 * columns].view(2, columns, -1)
    s[2:, :2] = start[2 * columns :].view(rows - 2, 2, -1)
    product, step = torch.empty_like(s[0, 2:]), torch.empty_like(s[0, 0])
    for i in range(2, rows):
        above = s[i, 2:]  # first what the two rows above give to the whole row, then the recursion along it
        torch.mul(s[i - 2, :-2], b[0, 0], out=above)
        for u, v in ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
            above.add_(torch.mul(s[i - 2 + u, v : columns - 2 + v], b[u, v], out=product))
        for j in range(2, columns):
            s[i, j].add_(torch.mul(s[i, j - 2], b[2, 0], out=step)).add_(torch.mul(s[i, j - 1], b[2, 1], out=step))
    return s[CROP:, CROP:].permute(2, 0, 1).reshape(batch, channels, height, width)


@lru_cache(maxsize=8)
def search(
    num_classes: int, height: int = 32, width: int = 32, seed: int = 0, min_response: float | None = None
) -> Float[Tensor, "k 3 3 3"]:
    """Find coefficients that are stable at this image size and tell the classes apart.

    Candidates are normal draws, normalised to sum 1. One is kept if three fields of it stay finite with a root mean
    square of at most 0.9, and if its unit-length field draws a total rectified response of at least ``min_response``
    from the matching filter (the coefficients with -1 at [2, 2]) of every class found before; its own filter answers 0.

    Args:
        num_classes: how many to find.
        height: of the images, in pixels.
        width: of the images, in pixels.
        seed: 0 to 2**32 - 1.
        min_response: ``None``: 10 for up to ten classes, 3 for more, as in the paper.

    Returns:
        ``[num_classes, 3, 3, 3]`` float64 (class, channel, rows, columns).
    """
    required = min_response if min_response is not None else (10.0 if num_classes <= 10 else 3.0)
    stream = np.random.RandomState(seed)
    kept = torch.empty(0, 3, 3, 3, dtype=torch.float64)
    while len(kept) < num_classes:
        for candidate, field in zip(*_stable(stream, height, width), strict=True):
            if len(kept) < num_classes and (responses(kept, field) >= required).all():
                kept = torch.cat((kept, candidate[None]))
    return kept


def responses(coefficients: Float[Tensor, "k c 3 3"], field: Float[Tensor, "c h w"]) -> Float[Tensor, " k"]:
    """Total rectified response of the matching filter of each class to a field; 0 for a field of its own."""
    matching = coefficients.clone()
    matching[..., 2, 2] = -1
    return conv2d(field[None], matching)[0].relu().sum((1, 2)) if len(matching) else field.new_empty(0)


def _stable(
    stream: np.random.RandomState, height: int, width: int
) -> tuple[Float[Tensor, "n 3 3 3"], Float[Tensor, "n 3 h w"]]:
    """Stable candidates, each with one unit-length field of its own.

    The energy of a field is the sum over its channels, so single channels that exceed the limit alone are dropped
    before three make a candidate: one channel in four survives, but only one candidate in eighty.
    """
    limit = LARGEST_RMS**2 * 3 * height * width
    count = max(96, (1 << 20) // (height * width))  # bounds the memory
    drawn = torch.from_numpy(stream.standard_normal((count, 1, 3, 3)))
    drawn[..., 2, 2] = 0
    drawn /= drawn.sum((2, 3), keepdim=True)
    energies = torch.empty(len(drawn), 0)
    for _ in range(_TRIALS):
        frame = torch.from_numpy(stream.standard_normal((len(drawn), 1, frame_size(height, width))))
        fields = generate(drawn, frame, height, width)
        energy = fields.square().sum((1, 2, 3))
        keep = energy <= limit  # false for inf and nan
        drawn, fields = drawn[keep], fields[keep]
        energies = torch.cat((energies[keep], energy[keep, None]), dim=1)
    n = len(drawn) // 3
    joint = (energies[: 3 * n].view(n, 3, _TRIALS).sum(1) <= limit).all(1)
    fields = fields[: 3 * n].view(n, 3, height, width)[joint]
    return drawn[: 3 * n].view(n, 3, 3, 3)[joint], rescale(fields, 1.0, "l2")

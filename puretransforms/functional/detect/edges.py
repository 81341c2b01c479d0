"""The edges of an image, which a convolution with zero padding darkens (Li et al., AAAI 2025, arXiv 2311.18403).

Known bypass: a convolution with any other padding leaves no such trace (reflected padding: AUC near chance).
"""

import torch

from ..shapes import Float, Tensor

EDGES = ("top", "bottom", "left", "right")
_DARK = 1 / 255


def ring_log_ratios(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 12"]:
    """``log`` of the mean of each edge over the mean of the line inside it.

    Columns are (top, bottom, left, right) of red, then of green, then of blue. Near 0 and symmetric about it on
    photographs, whatever they show, so it separates better than the published sums along the edges. Sides of at least 2
    pixels. A black edge (mean below 4/255: a frame, a drawing on black ground) says nothing and gets 0.
    """
    outer = torch.stack([x[:, :, 0].mean(-1), x[:, :, -1].mean(-1), x[..., 0].mean(-1), x[..., -1].mean(-1)], -1)
    inner = torch.stack([x[:, :, 1].mean(-1), x[:, :, -2].mean(-1), x[..., 1].mean(-1), x[..., -2].mean(-1)], -1)
    ratios = ((outer + _DARK) / (inner + _DARK)).log_()
    return ratios.masked_fill_(outer < 4 * _DARK, 0).flatten(1)


def darkened_excess(ratios: Float[Tensor, "n 12"], threshold: float = 0.1) -> Float[Tensor, " 4"]:
    """For each edge, the share of images that are darker there than just inside, less the share that are brighter.

    Channels are averaged; "darker" is a log-ratio below ``-threshold``. About 0 on photographs, and about the share of
    convolved images where a zero-padded convolution cuts into that edge.
    """
    edges = ratios.view(-1, 3, 4).mean(1)
    return (edges < -threshold).float().mean(0) - (edges > threshold).float().mean(0)

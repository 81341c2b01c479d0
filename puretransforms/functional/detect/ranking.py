"""Which images, and which classes, have the higher values.

Of an energy, say, which is high where an image looks unnatural (PureGen, arXiv 2405.18627, ranks images so before it
purifies the upper half).
"""

import torch

from ..shapes import Float, Int, Tensor


def ranks_within(values: Float[Tensor, " n"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The share of the images of its own class that an image outranks, 0 to 1 (ties count half; 0.5 if alone).

    Classes differ by what they show, so ranks are those within a class.

    Args:
        values: float ``[N]``, an energy say, of any unit.
        labels: int64 ``[N]``.
    """
    out = torch.empty_like(values)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        out[rows] = outranked(values[rows], values[rows])
    return out


def outranked(values: Float[Tensor, " n"], others: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """For each value the share of ``others`` below it, and half of those equal to it."""
    ordered = others.sort().values
    below = torch.searchsorted(ordered, values, side="left")
    reached = torch.searchsorted(ordered, values, side="right")
    return (below + reached).to(values.dtype) / (2 * len(others))


def higher_than_rest(values: Float[Tensor, " n"], chosen: Tensor) -> float:
    """The chance that a ``chosen`` image (bool ``[N]``) has a higher value than another one: the area under the ROC.

    NaN if all are chosen, or none.
    """
    return float(outranked(values[chosen], values[~chosen]).mean())

"""When does a random linear map undo a class-wise one? The two measures of COIN (Li et al., AAAI 2025, section 3).

For known operators: matrices ``A[k, i]`` that act on flattened images, classes ``k``, draws ``i``. Raising either
measure raises the accuracy that a classifier of clean data keeps.
"""

from ..shapes import Float, Tensor
from .agreement import unit_rows


def intra_class_inconsistency(operators: Float[Tensor, "k n d e"]) -> float:
    """``Theta_imi``: variance (over the draws, divided by ``n``) of each entry, averaged over entries and classes.

    0 where every image of a class is mapped alike, as by CUDA.
    """
    return float(operators.var(dim=1, correction=0).mean())


def inter_class_consistency(operators: Float[Tensor, "k n d e"], *, off_diagonal: bool = False) -> float:
    """``Theta_imc``: mean cosine between the mean operators of all pairs of classes; 1 if all classes share one mean.

    The published measure counts each class with itself too; ``off_diagonal`` leaves those ones out.
    """
    means = unit_rows(operators.mean(dim=1))
    cosines = means @ means.T
    k = len(cosines)
    if off_diagonal:
        return float((cosines.sum() - cosines.diagonal().sum()) / (k * (k - 1)))
    return float(cosines.mean())

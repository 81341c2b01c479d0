"""Do pictures that show different things carry the same residual?

Images of a class resemble each other, and so do their residuals; but among *unlike* pictures (those whose coarse forms
are anti-correlated) of photographs, drawings or digits the residuals do not agree. A pattern added to all of them
does. Pairs are compared as in spectral signatures (Tran, Li & Madry, NeurIPS 2018), which look at the same matrix.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d

from ..shapes import Float, Tensor

_FEW = 5  # unlike partners without which an image says nothing


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the residuals of a set of images agree.

    Attributes:
        mean: mean correlation of the residuals of unlike pairs, -1 to 1.
        error: its standard error (from the spread of ``each``).
        each: ``[N]``, the same for the pairs of one image; NaN for one without unlike partners.
        nearest: ``[N]``, its second highest correlation with an unlike image: two others with the same pattern.
        spread: deviation of the correlations of unlike pairs (robust: 1.4826 times the median absolute deviation).
    """

    mean: float
    error: float
    each: Float[Tensor, " n"]
    nearest: Float[Tensor, " n"]
    spread: float


def unit_rows(x: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
    """Rows of length 1 (a zero row stays zero)."""
    flat = x.flatten(1)
    return flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(1e-12)


def coarse_form(x: Float[Tensor, "n c h w"], side: int = 8) -> Float[Tensor, "n d"]:
    """What a picture shows from afar: ``side x side`` means, less their own mean, as rows of length 1."""
    small = adaptive_avg_pool2d(x, side).flatten(1)
    return unit_rows(small - small.mean(1, keepdim=True))


def agreement(residuals: Float[Tensor, "n d"], forms: Float[Tensor, "n k"]) -> Agreement:
    """Compare the residuals of all pairs whose forms have a negative product.

    Args:
        residuals: rows of length 1, less the mean over the data set.
        forms: rows of length 1, less the mean over the data set.
    """
    each, nearest, pairs = _compared(residuals, forms, residuals, forms)
    counted = each[~each.isnan()]
    spread = 1.4826 * float((pairs - pairs.median()).abs().median()) if len(pairs) else 0.0
    if len(counted) < 2:
        return Agreement(0.0, float("inf"), each, nearest, spread)
    return Agreement(float(counted.mean()), 2 * float(counted.std()) / len(counted) ** 0.5, each, nearest, spread)


def agreement_with(
    residuals: Float[Tensor, "n d"],
    forms: Float[Tensor, "n k"],
    others: Float[Tensor, "m d"],
    other_forms: Float[Tensor, "m k"],
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """``(each, nearest)`` of other images of the set, from their pairs with those that :func:`agreement` has compared.

    Args:
        residuals: rows of length 1, less the mean over the data set, of the images that were compared.
        forms: of the same images.
        others: residuals of images beyond them.
        other_forms: their forms.
    """
    return _compared(others, other_forms, residuals, forms)[:2]


def _compared(x: Tensor, forms: Tensor, partners: Tensor, partner_forms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``each`` and ``nearest`` of the rows ``x`` among ``partners``, and the products of all unlike pairs."""
    unlike = forms @ partner_forms.T < 0
    products = x @ partners.T
    number = unlike.sum(1)
    each = (products * unlike).sum(1) / number
    each[number < _FEW] = float("nan")
    nearest = products.masked_fill(~unlike, -1)
    nearest = nearest.topk(min(2, len(partners)), dim=1).values[:, -1] if nearest.numel() else number.float()
    return each, nearest, products[unlike]

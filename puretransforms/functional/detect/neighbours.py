"""Whose residuals are nearest to that of an image: those of its own class?

A poison on a part of the images is outvoted in every mean over a class, but the images that carry it are neighbours of
each other, as in spectral signatures (Tran, Li & Madry, NeurIPS 2018) and activation clustering (Chen et al., 2018,
arXiv 1811.03728). Here the features are those of residuals, in which what photographs have in common is evened out.
"""

from math import ceil, log

import torch

from ..shapes import Float, Int, Tensor
from .agreement import unit_rows

_FLOOR = 0.02  # of the mean variance, added to each before division: weak components are mostly rounding
_CUT = 3.0  # deviations
_RARE = 1e-5  # chance that all nearest are of the image's own class


def flat_spectrum(r: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Residuals of which every frequency and colour has the same power over the set.

    The cross-spectrum of the channels, averaged over the set, is divided out frequency by frequency (stationary
    whitening), so that faint noise counts at the frequencies where photographs leave nothing.
    """
    spectrum = torch.fft.rfft2(r - r.mean(0), norm="ortho").permute(2, 3, 0, 1)  # [H, W', N, C]
    power = spectrum.transpose(-1, -2) @ spectrum.conj() / len(r)  # [H, W', C, C]
    values, vectors = torch.linalg.eigh(power)
    root = (values.clamp_min(0) + _FLOOR * values.mean() + 1e-12).rsqrt()
    even = vectors * root[..., None, :] @ vectors.mH
    flat = spectrum @ even.transpose(-1, -2)
    return torch.fft.irfft2(flat.permute(2, 3, 0, 1), s=r.shape[-2:], norm="ortho")


def autocorrelations(r: Float[Tensor, "n c h w"], reach: int = 2) -> Float[Tensor, "n d"]:
    """Mean products of values up to ``reach`` pixels apart, of every two channels, over the mean square.

    What a residual is made of, wherever it lies: noise of an autoregressive process has the same for every draw.
    """
    _, c, h, w = r.shape
    spectrum = torch.fft.rfft2(r, s=(h + reach, w + reach))
    columns = []
    for a in range(c):
        for b in range(c):
            product = torch.fft.irfft2(spectrum[:, a] * spectrum[:, b].conj(), s=(h + reach, w + reach))
            for i in range(reach + 1):
                for j in range(-reach, reach + 1):
                    if i > 0 or j > 0 or (j == 0 and a <= b):  # the other half is the same, channels exchanged
                        columns.append(product[:, i, j].clone())  # a view would keep the whole product
    power = r.square().sum((1, 2, 3))
    return torch.stack(columns, 1) / power.clamp_min(1e-12)[:, None]


def decorrelated(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Features less their mean, of equal variance in every direction (ZCA), cut at three deviations."""
    x = features - features.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    x = x @ (vectors * (values.clamp_min(0) + _FLOOR * values.mean() + 1e-12).rsqrt()) @ vectors.T
    limit = _CUT * x.std(0)
    return x.clamp(-limit, limit)


def nearest_needed(members: int, total: int) -> int:
    """So many nearest that by chance alone all are of the same class as the image less than once in 100,000 images."""
    return ceil(log(_RARE) / log(max(members - 1, 1) / max(total - 1, 2)))


def own_among_nearest(
    features: Float[Tensor, "n d"], forms: Float[Tensor, "n k"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The share of each image's nearest (:func:`nearest_needed` of its class) that are of its own class.

    Only unlike pictures are its neighbours: those whose forms have a negative product.

    Args:
        features: any unit.
        forms: rows of length 1, less the mean over the dataset.
        labels: int64 ``[N]``, from 0.
    """
    n, counts = len(labels), labels.bincount().tolist()
    needed = torch.tensor([min(nearest_needed(count, n), n - 1) if count < n else n - 1 for count in counts])[labels]
    rows, most = unit_rows(features - features.mean(0)), int(needed.max())
    out = torch.empty(n)
    for part in torch.arange(n).split(512):
        products = (rows[part] @ rows.T).masked_fill_(forms[part] @ forms.T >= 0, -2)
        products[torch.arange(len(part)), part] = -2
        values, nearest = products.topk(most, dim=1)
        own = (labels[nearest] == labels[part, None]) & (values > -2)
        counted = torch.arange(most) < needed[part, None]
        out[part] = (own & counted).sum(1) / needed[part]
    return out

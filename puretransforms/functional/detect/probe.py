"""How fast and how far a simple classifier separates the classes.

Availability poisons are shortcuts, (almost) linearly separable (Yu et al., "Availability Attacks Create Shortcuts",
KDD 2022, arXiv 2111.00898).

The classifier is ridge regression on one-hot labels, whose leave-one-out predictions have a closed form; the features
are raw values, or responses to random patches of the data itself (Coates & Ng, ICML 2011).
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import conv2d, one_hot

from ..shapes import Bool, Float, Int, Tensor

_SHRINK = 0.1  # of the mean eigenvalue, added when patches are whitened


def left_out(
    features: Float[Tensor, "n d"], targets: Float[Tensor, "n k"], *, ridge: float = 0.01
) -> Float[Tensor, "n k"]:
    """What ridge regression on all other samples predicts for each sample.

    Sample ``i`` left out gets ``t_i - ((I - H) t)_i / (1 - H_ii)`` (Allen, 1974), so ``n`` regressions cost one:
    ``H = X (X'X + r I)^-1 X'`` of centred ``X`` and ``t``, with ``r = ridge`` times the sum of squares of ``X``.
    Solved in whichever of ``n`` and ``d`` is smaller.
    """
    n, d = features.shape
    x = features - features.mean(0)
    mean = targets.mean(0)
    t = targets - mean
    r = ridge * x.square().sum().clamp_min(1e-12)
    if d < n:
        x, t = x.double(), t.double()
        gram = x.T @ x
        gram.diagonal().add_(r)
        solved = torch.cholesky_solve(x.T, torch.linalg.cholesky(gram))  # [d, n]
        rest, kept = t - x @ (solved @ t), 1 - (x * solved.T).sum(1)
    else:
        gram = x @ x.T
        gram.diagonal().add_(r)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram)) * r  # I - H
        rest, kept = inverse @ t, inverse.diagonal()
    return (t - rest / kept[:, None].clamp_min(1e-9)).to(targets.dtype) + mean


@dataclass(frozen=True, slots=True)
class Probe:
    """How well the classes can be told.

    Attributes:
        curve: ``[(samples, leave-one-out accuracy)]`` for ``n / 8, n / 4, n / 2, n`` samples. How far: the last
            accuracy. How fast: how few samples come near it.
        hits: ``[N]``, the samples told rightly by all the others.
        shuffled: accuracy at ``n`` with labels permuted.
    """

    curve: list[tuple[int, float]]
    hits: Bool[Tensor, " n"]
    shuffled: float


def probe(features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Probe:
    """Tell the classes from ``features`` by ridge regression; samples must be in random order."""
    permuted = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    both = torch.stack([labels, permuted])  # [2, N]
    targets = one_hot(both).to(features.dtype)  # [2, N, K]
    curve = []
    for halvings in (3, 2, 1, 0):
        size = max(2, len(labels) >> halvings)
        predicted = left_out(features[:size], torch.cat([*targets[:, :size]], 1)).view(size, 2, -1)
        hits, shuffled = both[:, :size] == predicted.argmax(2).T
        curve.append((size, float(hits.float().mean())))
    return Probe(curve, hits, float(shuffled.float().mean()))


def random_patches(
    x: Float[Tensor, "b c h w"], size: int, number: int, generator: torch.Generator
) -> Float[Tensor, "p c s s"]:
    """``number`` patches of side ``size``, at random places of random images."""
    height, width = x.shape[-2:]
    draw = [torch.randint(n, (number,), generator=generator) for n in (len(x), height - size + 1, width - size + 1)]
    return torch.stack(
        [x[i, :, r : r + size, c : c + size] for i, r, c in zip(*(d.tolist() for d in draw), strict=True)]
    )


def patch_filters(
    x: Float[Tensor, "b c h w"], *, filters: int = 96, size: int = 5, seed: int = 0
) -> Float[Tensor, "f c s s"]:
    """Random patches of the data, whitened: each filter answers to its own patch and to no common direction."""
    generator = torch.Generator().manual_seed(seed)
    flat = random_patches(x, size, 4000, generator).flatten(1)
    flat = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
    scale = (values + _SHRINK * values.mean().clamp_min(1e-12)).rsqrt()
    whiten = (vectors * scale) @ vectors.T
    chosen = flat[torch.randperm(len(flat), generator=generator)[:filters]] @ whiten
    chosen /= torch.linalg.vector_norm(chosen, dim=1, keepdim=True).clamp_min(1e-12)
    return (chosen @ whiten).view(-1, x.shape[1], size, size)


def texture_features(
    x: Float[Tensor, "b c h w"], filters: Float[Tensor, "f c s s"], *, chunk: int = 8
) -> Float[Tensor, "b g"]:
    """How much of each local pattern an image holds, wherever it stands: ``mean relu(+-response - 1)``, standardised.

    Both signs of each filter, so ``g = 2 f`` columns of mean 0 and deviation 1 over the batch. ``chunk`` images at a
    time stay in a core's cache.
    """
    parts = []
    for part in x.split(chunk):
        response = conv2d(part, filters)
        parts.append(torch.cat([(response - 1).relu_().mean((2, 3)), (-1 - response).relu_().mean((2, 3))], 1))
    features = torch.cat(parts)
    return (features - features.mean(0)) / features.std(0).clamp_min(1e-6)

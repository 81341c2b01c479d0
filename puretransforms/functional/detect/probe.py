"""How fast and how far a simple classifier separates the classes: availability poisons are shortcuts, (almost) linearly
separable (Yu et al., "Availability Attacks Create Shortcuts", KDD 2022, arXiv 2111.00898).

The classifier is ridge regression on one-hot labels, whose leave-one-out predictions have a closed form; the features
are raw values, or responses to random patches of the data itself (Coates & Ng, ICML 2011).
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import conv2d, one_hot

from ..shapes import Bool, Float, Int, Tensor

_SHRINK = 0.1  # of the mean eigenvalue, added when patches are whitened


def kernel(features: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Inner products of all pairs of samples."""
    return features @ features.T


def hat_complement(gram: Float[Tensor, "n n"], *, ridge: float = 0.01) -> Float[Tensor, "n n"]:
    """``I - H`` of ridge regression: ``H = G (G + ridge n I)^-1``, ``G`` centred and of mean diagonal 1."""
    gram = gram - gram.mean(0)
    gram = gram - gram.mean(1, keepdim=True)
    gram /= gram.diagonal().mean().clamp_min(1e-12)
    n = len(gram)
    gram.diagonal().add_(ridge * n)
    return torch.linalg.inv(gram) * (ridge * n)


def left_out_predictions(complement: Float[Tensor, "n n"], labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The class that ridge regression on all other samples gives each sample.

    Sample ``i`` left out gets ``t_i - ((I - H) t)_i / (1 - H_ii)`` (Allen, 1974): ``n`` classifiers cost one inverse.
    """
    targets = one_hot(labels).to(complement.dtype)
    targets = targets - targets.mean(0)
    left_out = targets - (complement @ targets) / complement.diagonal()[:, None].clamp_min(1e-9)
    return left_out.argmax(1)


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
    gram = kernel(features)
    curve = []
    for halvings in (3, 2, 1, 0):
        size = max(2, len(labels) >> halvings)
        complement = hat_complement(gram[:size, :size])
        hits = left_out_predictions(complement, labels[:size]) == labels[:size]
        curve.append((size, float(hits.float().mean())))
    permuted = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    shuffled = left_out_predictions(complement, permuted) == permuted
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
    x: Float[Tensor, "b c h w"], filters: Float[Tensor, "f c s s"], *, chunk: int = 128
) -> Float[Tensor, "b g"]:
    """How much of each local pattern an image holds, wherever it stands: ``mean relu(+-response - 1)``, standardised.

    Both signs of each filter, so ``g = 2 f`` columns of mean 0 and deviation 1 over the batch.
    """
    parts = []
    for part in x.split(chunk):
        response = conv2d(part, filters)
        parts.append(torch.cat([(response - 1).relu_().mean((2, 3)), (-1 - response).relu_().mean((2, 3))], 1))
    features = torch.cat(parts)
    return (features - features.mean(0)) / features.std(0).clamp_min(1e-6)

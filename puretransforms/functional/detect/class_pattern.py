"""How large is the perturbation that the label predicts?

For those that a fitted D-VAE finds (Yu et al., ICML 2024, arXiv 2405.01460).
"""

import torch

from ..shapes import Float, Int, Tensor


def magnitudes(perturbations: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Root mean square of each of ``perturbations`` ``[N, C, H, W]``, in the units of the pixels."""
    return perturbations.square().mean((1, 2, 3)).sqrt()


def class_patterns(perturbations: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "k c h w"]:
    """What the perturbations of each class (0, 1, ... ``k - 1``, none of them empty) share, and all classes do not.

    Means of the classes less the mean of these means, so that what is subtracted from every image alike counts nothing.
    """
    total = torch.zeros(int(labels.max()) + 1, *perturbations.shape[1:], dtype=perturbations.dtype)
    total.index_add_(0, labels, perturbations)
    means = total / labels.bincount()[:, None, None, None]
    return means - means.mean(0)

"""Orthogonal projection: remove what a linear classifier can see (Sandoval-Segura et al., NeurIPS 2023, 2305.19254)."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ..errors import LabelError, NoImageError, NotFittedError
from ..functional.random import KeyedNoise
from ..functional.shapes import Float, Int, Tensor, UInt8
from .base import PureTransform


class OrthogonalProjection(PureTransform):
    """Project images onto the orthogonal complement of a linear classifier's weights: ``x - Q Q^T x``.

    :meth:`fit` trains a softmax regression without bias on the (poisoned) pixels; ``Q`` is an orthonormal basis of its
    normalised class weights. Linearly separable perturbations are most visible to it, so they go first, together with
    the most predictive linear direction of each class. Float results may leave ``[0, 1]``, as in the paper; 8-bit
    results are clamped. Test images are not projected.

    Args:
        epochs, batch_size, lr: of SGD with momentum 0.9; the rate falls tenfold after 1/2 and 3/4 of the epochs.
        num_classes: directions that are removed.
        **base: ``seed`` (of the regression), ``device``, ``images``, ``chunk_size``, ``differentiable`` of
            :class:`PureTransform`.

    >>> import torch
    >>> images, labels = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8), torch.arange(64) % 4
    >>> OrthogonalProjection(num_classes=4).fit(images, labels)(images / 255).shape
    torch.Size([64, 3, 8, 8])
    """

    def __init__(
        self, *, num_classes: int = 10, epochs: int = 20, batch_size: int = 1024, lr: float = 0.1, **base: Any
    ) -> None:
        super().__init__(**base)
        if min(num_classes, epochs, batch_size) < 1 or lr <= 0:
            raise ValueError(
                f"expected num_classes, epochs and batch_size of at least 1 and lr > 0, got {num_classes}, {epochs}, "
                f"{batch_size} and {lr}."
            )
        self.num_classes = num_classes
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.register_buffer("basis", torch.empty(0, num_classes))

    @torch.enable_grad()
    def fit(self, images: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> "OrthogonalProjection":
        """Learn the subspace from a whole training set, in memory.

        Raises:
            LabelError: labels outside ``0 .. num_classes - 1``.
        """
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise LabelError(
                f"expected labels from 0 to {self.num_classes - 1}, got {low if low < 0 else high}: "
                "pass OrthogonalProjection(num_classes=...) for the number of classes of the data set."
            )
        weights = torch.zeros(self.num_classes, images[0].numel(), device=images.device, requires_grad=True)
        optimizer = torch.optim.SGD([weights], self.lr, momentum=0.9)
        drops = torch.optim.lr_scheduler.MultiStepLR(optimizer, [self.epochs // 2, 3 * self.epochs // 4])
        generator = torch.Generator().manual_seed(self.seed or 0)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(images), generator=generator).to(images.device).split(self.batch_size):
                x = images[rows].flatten(1).float().div_(255)
                loss = cross_entropy(x @ weights.T, labels[rows].long())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            drops.step()
        directions = torch.nn.functional.normalize(weights.detach().double(), dim=1).T
        self.basis = torch.linalg.qr(directions).Q.float()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes a fitted basis of any image size."""
        stored = state_dict.get(f"{prefix}basis")
        if stored is not None and stored.ndim == 2 and stored.shape[1] == self.num_classes:
            self.basis = self.basis.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def purify(self, x: Float[Tensor, "b c h w"], noise: KeyedNoise) -> Float[Tensor, "b c h w"]:
        if not len(self.basis):
            raise NotFittedError(
                "expected a fitted OrthogonalProjection: call fit(images, labels) on the training set."
            )
        flat = x.flatten(1)
        if flat.shape[1] != len(self.basis):
            raise NoImageError(
                f"expected images of {len(self.basis)} values, as those fitted on, got {list(x.shape[1:])}: resize "
                "them, or fit again."
            )
        basis = self.basis.to(x.dtype)
        return (flat - (flat @ basis) @ basis.T).view_as(x)

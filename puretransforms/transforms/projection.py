"""Orthogonal projection: remove what a linear classifier can see (Sandoval-Segura et al., NeurIPS 2023, 2305.19254)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ..data.samples import check_labels, gather
from ..errors import NoImageError
from ..functional import checks
from ..functional.random import KeyedNoise
from ..functional.shapes import Images, Tensor
from ..registry import register
from ..train.checkpoint import FitStep
from .base import PureTransform


@register("projection")
class OrthogonalProjection(PureTransform):
    """Project images onto the orthogonal complement of a linear classifier's weights: ``x - Q Q^T x``.

    :meth:`fit` trains a softmax regression without bias on the (poisoned) pixels; ``Q`` is an orthonormal basis of its
    normalised class weights. Linearly separable perturbations are most visible to it, so they go first, together with
    the most predictive linear direction of each class. Float results may leave ``[0, 1]``, as in the paper; 8-bit
    results are clamped. Test images are not projected.

    Args:
        epochs, batch_size, lr: of SGD with momentum 0.9; the rate falls tenfold after 1/2 and 3/4 of the epochs.
        num_classes: directions that are removed; ``None`` for one more than the largest label of the fit.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.

    >>> import torch
    >>> images, labels = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8), torch.arange(64) % 4
    >>> OrthogonalProjection().fit((images, labels))(images / 255).shape
    torch.Size([64, 3, 8, 8])
    """

    randomized = False

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        epochs: int = 20,
        batch_size: int = 1024,
        lr: float = 0.1,
        seed: int | None = None,
        device: str | None = None,
        images: str = "first",
        chunk_size: int | str = "auto",
        differentiable: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(
            seed=seed, device=device, images=images, chunk_size=chunk_size, differentiable=differentiable, p=p
        )
        self.num_classes = None if num_classes is None else checks.whole("num_classes", num_classes, least=1)
        self.epochs = checks.whole("epochs", epochs, least=1)
        self.batch_size = checks.whole("batch_size", batch_size, least=1)
        self.lr = checks.number("lr", lr, above=0)
        self.register_buffer("basis", torch.empty(0, num_classes or 0))

    @property
    def fitted(self) -> bool:
        """Is there a subspace to remove?"""
        return len(self.basis) > 0

    @torch.enable_grad()
    def fit(
        self,
        dataset: Any,
        *,
        seed: int | None = None,
        device: str | None = None,
        checkpoint: str | Path | None = None,
        on_record: Callable[[FitStep], object] | None = None,
    ) -> "OrthogonalProjection":
        """Learn the subspace from a whole training set, in memory.

        Args:
            dataset: what :func:`puretransforms.data.samples.gather` takes, with labels.
            seed: of the order of the images; ``None`` for the purifier's own, or 0.
            device: where to fit; ``None`` for where the images are.
            checkpoint: not used: the fit takes seconds.
            on_record: called after every epoch.

        Raises:
            LabelError: labels outside ``0 .. num_classes - 1``.
            NoImageError: images of several sizes, or none.
        """
        samples = gather(dataset)
        images, labels = samples.images.to(device), samples.targets.to(device)
        classes = int(labels.max()) + 1 if self.num_classes is None else self.num_classes
        check_labels(labels, len(images), classes, "pass OrthogonalProjection(num_classes=...) for the dataset")
        weights = torch.zeros(classes, images[0].numel(), device=images.device, requires_grad=True)
        optimizer = torch.optim.SGD([weights], self.lr, momentum=0.9)
        drops = torch.optim.lr_scheduler.MultiStepLR(optimizer, [self.epochs // 2, 3 * self.epochs // 4])
        generator = torch.Generator().manual_seed(seed if seed is not None else self.seed or 0)
        for epoch in range(1, self.epochs + 1):
            for rows in torch.randperm(len(images), generator=generator).to(images.device).split(self.batch_size):
                x = images[rows].flatten(1).float().div_(255)
                loss = cross_entropy(x @ weights.T, labels[rows].long())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            drops.step()
            if on_record is not None:
                on_record(FitStep(epoch, self.epochs, images=len(images), loss=float(loss.detach())))
        directions = torch.nn.functional.normalize(weights.detach().double(), dim=1).T
        self.num_classes = classes
        self.basis = torch.linalg.qr(directions).Q.float()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes a fitted basis of any image size."""
        stored = state_dict.get(f"{prefix}basis")
        if (
            stored is not None
            and stored.ndim == 2
            and (self.num_classes is None or stored.shape[1] == self.num_classes)
        ):
            self.basis = self.basis.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        flat = x.flatten(1)
        if flat.shape[1] != len(self.basis):
            raise NoImageError(
                f"expected images of {len(self.basis)} values, as those fitted on, got {list(x.shape[1:])}: resize "
                "them, or fit again."
            )
        basis = self.basis.to(x.dtype)
        return (flat - (flat @ basis) @ basis.T).view_as(x)

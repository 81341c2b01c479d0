"""What backdoors share: the label the attacker wants, who gets the trigger, and how it is put on at test time."""

from typing import Any, ClassVar

import torch

from ...functional.checks import choice, whole
from ...functional.random import KeyedNoise
from ...functional.shapes import Bool, Images, Labels, Tensor
from ..base import Poison, open_images

MODES = ("all-to-one", "all-to-all")


class Backdoor(Poison):
    """Base of backdoors: a trigger on part of the training images; a subclass writes :meth:`stamp`.

    Dirty-label backdoors give triggered samples the label that the attacker wants. Clean-label ones
    (``clean_label = True``) keep labels and can only use images of the target class; others pass through unchanged.

    Args:
        target: the label the attacker wants, with ``mode="all-to-one"``.
        mode: ``"all-to-one"``, or ``"all-to-all"``: class ``y`` shall become ``(y + 1) mod num_classes``.
        num_classes, seed, quantize: see :class:`~puretransforms.poisons.base.Poison`.
    """

    clean_label: ClassVar[bool] = False
    default_rate: ClassVar[float | None] = 0.1

    def __init__(
        self,
        *,
        target: int = 0,
        mode: str = "all-to-one",
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(num_classes=num_classes, seed=seed, quantize=quantize)
        self.target = whole("target", target, least=0, most=self.num_classes - 1)
        self.mode = choice("mode", mode, MODES)

    def stamp(self, x: Images) -> Images:
        """Put the trigger on a float batch in ``[0, 1]``."""
        raise NotImplementedError(f"{type(self).__name__} must define stamp(x).")

    def perturb(self, x: Images, labels: Labels, noise: KeyedNoise) -> Tensor:
        return self.stamp(x)

    def wanted(self, labels: Labels) -> Labels:
        """What the attacker wants images of these true labels to be taken for once they carry the trigger."""
        return torch.full_like(labels, self.target) if self.mode == "all-to-one" else (labels + 1) % self.num_classes

    def relabel(self, labels: Labels) -> Labels:
        """The labels of poisoned training samples: the wanted ones, or the true ones of a clean-label backdoor."""
        return labels if self.clean_label else self.wanted(labels)

    def eligible(self, labels: Labels, noise: KeyedNoise | None = None) -> Bool[Tensor, " b"]:
        """All samples, or those of the target class for a clean-label backdoor."""
        return labels == self.target if self.clean_label else torch.ones_like(labels, dtype=torch.bool)

    @torch.no_grad()
    def trigger(self, images: Any) -> Any:
        """Put the trigger on test images: PIL, or tensors ``[..., C, H, W]``; same type out, no label needed."""
        x, restore, _ = open_images(images)
        return restore(self._settle(self.stamp(x), x))

"""BadNets (Gu, Dolan-Gavitt & Garg, 2017, arXiv 1708.06733): a small patch in the corner."""

import torch

from ...errors import NoImageError
from ...functional.checks import choice, whole
from ...functional.shapes import Float, Images, Tensor
from ...registry import register
from .base import Backdoor

PATTERNS = ("white", "checkerboard")


@register("badnets")
class BadNets(Backdoor):
    """Paste a square patch near the bottom right corner and relabel; usual rate 0.1 of the whole set.

    A random crop with padding, after poisoning, can cut the patch off: ``margin`` moves it inwards.

    Args:
        patch_size: side in pixels (norm ``"l0"``: ``patch_size ** 2`` pixels).
        pattern: ``"white"``, or ``"checkerboard"`` of white and (all but) black with white corners.
        margin: pixels between the patch and the image border.
        target, mode, num_classes, quantize: see :class:`~puretransforms.poisons.backdoor.base.Backdoor`.
    """

    norm = "l0"

    def __init__(
        self,
        *,
        patch_size: int = 3,
        pattern: str = "white",
        margin: int = 0,
        target: int = 0,
        mode: str = "all-to-one",
        num_classes: int = 10,
        quantize: str | None = "round",
    ) -> None:
        super().__init__(target=target, mode=mode, num_classes=num_classes, quantize=quantize)
        self.patch_size = whole("patch_size", patch_size, least=1)
        self.pattern = choice("pattern", pattern, PATTERNS)
        self.margin = whole("margin", margin, least=0)
        self.epsilon = float(self.patch_size**2)

    def patch(self) -> Float[Tensor, "p p"]:
        """The patch ``[patch_size, patch_size]``, the same for every channel."""
        if self.pattern == "white":
            return torch.ones(self.patch_size, self.patch_size)
        steps = torch.arange(self.patch_size)
        return torch.where((steps[:, None] + steps) % 2 == 0, 1.0, 1 / 255)

    def stamp(self, x: Images) -> Images:
        height, width = x.shape[-2:]
        needed = self.patch_size + self.margin
        if min(height, width) < needed:
            raise NoImageError(
                f"expected images of at least {needed} x {needed} pixels for this patch, got {height} x {width}: "
                "use a smaller patch_size or margin."
            )
        out = x.clone()
        bottom, right = height - self.margin, width - self.margin
        out[..., bottom - self.patch_size : bottom, right - self.patch_size : right] = self.patch().to(x)
        return out

"""Several poisons in one set, each on its own share of the images: what several sources of scraped data would give.

A purifier that is made for one of them leaves the others. BridgePure (NeurIPS 2025) mixes five, and reaches the victim
least with them; which five they are is not known here, so its figures are not those of this mix.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from ...functional.random import KeyedNoise
from ...functional.shapes import Int, Tensor
from ...registry import create, find, parameters, parse, register
from ..base import Poison
from ..progress import OnProgress

FIVE = ("lsp", "ops", "ar", "cuda", "classwise")
"""Of all kinds (a mosaic, a pixel, a texture, a convolution, noise), and none needs a network."""

_OWN = "own"
_CHOICE = 0x6D6978  # the stream in which an image draws its poison; the poisons draw in others


@register("mix")
class Mix(Poison):
    """Give every image one of several poisons, drawn by its ``index`` (without one by its pixels) with equal chances.

    An image looks as under that poison alone. Poisons that learn from the clean data learn from all of it.

    Args:
        poisons: registered names with their options, or ``module:Class``; no backdoors, no targeted poisons, no mix.
        num_classes, seed: see :class:`~puretransforms.poisons.base.Poison`; they are those of all the parts.
        quantize: likewise; ``"own"``: each part rounds to 8 bits as it does by itself.

    Raises:
        RegistryError: no such poison, or options that it does not take.
        ValueError: a poison that is not for all images, or that is told a seed of its own.
    """

    def __init__(
        self,
        *,
        poisons: Sequence[str] = FIVE,
        num_classes: int = 10,
        seed: int = 0,
        quantize: str | None = _OWN,
    ) -> None:
        super().__init__(num_classes=num_classes, seed=seed, quantize="round" if quantize == _OWN else quantize)
        self.quantize = quantize
        if isinstance(poisons, str) or not poisons:
            raise ValueError(f'expected poisons as a list of names, as in mix:poisons=["lsp","ops"], got {poisons!r}.')
        self.poisons = tuple(poisons)
        self.parts = [self._part(spec) for spec in self.poisons]
        self.needs_fit = any(part.needs_fit for part in self.parts)  # type: ignore[misc]

    def _part(self, spec: str) -> Poison:
        shared: dict[str, Any] = {"num_classes": self.num_classes, "seed": self.seed}
        if self.quantize != _OWN:
            shared["quantize"] = self.quantize
        name, options = parse(spec)
        kind = cast("type[Poison]", find(name, "poison"))
        if set(options) & set(shared):
            raise ValueError(
                f"expected parts of a mix without {', '.join(shared)}, got {spec!r}: give them to the mix."
            )
        if issubclass(kind, Mix) or kind.default_rate != 1.0:
            raise ValueError(f"expected poisons that can fall on any image, got {spec!r}: leave it out of the mix.")
        known = parameters(kind)
        return create(spec, "poison", **{key: value for key, value in shared.items() if key in known})

    def fit(
        self,
        dataset: Any,
        *,
        surrogate: nn.Module | Sequence[nn.Module] | None = None,
        index: Int[Tensor, " n"] | None = None,
        device: torch.device | str | None = None,
        on_progress: OnProgress | None = None,
    ) -> "Mix":
        """Fit every part that needs it on the whole clean dataset: see :meth:`puretransforms.poisons.base.Poison.fit`.

        No surrogate is taken: each part trains its own.
        """
        self._refuse_surrogate(surrogate)
        data = self._gather(dataset, device)
        for part in self.parts:
            if part.needs_fit:
                part.fit(data, index=index, device=device, on_progress=on_progress)
        return self

    @property
    def fitted(self) -> bool:
        """Are all parts ready?"""
        return all(part.fitted for part in self.parts)

    def choice(self, noise: KeyedNoise) -> Int[Tensor, " b"]:
        """The number of the poison that each sample gets."""
        return (noise.derived(_CHOICE).uniform(0, 1)[:, 0] * len(self.parts)).long()

    def _poison(self, x: Tensor, labels: Tensor, noise: KeyedNoise) -> tuple[Tensor, Tensor]:
        chosen, out = self.choice(noise), torch.empty_like(x)
        for number, part in enumerate(self.parts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                out[rows] = part._poison(x[rows], labels[rows], noise[rows])[0]
        return out, labels

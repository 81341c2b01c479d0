"""Purifiers one after another, as one purifier."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..functional.random import KeyedNoise
from ..functional.shapes import Images, Tensor
from ..registry import create, name_of, register
from .base import PureTransform


@register("chain")
class PurifierChain(PureTransform):
    """Apply several purifiers in order; each image draws anew in each of them.

    Args:
        steps: purifiers, or text that :func:`puretransforms.create` takes, such as ``["coin", "jpeg:quality=30"]``. Of
            a purifier that is given, only what it computes counts: seed, device and choice of images are the chain's.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.

    Raises:
        RegistryError: text that names no purifier.
        TypeError: a step that is no purifier of this library, or steps that are not in one list.

    >>> import torch
    >>> PurifierChain(["jpeg:quality=30", "grayscale"])(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 3, 32, 32])
    """

    channels = None
    _runs_unfitted = True  # its steps refuse, each by its own name

    def __init__(
        self,
        steps: list[str | PureTransform] | tuple[str | PureTransform, ...] = (),
        *,
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
        given = list(steps)
        for step in given:
            if not isinstance(step, str | PureTransform):
                raise TypeError(
                    f"expected purifiers of this library in a chain, got {type(step).__name__}: put other callables "
                    "into v2.Compose."
                )
        self.steps = [step if isinstance(step, str) else _spec(step) for step in given]
        self.purifiers = nn.ModuleList(create(step, "purifier") if isinstance(step, str) else step for step in given)
        self.randomized = any(one.randomized for one in self.purifiers)
        self.reads_labels = any(one.reads_labels for one in self.purifiers)
        refusals: Any = (one.graph_refusal for one in self.purifiers)
        self.graph_refusal = next(filter(None, refusals), None)

    @classmethod
    def _check_given(cls, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        super()._check_given(args, given)
        steps = args or (given.get("steps"),)
        if isinstance(steps[0], str | PureTransform):
            names = ", ".join(map(repr, steps))
            raise TypeError(
                f"expected the purifiers of a chain in one list, got {names}: write PurifierChain([{names}])."
            )

    @property
    def fitted(self) -> bool:
        """Are all steps ready?"""
        return all(one.fitted for one in self.purifiers)

    def fit(
        self,
        dataset: Any,
        *,
        seed: int | None = None,
        device: str | None = None,
        checkpoint: str | Path | None = None,
        on_record: Callable[[Any], object] | None = None,
    ) -> "PurifierChain":
        """Fit every step that is not fitted, each to ``dataset`` as it is; arguments as of their own ``fit``."""
        for number, one in enumerate(self.purifiers):
            if not one.fitted:
                file = None if checkpoint is None else Path(f"{checkpoint}.{number}")
                one.fit(dataset, seed=seed, device=device, checkpoint=file, on_record=on_record)  # type: ignore[operator]
        self.steps = [_spec(one) for one in self.purifiers]  # with what the fits have found, such as num_classes
        self.reads_labels = any(one.reads_labels for one in self.purifiers)
        return self

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        for number, one in enumerate(self.purifiers):
            x = one._purify_channels(x, noise.derived(number), labels if one.reads_labels else None)  # type: ignore[operator]
        return x


def _spec(purifier: Any) -> str:
    """Text that makes a purifier of the same arguments; its tensors are saved with the chain."""
    kind = type(purifier)
    given = {name: value for name, value in purifier._config().items() if value is not None}
    if "weights" in inspect.signature(kind).parameters:
        given = {"weights": None, **given}
    name = name_of(kind) or f"{kind.__module__}:{kind.__qualname__}"
    return ":".join([name, *(f"{key}={json.dumps(value)}" for key, value in given.items())])

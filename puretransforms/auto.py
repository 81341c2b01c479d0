"""``AutoPurify``: scan a dataset, then purify it as the verdict advises."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast
from warnings import warn

from torch import nn

from .errors import InsufficientScanWarning
from .functional import checks
from .functional.random import KeyedNoise
from .functional.shapes import Float, Tensor
from .registry import find, register
from .scanning.scan import ScanResult, examine, scan
from .transforms.base import PureTransform
from .transforms.coin import COINInterpolate


@register("auto")
class AutoPurify(PureTransform):
    """Scan the dataset and purify it as the verdict advises: ``AutoPurify().fit(dataset)``.

    The purifier of each verdict stands in :data:`puretransforms.scanning.verdict.PURIFIERS`: COIN for convolution-based
    poison, JPEG for bounded noise, nothing at all where the scan raised no alarm (a purifier costs accuracy) or could
    not look well enough (which is a warning). A purifier may leave a trigger in place: images that carry one are
    named in :attr:`dropped`, and the chain is chosen by a second look at the others. ``clean(source, out, "auto")``
    does all of it, and puts the dropped images into ``<out>.quarantine``. A fitted one may as well stand in a training
    pipeline, after crop and flip: where :attr:`online` is true that protects better than stored images, provided
    ``seed=None``, which draws anew at every access.

    Args:
        chain: ``[{"name": "coin", "alpha": 2.0}, ...]``, applied in this order, by registered names; ``[]`` leaves
            images as they are; ``None`` waits for :meth:`fit`.
        drop: ``"suspects"``: name the images that carry a trigger in :attr:`dropped`, and choose the chain for the
            others; ``"none"``: choose it for all.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.

    Attributes:
        result: what the scan found, after :meth:`fit`; not kept in copies.
        dropped: after :meth:`fit`, the images that carry a trigger (path, or index in a dataset) and the detectors that
            say so; not kept in copies.
        left: how many more a second look named, after these were out; they stay in.

    >>> import torch
    >>> AutoPurify([{"name": "jpeg", "quality": 10}])(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 3, 32, 32])
    """

    channels = None

    def __init__(
        self,
        chain: list[dict[str, Any]] | None = None,
        *,
        drop: str = "suspects",
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
        self.drop = checks.choice("drop", drop, ("suspects", "none"))
        self.result: ScanResult | None = None
        self.dropped: dict[str, list[str]] = {}
        self.left = 0
        self._set(chain)

    def _set(self, chain: list[dict[str, Any]] | None) -> None:
        steps = []
        for entry in chain or []:
            settings = {key: value for key, value in entry.items() if key != "name"}
            steps.append(find(str(entry.get("name")), "purifier")(**settings))
        self.chain = chain
        self.steps = nn.ModuleList(steps)
        self.randomized = any(step.randomized for step in steps)

    @property
    def scan_summary(self) -> dict[str, Any] | None:
        """The verdict of :attr:`result`, the chain and :attr:`dropped` as plain data, for a report."""
        if self.result is None:
            return None
        verdict = self.result.verdict
        return {
            "headline": verdict.headline,
            "sentence": verdict.sentence,
            "reasons": verdict.reasons,
            "misses": verdict.misses,
            "purifier": ", then ".join(map(repr, cast(Iterable[Any], self.steps))) or "none",
            "dropped": self.dropped,
            "left": self.left,
        }

    @property
    def online(self) -> bool:
        """Does the chain protect better when it is applied anew at every access? COIN does."""
        return any(isinstance(step, COINInterpolate) for step in self.steps)

    @property
    def fitted(self) -> bool:
        """Has a chain been chosen?"""
        return self.chain is not None

    def fit(
        self,
        dataset: Any,
        *,
        sample: int | None = 5000,
        workers: int | None = None,
        progress: bool = False,
        seed: int | None = None,
        device: str | None = None,
        checkpoint: str | Path | None = None,
        on_record: Callable[[Any], object] | None = None,
    ) -> "AutoPurify":
        """Scan ``dataset`` and choose the chain; what was found is in :attr:`result`.

        Where images carry a trigger and ``drop`` is ``"suspects"``, all images are looked at, not a draw: the carriers
        are in :attr:`dropped`, and the chain is what the detectors say of the others (none against further triggers).
        Energies, which change no advice, are left out. Where the scan is insufficient the chain is empty, with an
        :class:`~puretransforms.errors.InsufficientScanWarning`.

        Args:
            dataset: what :func:`puretransforms.scanning.scan.scan` takes.
            sample, workers, progress: of the scan; a stream that can be read only once is looked at whole.
            seed: of the draw; ``None`` for 0.
            device, checkpoint, on_record: not used.
        """
        if isinstance(dataset, Iterator):
            sample = None
        look = partial(scan, dataset, seed=seed or 0, workers=workers, progress=progress, ebm=None)
        self.result, self.dropped, self.left = look(sample=sample), {}, 0
        chain = self.result.verdict.advice.chain
        if self.drop == "suspects" and self.result.carriers:
            if self.result.partial:
                self.result = look(sample=None)
            names, carriers = self.result.sample.names, self.result.carriers
            self.dropped = {names[i]: found for i, found in carriers.items()}
            rest = examine(self.result.sample.without(carriers)) if carriers else self.result
            self.left = len(rest.carriers) if carriers else 0
            chain = [] if rest.carriers else rest.verdict.advice.chain  # never a purifier against a trigger on a few
            if self.left or rest.insufficient:
                warn(
                    f"Without the {len(carriers)} image(s) that carry a trigger the scan says: {rest.verdict.headline}"
                    f", and names {self.left} more. These stay in: look at them (scan the result), or drop them.",
                    InsufficientScanWarning,
                    stacklevel=2,
                )
        self._set(chain)
        if self.result.insufficient:
            verdict = self.result.verdict
            reasons = "".join(f"; {reason}" for reason in verdict.reasons)
            warn(
                f"The scan is {verdict.headline}{reasons}. No purifier was chosen and images stay as they are: name "
                "one yourself, or scan data that can be judged.",
                InsufficientScanWarning,
                stacklevel=2,
            )
        return self

    def purify(
        self, x: Float[Tensor, "b c h w"], noise: KeyedNoise, labels: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        for number, step in enumerate(cast(Iterable[PureTransform], self.steps)):
            x = step._purify_channels(x, noise.derived(number))
        return x

    def __repr__(self) -> str:
        return f"{type(self).__name__}(chain={self.chain}, seed={self.seed})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "result": None, "dropped": {}}  # worker processes need the chain alone

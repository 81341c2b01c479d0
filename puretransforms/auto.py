"""``AutoPurify``: scan a data set, then purify it as the verdict advises."""

from typing import Any

from torch import nn
from tqdm import tqdm

from .cleaning.purifier import CHOOSERS
from .errors import NotFittedError
from .functional.random import KeyedNoise
from .functional.shapes import Float, Tensor
from .scanning.scan import ScanResult, scan
from .transforms.base import PureTransform
from .transforms.baselines import GaussianBlur, Grayscale, JPEGCompress, MedianBlur
from .transforms.coin import COINInterpolate

STEPS: dict[str, type[PureTransform]] = {
    "coin": COINInterpolate,
    "gaussian": GaussianBlur,
    "gray": Grayscale,
    "jpeg": JPEGCompress,
    "median": MedianBlur,
}


class AutoPurify(PureTransform):
    """A chain of purifiers, chosen by a scan of the data: ``AutoPurify().fit(dataset)``.

    COIN for convolution-based poison, JPEG for bounded noise and triggers, nothing at all where the scan raised no
    alarm (a purifier costs accuracy). ``clean(source, out, "auto")`` does both. A fitted one may as well stand in a
    training pipeline, after crop and flip: where :attr:`online` is true that protects better than stored images,
    provided ``seed=None``, which draws anew at every access.

    Args:
        chain: ``[{"name": "coin", "alpha": 2.0}, ...]``, applied in this order; ``[]`` leaves images as they are;
            ``None`` waits for :meth:`fit`.
        **base: ``seed``, ``device``, ``images``, ``chunk_size``, ``differentiable`` of
            :class:`~puretransforms.transforms.base.PureTransform`.

    Attributes:
        result: what the scan found, after :meth:`fit`; not kept in copies.

    >>> import torch
    >>> AutoPurify([{"name": "jpeg", "quality": 10}])(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 3, 32, 32])
    """

    channels = None

    def __init__(self, chain: list[dict[str, Any]] | None = None, **base: Any) -> None:
        super().__init__(**base)
        self.result: ScanResult | None = None
        self._set(chain)

    def _set(self, chain: list[dict[str, Any]] | None) -> None:
        steps = []
        for entry in chain or []:
            settings = {key: value for key, value in entry.items() if key != "name"}
            if entry.get("name") not in STEPS:
                raise ValueError(f"expected steps among {', '.join(STEPS)}, got {entry.get('name')!r}.")
            steps.append(STEPS[entry["name"]](**settings))
        self.chain = chain
        self.steps = nn.ModuleList(steps)

    @property
    def online(self) -> bool:
        """Does the chain protect better when it is applied anew at every access? COIN does."""
        return any(isinstance(step, COINInterpolate) for step in self.steps)

    def fit(self, source: Any, **options: Any) -> "AutoPurify":
        """Scan ``source`` and choose the chain; arguments as of :func:`puretransforms.scanning.scan.scan`.

        Energies, which change no advice, are left out unless ``ebm`` is given.
        """
        self.result = scan(source, **{"ebm": None} | options)
        self._set(self.result.verdict.advice.chain)
        return self

    def purify(self, x: Float[Tensor, "b c h w"], noise: KeyedNoise) -> Float[Tensor, "b c h w"]:
        if self.chain is None:
            raise NotFittedError(
                "expected AutoPurify to have scanned the data first: call fit(dataset), or pass chain=[...]."
            )
        for step in self.steps:
            x = step._purify_channels(x, noise)
        return x

    def __repr__(self) -> str:
        return f"{type(self).__name__}(chain={self.chain}, seed={self.seed})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "result": None}  # worker processes need the chain alone


def chosen_for(source: Any, *, seed: int, workers: int | None, progress: bool) -> AutoPurify:
    """What ``clean(source, out, "auto")`` purifies with; the verdict is shown beside the progress bar."""
    auto = AutoPurify().fit(source, seed=seed, workers=workers, progress=progress)
    if progress:
        tqdm.write(str(auto.result))
    return auto


CHOOSERS["auto"] = chosen_for

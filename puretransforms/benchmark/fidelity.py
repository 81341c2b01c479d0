"""How well a purifier keeps the images and how much of the poison it lets through, measured without training."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..functional.shapes import Float, Int, Tensor, UInt8
from .defences import apply_purifier
from .metrics import projected_gain, psnr, ssim

_DRAW = 0


@dataclass(frozen=True)
class Fidelity:
    """One purifier ``P`` on clean images ``x`` and their poisoned versions ``x'``; means over the images.

    PSNR in dB; images without any error are left out of its mean (``None`` if that is all of them). ``gain`` is
    :func:`~puretransforms.benchmark.metrics.projected_gain`, ``None`` without a poison.
    """

    poison: str
    purifier: str
    images: int
    psnr_poisoned: float | None  # x' against x
    psnr: float | None  # P(x') against x
    ssim: float
    psnr_clean: float | None  # P(x) against x
    ssim_clean: float
    gain: float | None
    images_per_second: float | None = field(default=None, compare=False)  # purified, on the machine of the measurement


@torch.no_grad()
def measure_fidelity(
    poison: str,
    purifier: str,
    transform: Callable[[Tensor], Tensor] | None,
    clean: UInt8[Tensor, "n c h w"],
    poisoned: UInt8[Tensor, "n c h w"],
    labels: Int[Tensor, " n"] | None = None,
) -> Fidelity:
    """Purify both versions with the same random draws and compare them.

    ``transform`` is a purifier (``None`` for the identity) and sees the images as floats, so what is measured is the
    purifier and not the 8-bit grid. ``labels`` are those that the poisoned images carry.
    """
    x, attacked = clean.float() / 255, poisoned.float() / 255
    with _draws_by_place(transform):
        kept = _apply(transform, x, labels)
        start = time.perf_counter()
        purified = _apply(transform, attacked, labels)
        seconds = time.perf_counter() - start
    delta = attacked - x
    return Fidelity(
        poison,
        purifier,
        len(x),
        _psnr(attacked, x),
        _psnr(purified, x),
        float(ssim(purified, x).mean()),
        _psnr(kept, x),
        float(ssim(kept, x).mean()),
        projected_gain(kept, purified, delta) if delta.any() else None,
        None if transform is None else len(x) / max(seconds, 1e-9),
    )


def _psnr(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> float | None:
    values = psnr(a, b)
    finite = values[values.isfinite()]
    return float(finite.mean()) if len(finite) else None


def _apply(transform: Callable[[Tensor], Tensor] | None, batch: Tensor, labels: Tensor | None) -> Tensor:
    if transform is None:
        return batch
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_DRAW)
        return apply_purifier(transform, batch, labels)


@contextmanager
def _draws_by_place(transform: Any) -> Iterator[None]:
    """Let the draw of an image follow from its place in the batch: with a seed of its own it follows its pixels."""
    before = getattr(transform, "seed", None)
    if before is not None:
        transform.seed = None
    try:
        yield
    finally:
        if before is not None:
            transform.seed = before

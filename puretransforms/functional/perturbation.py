"""What poisons share: the size of a perturbation, its projection onto a norm ball, and its life on the 8-bit grid.

Norms of one image's perturbation ``[C, H, W]``, in pixel units of ``[0, 1]``: ``"linf"``, ``"l2"``, ``"rms"`` (L2 over
the root of the number of values: the same at every size) and ``"l0"`` (number of pixels changed in any channel).
"""

import torch

from .shapes import Float, Tensor

NORMS = ("linf", "l2", "rms", "l0")
QUANTIZE = ("round", "trunc", None)
_LEVELS = 255
_SLACK = 1e-3  # of a level: float32 error of x * 255, nothing more


def magnitude(delta: Float[Tensor, "b c h w"], norm: str) -> Float[Tensor, " b"]:
    """Size of each perturbation under ``norm``, ``[B]`` float64."""
    if norm == "linf":
        return delta.abs().flatten(1).amax(1).double()
    if norm == "l0":
        return (delta != 0).any(1).flatten(1).sum(1).double()
    if norm == "l2":
        return torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64)
    if norm == "rms":
        return magnitude(delta, "l2") / delta[0].numel() ** 0.5
    raise ValueError(f"expected a norm among {', '.join(NORMS)}, got {norm!r}.")


def rescale(delta: Float[Tensor, "b c h w"], epsilon: float, norm: str) -> Float[Tensor, "b c h w"]:
    """Scale each perturbation to exactly ``epsilon`` under ``"linf"``, ``"l2"`` or ``"rms"``; zero stays zero."""
    scale = epsilon / magnitude(delta, norm).clamp_min(torch.finfo(torch.float32).tiny)
    return delta * scale.to(delta.dtype)[:, None, None, None]


def quantize(x: Float[Tensor, "..."], mode: str | None) -> Float[Tensor, "..."]:
    """Clamp to ``[0, 1]``; then to multiples of 1/255: the nearest (``"round"``), the one below (``"trunc"``), or none.

    ``"trunc"`` is numpy's ``astype(uint8)`` after ``* 255``; it darkens by half a level on average.
    """
    if mode not in QUANTIZE:
        raise ValueError(f'expected quantize to be "round", "trunc" or None, got {mode!r}.')
    x = x.clamp(0, 1)
    if mode is None:
        return x
    levels = x.mul_(_LEVELS)
    return (levels.round_() if mode == "round" else levels.floor_()).div_(_LEVELS)


def settle(
    poisoned: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], mode: str | None, linf: float | None = None
) -> Float[Tensor, "b c h w"]:
    """Quantise a poisoned batch, staying within ``linf`` of the clean one also after rounding.

    Without this, truncation or an ``epsilon`` between two levels steps out of the ball by up to one level. The L2 of a
    perturbation has no such guard: rounding moves each value by up to half a level, truncation by up to one.
    """
    stored = quantize(poisoned, mode)
    if mode is None or linf is None:
        return stored
    low = clean.sub(linf).mul_(_LEVELS).sub_(_SLACK).ceil_().div_(_LEVELS)
    high = clean.add(linf).mul_(_LEVELS).add_(_SLACK).floor_().div_(_LEVELS)
    return torch.minimum(torch.maximum(stored, low), high).clamp_(0, 1)


def excess(
    poisoned: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], epsilon: float, norm: str, mode: str | None
) -> Float[Tensor, " b"]:
    """How far each stored image lies outside its budget, ``[B]``; at most 0 inside.

    ``poisoned`` is on the 8-bit grid. L2 and RMS budgets get what rounding can add, since they hold before it.
    """
    step = (1.0 if mode == "trunc" else 0.5) / _LEVELS
    if norm == "l0":
        clean = quantize(clean, mode or "round")
    slack = {"linf": _SLACK / _LEVELS, "l2": step * clean[0].numel() ** 0.5, "rms": step, "l0": 0.0}[norm]
    return magnitude(poisoned - clean, norm) - epsilon - slack

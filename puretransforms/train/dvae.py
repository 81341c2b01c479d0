"""Fit D-VAE (Yu et al., ICML 2024, arXiv 2405.01460): the two stages of the paper, as a generator of records."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ..functional.shapes import Tensor, UInt8
from ..models.dvae import DVAE, frozen
from .rate import PUBLISHED, FitRecord, FitSchedule, fit_stage, to_unit
from .resumable import State

_CHUNK = 1 << 17  # pixels


def fit_dvae(
    first: DVAE,
    second: DVAE,
    images: Tensor,
    labels: Tensor,
    *,
    schedule: FitSchedule = PUBLISHED,
    sample: bool = False,
    precision: torch.dtype = torch.float32,
    compiled: bool = False,
    seed: int = 0,
    state: State | None = None,
) -> Iterator[FitRecord]:
    """The two stages of the paper, both nets in place; one record per update.

    ``first`` is fitted to the images at the first rate limit; its perturbation is subtracted from every image;
    ``second``, a fresh net, is fitted to the result at the second limit. What lies between is stored at 8 bits, by
    rounding (the authors truncate, which darkens by half a level).

    Takes what :func:`~puretransforms.train.rate.fit_stage` takes, and:

    - ``first``: the network of the first stage; its initial weights are the caller's.
    - ``second``: that of the second stage, likewise.
    - ``sample``: draw the latent noise where images are purified between the stages, as the authors do, instead of
      taking the mean of the code.

    Raises:
        NoImageError, LabelError, DivergenceError: as there.
    """
    options: dict[str, Any] = {"schedule": schedule, "precision": precision, "compiled": compiled}
    stage, done, current = _split(state)
    if stage == 0:
        for record in fit_stage(
            first, images, labels, rate_limit=schedule.rate_limits[0], seed=seed, state=current, **options
        ):
            yield _staged(record, 0, {})
        current = None
    else:
        first.load_state_dict(done, strict=True)
    done = {f"first.{name}": tensor for name, tensor in first.state_dict().items()}
    cleaned = without_perturbation(first, images, labels, seed=seed if sample else None, precision=precision)
    for record in fit_stage(
        second, cleaned, labels, rate_limit=schedule.rate_limits[1], seed=seed + 1, state=current, **options
    ):
        yield _staged(record, 1, done)


@torch.no_grad()
def without_perturbation(
    net: DVAE, images: Tensor, labels: Tensor, *, seed: int | None = None, precision: torch.dtype = torch.float32
) -> UInt8[Tensor, "n 3 h w"]:
    """``clamp(x - p, 0, 1)`` of uint8 images ``[N, 3, H, W]``, as uint8 by rounding, where the images are.

    Args:
        net: of one stage.
        images: uint8 ``[N, 3, H, W]``.
        labels: integers ``[N]``.
        seed: of the latent noise; ``None`` for the mean of the code.
        precision: of the net.
    """
    fast, device = frozen(net, precision), next(net.parameters()).device
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    shape = net.latent_shape(*images.shape[-2:])
    size = max(1, _CHUNK // images[0, 0].numel()) * (16 if device.type == "cuda" else 1)
    out = torch.empty_like(images)
    for i in range(0, len(images), size):
        x = to_unit(images[i : i + size].to(device))
        noise = None if generator is None else torch.randn(len(x), *shape, generator=generator, device=device)
        p = fast.perturbation(x.to(precision), labels[i : i + size].to(device), noise)
        out[i : i + size] = (x - p).clamp(0, 1).mul(255).round().to(torch.uint8)
    return out


def _split(state: State | None) -> tuple[int, State, State | None]:
    """The stage that a state is of, the weights of the first net if it is done, and the state of that stage."""
    if state is None:
        return 0, {}, None
    if "stage" not in state:
        raise ValueError(f"expected the state() of a record, got tensors {', '.join(state) or 'none'}.")
    done = {name.removeprefix("first."): tensor for name, tensor in state.items() if name.startswith("first.")}
    rest = {name: t for name, t in state.items() if name != "stage" and not name.startswith("first.")}
    return int(state["stage"]), done, rest


def _staged(record: FitRecord, stage: int, done: State) -> FitRecord:
    def state() -> State:
        kept = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in done.items()}
        return {**record.state(), **kept, "stage": torch.tensor(stage)}

    return replace(record, state=state, stage=stage, stages=2)

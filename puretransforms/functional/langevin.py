"""Langevin dynamics on images: a step, and the chain as a generator of states.

Unadjusted Langevin for the density ``p(x) ~ exp(-f(x) / temperature)``, as EBM purifiers use it (Hill, Mitchell & Zhu,
ICLR 2021; PureEBM, arXiv 2405.19376; PureGen, arXiv 2405.18627, section 3). Pixels are in ``[-1, 1]``: whoever holds
images in ``[0, 1]`` maps them there and back. There is no clamp and no accept-reject test inside the chain, and the
last step has noise as every other.
"""

from collections.abc import Callable, Iterator

import torch

from .random import KeyedNoise
from .shapes import Float, Tensor

Energy = Callable[[Tensor], Tensor]


def langevin_step(
    x: Float[Tensor, "b c h w"],
    gradient: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    step_size: float = 1.25e-2,
    temperature: float = 1e-4,
) -> Float[Tensor, "b c h w"]:
    """``x - step_size**2 / (2 * temperature) * gradient + step_size * noise``.

    Args:
        x: states in ``[-1, 1]`` units, float32 or float64: a half-precision state would lose the drift to rounding.
        gradient: of the energy by ``x``.
        noise: standard normal.
        step_size: standard deviation of the noise that one step adds.
        temperature: lower means more drift for the same noise. At the published settings the drift is 0.78125 times
            the gradient, and noise alone would move a pixel by ``step_size * sqrt(steps)``, 0.153 after 150 steps.
    """
    return torch.add(x, gradient, alpha=-(step_size**2) / (2 * temperature)).add_(noise, alpha=step_size)


def energy_gradient(energy: Energy, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The gradient of the energy of each image by that image.

    Works under ``no_grad`` and ``inference_mode`` too. The result carries a graph of its own, for second derivatives,
    only where grad mode is on and ``x`` requires a gradient; otherwise nothing is kept.

    Args:
        energy: ``[B, C, H, W] -> [B]``, row by row (no statistics over the batch).
        x: float, any range.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]
    with torch.inference_mode(False), torch.enable_grad():
        leaf = (x.clone() if x.is_inference() else x).detach().requires_grad_()
        return torch.autograd.grad(energy(leaf).sum(), leaf)[0]


def langevin_chain(
    energy: Energy,
    x: Float[Tensor, "b c h w"],
    noise: KeyedNoise,
    *,
    steps: int,
    step_size: float = 1.25e-2,
    temperature: float = 1e-4,
    first_step: int = 0,
) -> Iterator[Tensor]:
    """The states after 1, 2, ..., ``steps`` Langevin steps from ``x``, each ``[B, C, H, W]`` in the dtype of ``x``.

    A state is a new tensor, and the chain keeps the last one only: memory does not grow with the number of steps,
    unless gradients flow (``x`` requires a gradient and grad mode is on), which keeps the graph of every step.

    Args:
        energy: ``[B, C, H, W] -> [B]``, row by row; may compute in lower precision than ``x``.
        x: start in ``[-1, 1]``, float32 or float64.
        noise: row ``i`` drives row ``i``; step ``t`` draws from its stream ``t``.
        steps: number of steps and of states.
        step_size: as in :func:`langevin_step`; a trained energy is meaningful with its own alone.
        temperature: likewise.
        first_step: number of the first noise stream, to continue a chain where it stopped.
    """
    for step in range(first_step, first_step + steps):
        draw = noise.normal(step, *x.shape[1:]).to(x.dtype)
        x = langevin_step(x, energy_gradient(energy, x), draw, step_size, temperature)
        yield x

"""Train energy networks: denoising score matching, cheap enough for a CPU, and persistent maximum likelihood.

Both work on pixels in ``[-1, 1]`` and on the scale that purifiers use: ``p(x) ~ exp(-f(x) / temperature)``, so that a
Langevin step drifts by ``step_size**2 / (2 * temperature)`` times the gradient. A net is meaningful with the step size
and temperature of its training alone: store them with it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from ..functional.langevin import energy_gradient, langevin_step
from ..functional.random import KeyedNoise
from ..functional.shapes import Tensor
from ..models.energy import EnergyNet, FoldedEnergyNet, frozen
from .resumable import Augment, ResumableRun, Schedule, State, cosine, staircase


@dataclass(frozen=True)
class ScoreRecord:
    """What one update of :func:`denoising_score_matching` did.

    ``loss`` is 1 for a flat energy (no denoising at all) and falls from there; ``lr`` is that of the update.
    ``state()``, valid until the next record is asked for, is all that a resumed run needs, as a flat dict of tensors
    (``safetensors.torch.save_file`` takes it); tensors named ``net.*`` are the network.
    """

    step: int  # 1 .. updates
    loss: float
    lr: float
    state: Callable[[], State] = field(repr=False, compare=False)


@dataclass(frozen=True)
class LikelihoodRecord(ScoreRecord):
    """What one update of :func:`maximum_likelihood` did; the signs of convergence are those of Nijkamp et al. 2020.

    ``loss`` is the difference of energies, ``(mean f(data) - mean f(chains)) / temperature``. It has to swing around 0:
    lastingly positive, the chains outrun the net; falling without end, the net has split data from chains.
    ``drift`` is the mean L2 norm, over images and steps, of what the gradient moves an image in a step, in ``[-1, 1]``
    units; it has to settle (about 0.08 to 0.15 at 32x32). ``lr`` and ``state()`` are as in :class:`ScoreRecord`;
    ``state()["bank"]`` holds the chains.
    """

    drift: float


def denoising_score_matching(
    net: nn.Module,
    images: Tensor,
    *,
    updates: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    schedule: Schedule = cosine,
    noise_range: tuple[float, float] = (0.02, 0.25),
    removal: float = 0.5,
    step_size: float = 1.25e-2,
    temperature: float = 1e-4,
    augment: Augment | None = None,
    precision: torch.dtype = torch.float32,
    seed: int = 0,
    state: State | None = None,
) -> Iterator[ScoreRecord]:
    """Train ``net`` in place so that its gradient points along the noise of a noisy image; one record per update.

    ``y = x + s * n`` with ``n ~ N(0, I)`` and ``s`` log-uniform in ``noise_range``; Adam on the mean over pixels of
    ``((c * dE/dy - s * n) / s)**2`` (Vincent 2011; one unconditional energy for all levels: Li, Chen & Sommer,
    arXiv 1910.07762). With ``c = step_size**2 / (2 * temperature) / removal`` a Langevin step of a purifier removes
    the fraction ``removal`` of the noise that the net sees.

    Args:
        net: ``[B, 3, H, W] -> [B]``; its initial weights are the caller's; it stays where it is.
        images: uint8 ``[N, 3, H, W]``, moved to the device of the net whole.
        updates: number of Adam steps in all, also of a resumed run.
        batch_size: images drawn, with replacement, for an update.
        lr: the rate of an update is ``lr * schedule(fraction of the updates done)``.
        schedule: see ``lr``.
        noise_range: smallest and largest ``s``, in ``[-1, 1]`` units.
        removal: 0.5 is the exact Langevin drift for data blurred by noise of one ``step_size``.
        step_size: of the purifier that will use the net.
        temperature: likewise.
        augment: ``(uint8 batch, CPU generator) -> uint8 batch``.
        precision: of the layers: ``torch.bfloat16`` by autocast, or ``torch.float32``. Weights and loss are float32.
        seed: fixes images, levels and noise; the global generators are neither read nor changed.
        state: of a record of a run with the same arguments, to go on after it: bit-equal to a run without a break.

    Raises:
        NoImageError: ``images`` is not uint8 ``[N, 3, H, W]``.
        DivergenceError: the loss is NaN or infinite; the net is as before that update.
    """
    run = ResumableRun(net, images, batch_size, augment, updates, lr, schedule, seed, state)
    scale = step_size**2 / (2 * temperature) / removal
    low, high = noise_range

    @torch.enable_grad()
    def loss_of(x: Tensor) -> Tensor:
        level = (low * (high / low) ** run.uniform(len(x))).view(-1, 1, 1, 1)
        unit = run.normal(x)
        noisy = torch.addcmul(x, level, unit).requires_grad_()
        with torch.autocast(x.device.type, precision, enabled=precision != torch.float32):
            energy = net(noisy).sum()
        (gradient,) = torch.autograd.grad(energy, noisy, create_graph=True)
        return (gradient * scale / level - unit).square().mean()

    while run.step < updates:
        loss = run.minimise(loss_of(run.draw(batch_size)))
        yield ScoreRecord(run.step, loss, run.lr, run.state)


def maximum_likelihood(
    net: EnergyNet | FoldedEnergyNet,
    images: Tensor,
    *,
    updates: int,
    batch_size: int = 128,
    lr: float = 1e-4,
    schedule: Schedule = staircase,
    chain_steps: int = 100,
    step_size: float = 1.25e-2,
    temperature: float = 1e-4,
    data_noise: float = 1.5e-2,
    bank_size: int = 10_000,
    rejuvenation: float = 0.05,
    augment: Augment | None = None,
    precision: torch.dtype = torch.float32,
    seed: int = 0,
    state: State | None = None,
) -> Iterator[LikelihoodRecord]:
    """Train ``net`` in place by persistent contrastive divergence, as PureEBM does; one record per update.

    Negatives are ``chain_steps`` Langevin steps from random entries of a bank of states, which started as noisy data.
    Adam on ``(mean f(noisy data) - mean f(negatives)) / temperature``; then the negatives go back into the bank, each
    slot getting a noisy data image instead with probability ``rejuvenation``, so that chains stay in the middle
    run, where purification takes place. The defaults are those of the authors (65,000 updates).

    Takes what :func:`denoising_score_matching` takes, and:

    - ``chain_steps``: Langevin steps of the negatives for each update.
    - ``data_noise``: standard deviation of the noise on data, in ``[-1, 1]`` units; 1 to 2 times ``step_size``.
    - ``bank_size``: states kept, at least ``batch_size``.
    - ``rejuvenation``: chance of a visited slot to restart from data.

    Raises:
        NoImageError, DivergenceError: as there.
    """
    if bank_size < batch_size:
        raise ValueError(f"expected a bank_size of at least the batch_size {batch_size}, got {bank_size}.")
    run = ResumableRun(net, images, batch_size, augment, updates, lr, schedule, seed, state)

    def noisy_data(count: int) -> Tensor:
        x = run.draw(count)
        return torch.add(x, run.normal(x), alpha=data_noise)

    def chain(x: Tensor) -> tuple[Tensor, Tensor]:
        fast, drift = frozen(net, precision), x.new_zeros(())
        noise = KeyedNoise(run.integer(), torch.arange(len(x), device=x.device))
        for step in range(chain_steps):
            gradient = energy_gradient(lambda y: fast(y.to(precision)), x)
            drift += gradient.flatten(1).norm(dim=1).mean()
            x = langevin_step(x, gradient, noise.normal(step, *x.shape[1:]), step_size, temperature)
        return x, drift * (step_size**2 / (2 * temperature) / max(chain_steps, 1))

    @torch.enable_grad()
    def loss_of(positives: Tensor, negatives: Tensor) -> Tensor:
        with torch.autocast(positives.device.type, precision, enabled=precision != torch.float32):
            energies = net(torch.cat((positives, negatives)))
        return (energies[: len(positives)].mean() - energies[len(positives) :].mean()) / temperature

    if "bank" not in run.extra:
        run.extra["bank"] = torch.cat([noisy_data(len(part)) for part in torch.arange(bank_size).split(1000)])
    bank = run.extra["bank"]
    while run.step < updates:
        with torch.no_grad():
            positives = noisy_data(batch_size)
            slots = run.permutation(bank_size)[:batch_size]
            negatives, drift = chain(bank[slots])
        loss = run.minimise(loss_of(positives, negatives))
        with torch.no_grad():
            restart = (run.uniform(batch_size) < rejuvenation).view(-1, 1, 1, 1)
            bank[slots] = torch.where(restart, noisy_data(batch_size), negatives)
        yield LikelihoodRecord(run.step, loss, run.lr, run.state, float(drift))

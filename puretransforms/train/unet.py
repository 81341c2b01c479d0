"""Train the network of ``UNetPurify``: denoise at a told strength, and damp whatever is added to a clean image.

Two tasks share every batch. *Denoising* is FFDNet's: Gaussian noise of exactly the told sigma is added, and the clean
image is the answer (Zhang, Zuo & Zhang, IEEE TIP 2018). *Damping* is what a purifier is for: an image ``x`` and a
corrupted ``y`` of it go through the network at the same strength ``s``, and the loss is

    ``w * (|P(x) - x|^2 + v * |P(y) - x|^2 + s^2 * g^2)``,    ``g = <P(y) - P(x), y - x> / <y - x, y - x>``

with squares as means over pixels: ``g`` is the projected gain, the share of the corruption that survives. For a linear
filter and a small corruption of one frequency that is the loss of denoising at sigma ``s``, so the strength keeps its
unit, whatever the size and kind of the corruption. But nothing loud has to be seen: the network learns what to do with
perturbations of the size that poisons have, and no clean image can tell it "leave it". Why not ``|P(y) - P(x)|^2``:
of all networks of a given error on clean images, ``x + c * grad log p(x)`` has the least mean gain for white
corruptions (integrate by parts), which shrinks what is small and keeps what is large as denoisers do; the square
favours a gain that is the same everywhere, a linear filter, whose output a classifier could amplify again.
Everything is measured along luma and chroma axes, with a strength for each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..functional.corruption import CHANGES, FIELDS, add_field
from ..functional.opponent import from_opponent, per_axis, to_opponent
from ..functional.random import KeyedNoise
from ..functional.shapes import Float, Tensor
from ..models.unet import PurifierUNet
from .energy import ScoreRecord
from .resumable import Augment, ResumableRun, Schedule, State, cosine

#: How often each family is drawn for damping, relative to the others. White ones have to be many: a coarse field of the
#: same power lies on few frequencies, which the loss therefore presses harder.
FAMILIES: dict[str, float] = {
    "gaussian": 3.0,
    "signs": 2.0,
    "uniform": 0.5,
    "blocks": 1.5,
    "spectrum": 2.0,
    "autoregressive": 2.0,
    "sinusoids": 0.5,
    "bright_pixels": 0.75,
    "patches": 0.75,
    "convolutions": 1.25,
    "blends": 0.25,
    "warps": 0.25,
    "reduced_levels": 0.5,
}
STRENGTHS = {"luma": (75 / 255, 1.5), "chroma": (100 / 255, 1.3)}  # largest, and the power of a uniform draw
BUDGETS = (3 / 255, 20 / 255)  # root mean square of fields
_LOUD = 10 / 255  # beyond it a corruption's reconstruction counts by its relative error
_ALIKE = 4  # images in a row that share a family, which saves time; never a key
_SOFTENING = 5 / 255  # losses are weighted by 1 / (strength + this)


@dataclass(frozen=True)
class PurifierRecord(ScoreRecord):
    """What one update of :func:`denoise_and_damp` did; ``state()["average"]`` is for :func:`averaged`.

    ``denoised`` is the mean square error of denoising over that of the noise, ``gain`` the projected gain of the
    corruptions that are damped; both are 1 for the identity and fall from there, at the strengths drawn.
    """

    denoised: float
    gain: float


def denoise_and_damp(
    net: PurifierUNet,
    images: Tensor,
    *,
    updates: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    schedule: Schedule = cosine,
    denoising: float = 1 / 3,
    families: Mapping[str, float] = FAMILIES,
    decay: float = 0.999,
    augment: Augment | None = None,
    seed: int = 0,
    state: State | None = None,
) -> Iterator[PurifierRecord]:
    """Train ``net`` in place by Adam; one record per update.

    Strengths are drawn for each image: luma up to 75/255 and chroma up to 100/255, small ones more often, equal in half
    of the images, now and then 0. So are the families of corruption, their budgets and their keys.

    Takes what :func:`~puretransforms.train.energy.denoising_score_matching` takes; images that are damped pass the
    network twice. And:

    - ``denoising``: share of a batch that is denoised; the rest is damped.
    - ``families``: names from :data:`~puretransforms.functional.corruption.FIELDS` and ``CHANGES``, and their weights.
    - ``decay``: of the moving average of the weights, for each update.

    Raises:
        NoImageError: ``images`` is not uint8 ``[N, 3, H, W]``.
        DivergenceError: the loss is NaN or infinite; the net is as before that update.
        ValueError: an unknown family, or a share outside ``[0, 1]``.
    """
    unknown = families.keys() - FIELDS.keys() - CHANGES.keys()
    if unknown:
        raise ValueError(f"expected families among {', '.join([*FIELDS, *CHANGES])}, got {', '.join(sorted(unknown))}.")
    if not 0 <= denoising <= 1:
        raise ValueError(f"expected a share of denoising from 0 to 1, got {denoising}.")
    run = ResumableRun(net, images, batch_size, augment, updates, lr, schedule, seed, state)
    noisy = round(batch_size * denoising)
    if "average" not in run.extra:
        run.extra["average"] = _flat(net)

    def loss_of(x: Tensor) -> tuple[Tensor, float, float]:
        noise = KeyedNoise(run.integer(), torch.arange(len(x), device=x.device))
        strength = draw_strengths(run, len(x))
        told = per_axis(*strength.unbind(1))
        loud, clean = x[:noisy], x[noisy:]
        if len(loud):
            loud = loud + from_opponent(noise[:noisy].normal(-1, 3, *x.shape[2:]) * told[:noisy])
        corrupted = corrupt(clean, noise[noisy:], families, run) if len(clean) else clean
        batch = torch.cat((loud, clean, corrupted)).contiguous(memory_format=torch.channels_last)
        with torch.enable_grad():
            out = net(batch, torch.cat((strength, strength[noisy:])))
            weight = 1 / (told + _SOFTENING)
            left = _axis_power(out[:noisy] - x[:noisy])
            kept = out[noisy : len(x)]
            delta = to_opponent(corrupted - clean)
            power = delta.square().mean((2, 3), keepdim=True)
            size = power.mean(1, keepdim=True).clamp_min(BUDGETS[0] ** 2)
            moved = (to_opponent(out[len(x) :] - kept) * delta).mean((2, 3), keepdim=True)
            pair = (
                _axis_power(kept - clean)
                + _axis_power(out[len(x) :] - clean) * (_LOUD**2 / size).clamp_max(1)
                + told[noisy:].square() * moved.square() / (power * size).clamp_min(1e-12)
            )
            loss = (torch.cat((left, pair)) * weight).mean()
        denoised = float(left.detach().sum() / told[:noisy].square().sum().clamp_min(1e-12)) if noisy else float("nan")
        gain = float(moved.detach().sum() / power.sum().clamp_min(1e-12)) if noisy < len(x) else float("nan")
        return loss, denoised, gain

    while run.step < updates:
        x = run.draw(batch_size).add_(1).div_(2)
        with torch.no_grad():
            loss, denoised, gain = loss_of(x)
        value = run.minimise(loss)
        with torch.no_grad():
            run.extra["average"].lerp_(_flat(net), 1 - min(decay, (1 + run.step) / (10 + run.step)))
        yield PurifierRecord(run.step, value, run.lr, run.state, denoised, gain)


def draw_strengths(run: ResumableRun, count: int) -> Float[Tensor, "b 2"]:
    """Strengths of luma and chroma."""
    (luma_top, luma_power), (chroma_top, chroma_power) = STRENGTHS["luma"], STRENGTHS["chroma"]
    luma = luma_top * run.uniform(count) ** luma_power * (run.uniform(count) > 0.08)
    chroma = chroma_top * run.uniform(count) ** chroma_power * (run.uniform(count) > 0.05)
    return torch.stack((luma, torch.where(run.uniform(count) < 0.5, luma, chroma)), dim=1)


def corrupt(
    images: Float[Tensor, "b 3 h w"], noise: KeyedNoise, families: Mapping[str, float], run: ResumableRun
) -> Float[Tensor, "b 3 h w"]:
    """Four images in a row by one family, each with its own key.

    Fields get a root mean square within :data:`BUDGETS`, luma to chroma at random.

    Row ``i`` uses row ``i`` of ``noise``.
    """
    names = list(families)
    weights = torch.tensor([families[name] for name in names])
    drawn = torch.multinomial(weights, -(-len(images) // _ALIKE), replacement=True, generator=run.generator)
    drawn = drawn.repeat_interleave(_ALIKE)[: len(images)].to(images.device)
    low, high = BUDGETS
    budget = low * (high / low) ** run.uniform(len(images))
    angle = run.uniform(len(images)) * (torch.pi / 2)
    luma, chroma = budget * 3**0.5 * angle.cos(), budget * 1.5**0.5 * angle.sin()
    out = torch.empty_like(images)
    for index, name in enumerate(names):
        rows = (drawn == index).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        part = images[rows].contiguous()
        if name in FIELDS:
            part = add_field(part, FIELDS[name](noise[rows], *images.shape[2:]), luma[rows], chroma[rows])
        else:
            part = CHANGES[name](part, noise[rows])
        out[rows] = part
    return out


def averaged(net: PurifierUNet, state: Mapping[str, Tensor]) -> PurifierUNet:
    """Give ``net`` the averaged weights of a record's state, in place; returns it."""
    place = 0
    with torch.no_grad():
        for parameter in net.parameters():
            part = state["average"][place : place + parameter.numel()]
            parameter.copy_(part.view(parameter.shape))
            place += parameter.numel()
    return net


def _flat(net: nn.Module) -> Float[Tensor, " n"]:
    return torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])


def _axis_power(difference: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 1 1"]:
    return to_opponent(difference).square().mean((2, 3), keepdim=True)

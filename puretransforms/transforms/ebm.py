"""EBM purification as a transform; the dynamics are in :mod:`puretransforms.functional.langevin`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from ..data.images import to_unit, unwrap
from ..errors import NoImageError, WeightsMismatchError
from ..functional.langevin import langevin_chain
from ..functional.random import KeyedNoise
from ..functional.shapes import Float, Tensor
from ..models.compiled_chain import CompiledChain
from ..models.energy import PUREGEN_LAYERS, EnergyNet, FoldedEnergyNet, frozen
from .base import PureTransform

_ARCHITECTURES = {"small": (FoldedEnergyNet, 48), "published": (EnergyNet, 128)}  # class, default width
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_GPU_PIXELS = 1 << 20


class EBMPurify(PureTransform):
    """Langevin steps towards low energy: what a net trained on natural images finds unnatural is worn away.

    PureEBM (arXiv 2405.19376) and PureGen (NeurIPS 2024, arXiv 2405.18627): ``x`` in ``[-1, 1]``, then ``steps`` times
    ``x <- x - step_size**2 / (2 * temperature) * dE/dx + step_size * noise``, then clamp and back to ``[0, 1]``.
    Made for training images; test images are left alone. The paper takes 150 steps from scratch, 500 before linear
    transfer, 1000 before fine-tuning; more steps remove more poison and more of the image.

    An energy is meaningful with the step size and temperature that it was trained for: both, the network and the number
    of steps come from the config of the weights, unless they are given here.

    Args:
        weights: a name (:func:`puretransforms.hub.list_weights`), a folder or a repo of the Hugging Face Hub; also a
            checkpoint that PureGen's code saved. ``None`` for an untrained network (always the same one), which
            purifies nothing: for training and for tests.
        arch: ``"small"``, for CPUs (:class:`~puretransforms.models.energy.FoldedEnergyNet`), or ``"published"``
            (:class:`~puretransforms.models.energy.EnergyNet`; it runs folded, which changes no energy).
        nf: channels of the network; by default 48 for the small and 128 for the published one.
        steps: Langevin steps; 0 leaves the image as it is.
        step_size, temperature: of :func:`~puretransforms.functional.langevin.langevin_step`. A lower temperature is
            more drift for the same noise.
        repeats: apply the whole purifier so many times, with new noise, clamped in between.
        threshold: purify only images whose :meth:`energy` is at least this (the energy filter of PureGen), the others
            come back unchanged; see :meth:`fit_threshold`. ``None`` purifies all.
        precision: of the network inside the chain, ``"bf16"`` or ``"fp32"``. States, noise and :meth:`energy` are
            always float32.
        compiled: run the chain through ``torch.compile``, on CUDA as a CUDA graph; the images are the same to float
            rounding. The first batch of a size has to wait for the compiler, a smaller one is filled up: for batches of
            one image size. Where gradients are wanted (``differentiable=True``) the chain runs as without.
        **base: ``seed``, ``device``, ``images``, ``chunk_size``, ``differentiable`` of :class:`PureTransform`.

    Raises:
        WeightsUnavailableError, WeightsCorruptedError, WeightsMismatchError: as ``from_pretrained``.
        CompilationError: at the first call, where ``compiled`` is asked for and there is no compiler.

    >>> import torch
    >>> purifier = EBMPurify(weights=None, nf=8, steps=2)  # untrained, to show the shapes
    >>> purifier(torch.rand(4, 3, 32, 32)).shape, purifier.energy(torch.rand(4, 3, 32, 32)).shape
    (torch.Size([4, 3, 32, 32]), torch.Size([4]))
    """

    def __init__(
        self,
        weights: str | Path | None = "ebm-small-32",
        *,
        arch: str = "small",
        nf: int | None = None,
        steps: int = 150,
        step_size: float = 1.25e-2,
        temperature: float = 1e-4,
        repeats: int = 1,
        threshold: float | None = None,
        precision: str = "bf16",
        compiled: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if weights is not None:
            self._become(weights)
            return
        if arch not in _ARCHITECTURES:
            raise ValueError(f"expected arch to be one of {', '.join(_ARCHITECTURES)}, got {arch!r}.")
        if precision not in _DTYPES:
            raise ValueError(f"expected precision to be one of {', '.join(_DTYPES)}, got {precision!r}.")
        for name, value, least in (("nf", nf, 1), ("steps", steps, 0), ("repeats", repeats, 1)):
            if value is not None and value < least:
                raise ValueError(f"expected {name} of at least {least}, got {value}.")
        for name, value in (("step_size", step_size), ("temperature", temperature)):
            if not 0 < value < float("inf"):
                raise ValueError(f"expected a finite {name} > 0, got {value}.")
        network, width = _ARCHITECTURES[arch]
        self.arch = arch
        self.nf = nf or width
        self.steps = steps
        self.step_size = float(step_size)
        self.temperature = float(temperature)
        self.repeats = repeats
        self.threshold = threshold
        self.precision = precision
        self.compiled = compiled
        self._compiled_chain = CompiledChain()
        with torch.random.fork_rng(devices=[]):  # an untrained network is always the same one
            torch.default_generator.manual_seed(0)
            self.net = network(self.nf).requires_grad_(False).to(memory_format=torch.channels_last)

    @classmethod
    def _foreign_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """The config of a checkpoint of PureGen's code, which says no more than ``nf`` and ``patch_size``."""
        config = {"arch": "published"} | config
        if config.pop("patch_size", 1) != 1:
            raise WeightsMismatchError(
                "expected patch_size=1, the published network, which alone is built here: take such weights."
            )
        return config

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in [name for name in state_dict if name.removeprefix(prefix).rpartition(".")[0] in PUREGEN_LAYERS]:
            state_dict[f"{prefix}net.{name.removeprefix(prefix)}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def purify(self, x: Float[Tensor, "b c h w"], noise: KeyedNoise) -> Float[Tensor, "b c h w"]:
        if self.threshold is None:
            return self._run(x, noise)
        suspicious = self._energies(x) >= self.threshold
        if not suspicious.any():
            return x
        return x.index_copy(0, suspicious.nonzero()[:, 0], self._run(x[suspicious], noise[suspicious]))

    def _run(self, x: Float[Tensor, "b c h w"], noise: KeyedNoise) -> Float[Tensor, "b c h w"]:
        dtype = _DTYPES[self.precision]
        net = frozen(self.net, dtype)
        state = _to_signed(x)
        settings = {"steps": self.steps, "step_size": self.step_size, "temperature": self.temperature}
        compiled = self.compiled and not (torch.is_grad_enabled() and state.requires_grad)
        for repeat in range(self.repeats):
            if compiled:
                state = self._compiled_chain(net, state, noise, **settings, first_step=repeat * self.steps)
            else:
                chain = langevin_chain(
                    lambda y: net(y.to(dtype)), state, noise, **settings, first_step=repeat * self.steps
                )
                for newer in chain:
                    state = newer
            state = state.clamp(-1, 1)
        return state.add(1).div(2).to(x.dtype)

    def energy(self, images: Any) -> Float[Tensor, " n"]:
        """The energy of each image, float32 ``[N]``: within one data set, the highest are the least natural.

        Args:
            images: one image or batch as the transform takes it: PIL, or tensor ``[..., C, H, W]``, uint8 or float in
                ``[0, 1]``, one or three channels.

        Raises:
            NoImageError, RangeError: as :class:`PureTransform`.
        """
        self._choose([images])
        pixels, _ = unwrap(images)
        device = torch.device(self.device or pixels.device)
        self._follow(device)
        size = self._auto_chunk(pixels) if self.chunk_size == "auto" else self.chunk_size
        with torch.no_grad():
            parts = [self._energies(_three_channels(to_unit(part.to(device)))) for part in pixels.split(size)]
        return torch.cat(parts).to(pixels.device)

    def fit_threshold(self, images: Any, fraction: float) -> float:
        """The energy that ``fraction`` of ``images`` reach or exceed: pass it on as ``threshold=``.

        Args:
            images: what :meth:`energy` takes, or an iterable of such.
            fraction: of the images that will be purified, 0 to 1 (PureGen's filter takes 0.5).
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"expected a fraction from 0 to 1, got {fraction}.")
        one = isinstance(images, Tensor | PIL.Image.Image) or not isinstance(images, Iterable)
        energies = torch.cat([self.energy(part) for part in ([images] if one else images)])
        purified = round(fraction * len(energies))
        return float(energies.sort(descending=True).values[purified - 1]) if purified else float("inf")

    def _energies(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return frozen(self.net)(_to_signed(x))

    def _auto_chunk(self, pixels: Tensor) -> int:
        """As the base on a CPU; bounded on a GPU, where the activations of a whole data set would not fit."""
        return max(1, _GPU_PIXELS // pixels[0, 0].numel()) if pixels.is_cuda else super()._auto_chunk(pixels)


def _to_signed(x: Tensor) -> Tensor:
    """``[0, 1]`` to ``[-1, 1]``, float32, ``channels_last``."""
    return x.float().mul(2).sub(1).contiguous(memory_format=torch.channels_last)


def _three_channels(x: Tensor) -> Tensor:
    if x.shape[1] not in (1, 3):
        raise NoImageError(
            f"EBMPurify expected 3 channels (or 1), got {x.shape[1]}: split alpha and other extra channels off first."
        )
    return x.expand(-1, 3, -1, -1)

"""EBM purification as a transform; the dynamics are in :mod:`puretransforms.functional.langevin`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from ..data.samples import gather
from ..errors import WeightsMismatchError
from ..functional import checks
from ..functional.devices import PRECISIONS, working_dtype
from ..functional.langevin import langevin_chain
from ..functional.random import KeyedNoise
from ..functional.shapes import Float, Images, Tensor
from ..models.compiled_chain import CompiledChain
from ..models.energy import PUREGEN_LAYERS, EnergyNet, FoldedEnergyNet, frozen
from ..registry import register
from ..train.checkpoint import Checkpoint, FitStep
from ..train.energy import denoising_score_matching
from .base import PureTransform

_ARCHITECTURES = {"small": (FoldedEnergyNet, 48), "published": (EnergyNet, 128)}  # class, default width


@register("ebm")
class EBMPurify(PureTransform):
    """Langevin steps towards low energy: what a net trained on natural images finds unnatural is worn away.

    PureEBM (arXiv 2405.19376) and PureGen (NeurIPS 2024, arXiv 2405.18627): ``x`` in ``[-1, 1]``, then ``steps`` times
    ``x <- x - step_size**2 / (2 * temperature) * dE/dx + step_size * noise``, then clamp and back to ``[0, 1]``.
    Made for training images; test images are left alone. The paper takes 150 steps from scratch, 500 before linear
    transfer, 1000 before fine-tuning; more steps remove more poison and more of the image.

    An energy is meaningful with the step size and temperature that it was trained for: both, the network and the number
    of steps come from the config of the weights where they are ``None`` here.

    Args:
        weights: a name (:func:`puretransforms.hub.list_weights`), a folder or a repo of the Hugging Face Hub; also a
            checkpoint that PureGen's code saved. ``None`` for an untrained network (always the same one), which
            purifies nothing: for training and for tests.
        arch: ``"small"``, for CPUs (:class:`~puretransforms.models.energy.FoldedEnergyNet`), or ``"published"``
            (:class:`~puretransforms.models.energy.EnergyNet`; it runs folded, which changes no energy). ``None``: as
            the weights say, or ``"small"``.
        nf: channels of the network; ``None``: as the weights say, or 48 for the small and 128 for the published one.
        steps: Langevin steps; 0 leaves the image as it is. ``None``: as the weights say (75 for ``ebm-small-32``), or
            150 without weights.
        step_size, temperature: of :func:`~puretransforms.functional.langevin.langevin_step`. A lower temperature is
            more drift for the same noise. ``None``: as the weights say, or the paper's 1.25e-2 and 1e-4.
        repeats: apply the whole purifier so many times, with new noise, clamped in between.
        threshold: purify only images whose :meth:`energy` is at least this (the energy filter of PureGen), the others
            come back unchanged; see :meth:`fit_threshold`. ``None`` purifies all.
        precision: of the network inside the chain: ``"bf16"``, ``"fp32"``, or ``"auto"``: bfloat16 where the hardware
            computes in it, else float32 (:func:`~puretransforms.functional.devices.working_dtype`). States, noise and
            :meth:`energy` are always float32.
        compiled: run the chain through ``torch.compile``, on CUDA as a CUDA graph; the images are the same to float
            rounding. The first batch of a size has to wait for the compiler, a smaller one is filled up: for batches of
            one image size. Where gradients are wanted (``differentiable=True``) the chain runs as without.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.

    Raises:
        WeightsUnavailableError, WeightsCorruptedError, WeightsMismatchError: as ``from_pretrained``.
        CompilationError: at the first call, where ``compiled`` is asked for and there is no compiler.

    >>> import torch
    >>> purifier = EBMPurify(weights=None, nf=8, steps=2)  # untrained, to show the shapes
    >>> purifier(torch.rand(4, 3, 32, 32)).shape, purifier.energy(torch.rand(4, 3, 32, 32)).shape
    (torch.Size([4, 3, 32, 32]), torch.Size([4]))
    """

    needs_fit = True
    _runs_unfitted = True
    _gpu_pixels = 1 << 20
    graph_refusal = (
        "differentiates its energy inside, which no graph can hold: call it before the compiled part, or pass "
        "compiled=True, which compiles the chain"
    )

    def __init__(
        self,
        weights: str | Path | None = "ebm-small-32",
        *,
        arch: str | None = None,
        nf: int | None = None,
        steps: int | None = None,
        step_size: float | None = None,
        temperature: float | None = None,
        repeats: int = 1,
        threshold: float | None = None,
        precision: str = "auto",
        compiled: bool = False,
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
        if weights is not None:
            self._become(weights)
            return
        self.arch = checks.choice("arch", arch or "small", _ARCHITECTURES)
        self.nf = _ARCHITECTURES[self.arch][1] if nf is None else checks.whole("nf", nf, least=1)
        self.steps = checks.whole("steps", 150 if steps is None else steps, least=0)
        self.step_size = checks.number("step_size", 1.25e-2 if step_size is None else step_size, above=0)
        self.temperature = checks.number("temperature", 1e-4 if temperature is None else temperature, above=0)
        self.repeats = checks.whole("repeats", repeats, least=1)
        self.threshold = None if threshold is None else checks.number("threshold", threshold, finite=False)
        self.precision = checks.choice("precision", precision, PRECISIONS)
        self.compiled = checks.flag("compiled", compiled)
        self._compiled_chain = CompiledChain()
        self.net = self._new_net(0).requires_grad_(False)

    def _new_net(self, seed: int) -> EnergyNet | FoldedEnergyNet:
        """The same untrained network for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return _ARCHITECTURES[self.arch][0](self.nf).to(memory_format=torch.channels_last)

    def fit(
        self,
        dataset: Any,
        *,
        updates: int = 18_000,
        batch_size: int = 32,
        lr: float = 1e-3,
        seed: int | None = None,
        device: str | None = None,
        checkpoint: str | Path | None = None,
        save_every: int = 500,
        on_record: Callable[[FitStep], object] | None = None,
    ) -> "EBMPurify":
        """Train the energy on images of one's own by denoising score matching; labels are not read.

        PureEBM claims that an energy purifies also where the images that it was trained on are poisoned. The defaults
        are those of ``ebm-small-32``: about an hour on one CPU thread at 32 x 32 pixels.

        Args:
            dataset: what :func:`puretransforms.data.samples.gather` takes; images of one size.
            updates: number of Adam steps.
            batch_size: images drawn for each.
            lr: of Adam at the start.
            seed: of the training; ``None`` for the purifier's own, or 0.
            device: where to train and to purify; ``None`` for where the images are.
            checkpoint: file that is written every ``save_every`` updates, and from which the same call goes on after
                a break.
            save_every: updates between two checkpoints.
            on_record: called after every update, for a progress bar or a log.

        Raises:
            NoImageError, LabelError: data that cannot be gathered.
            ManifestMismatchError, WeightsCorruptedError: the checkpoint is of another fit, or damaged.
            DivergenceError: the training blew up.
        """
        pixels = gather(dataset).images
        seed = self.seed or 0 if seed is None else seed
        self.net = self._new_net(seed).to(device or pixels.device)
        settings: dict[str, Any] = {"updates": updates, "batch_size": batch_size, "lr": lr, "seed": seed}
        settings |= {"step_size": self.step_size, "temperature": self.temperature}
        kept = Checkpoint(checkpoint, pixels, **settings, purifier=self._config())
        for record in denoising_score_matching(self.net, pixels, **settings, state=kept.state):
            if record.step % save_every == 0 or record.step == updates:
                kept.save(record.state)
            if on_record is not None:
                on_record(FitStep(record.step, updates, images=batch_size, loss=record.loss))
        self._trained = True
        self.zero_grad(set_to_none=True)
        return self.eval().requires_grad_(False)

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

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        if self.threshold is None:
            return self._run(x, noise)
        suspicious = self._energies(x) >= self.threshold
        if not suspicious.any():
            return x
        return x.index_copy(0, suspicious.nonzero()[:, 0], self._run(x[suspicious], noise[suspicious]))

    def _run(self, x: Images, noise: KeyedNoise) -> Float[Tensor, "b c h w"]:
        dtype = working_dtype(self.precision, x.device)
        net = frozen(self.net, dtype)
        state = _to_signed(x)
        settings: dict[str, Any] = {"steps": self.steps, "step_size": self.step_size, "temperature": self.temperature}
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
        return self.measured(images, lambda x, noise, labels: self._energies(x))

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


def _to_signed(x: Tensor) -> Tensor:
    """``[0, 1]`` to ``[-1, 1]``, float32, ``channels_last``."""
    return x.float().mul(2).sub(1).contiguous(memory_format=torch.channels_last)

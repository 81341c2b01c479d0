"""Purification in one pass of a small network; the network is in :mod:`puretransforms.models.unet`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..data.samples import gather
from ..functional import checks
from ..functional.random import KeyedNoise
from ..functional.shapes import Images, Tensor
from ..models.unet import ARCHITECTURES, PurifierUNet
from ..registry import register
from ..train.checkpoint import Checkpoint, FitStep
from ..train.unet import averaged, denoise_and_damp
from .base import PureTransform

STRONGEST = 100.0  # in 1/255: beyond it no network has been trained
JITTER = (0.5, 1.5)  # strengths are multiplied by a factor between these
_STRENGTH, _CHROMA = 25.0, 75.0  # where neither the caller nor the weights say
_LEVELS = 255


@register("unet")
class UNetPurify(PureTransform):
    """One pass of a small residual U-Net that shrinks what is small and unstructured beside the image.

    It is told how strong to be, apart for luma and chroma: a network needs fine brightness and coarse colour, and
    poisons like to live in colour. Strengths are in units of 1/255, as the sigma of Gaussian noise that a denoiser
    such as FFDNet (arXiv 1710.04026) is told; no noise is added, and none has to be there. Trained on randomised
    corruptions with a fresh key for every image, on no poison. Each image keeps its mean colour.

    Args:
        weights: a name (:func:`puretransforms.hub.list_weights`), a folder or a repo of the Hugging Face Hub; ``None``
            for an untrained network, which leaves every image as it is: for training and for tests.
        arch: ``"small"`` or ``"base"``; ``None``: as the weights say, or ``"small"``.
        strength: of luma, 0 (left as it is) to 100. ``None``: as the weights say, or 25.
        chroma: strength of colour, 0 to 100. ``None``: as the weights say, or 75.
        jitter: draw both strengths anew for each image, each times a factor log-uniform from 0.5 to 1.5, so that what
            survives is not the same at every access.
        grain: sigma of fresh Gaussian noise that is added to the purified image, in units of 1/255: a network that
            trains on smooth images alone never sees the fine detail that test images hold.
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.

    Raises:
        WeightsUnavailableError, WeightsCorruptedError, WeightsMismatchError: as ``from_pretrained``.
        ValueError: images of fewer than 4 pixels on a side.

    >>> import torch
    >>> purifier = UNetPurify(weights=None, strength=25.0, jitter=True)  # untrained, to show the shapes
    >>> purifier(torch.rand(4, 3, 32, 32)).shape
    torch.Size([4, 3, 32, 32])
    """

    needs_fit = True
    _runs_unfitted = True

    def __init__(
        self,
        weights: str | Path | None = "unet-small",
        *,
        arch: str | None = None,
        strength: float | None = None,
        chroma: float | None = None,
        jitter: bool = False,
        grain: float = 0.0,
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
        self.arch = checks.choice("arch", arch or "small", ARCHITECTURES)
        self.strength = checks.number("strength", _STRENGTH if strength is None else strength, least=0, most=STRONGEST)
        self.chroma = checks.number("chroma", _CHROMA if chroma is None else chroma, least=0, most=STRONGEST)
        self.jitter = checks.flag("jitter", jitter)
        self.grain = checks.number("grain", grain, least=0, most=_LEVELS)
        self.randomized = self.jitter or self.grain > 0
        self.net = self._new_net(0)

    def _new_net(self, seed: int) -> PurifierUNet:
        with torch.random.fork_rng(devices=[]):  # an untrained network is always the same one
            torch.default_generator.manual_seed(seed)
            net = ARCHITECTURES[self.arch]()
        return net.requires_grad_(False).to(memory_format=torch.channels_last)

    def fit(
        self,
        dataset: Any,
        *,
        updates: int = 2_000,
        batch_size: int = 32,
        lr: float = 3e-4,
        seed: int | None = None,
        device: str | None = None,
        checkpoint: str | Path | None = None,
        save_every: int = 250,
        on_record: Callable[[FitStep], object] | None = None,
    ) -> "UNetPurify":
        """Go on training on images of one's own, which may be poisoned; labels are not read.

        An untrained network starts anew: give it more updates (6,000 or more) and a higher ``lr`` (1e-3).

        Args:
            dataset: what :func:`puretransforms.data.samples.gather` takes; images of one size.
            updates: of :func:`~puretransforms.train.unet.denoise_and_damp`.
            batch_size: likewise.
            lr: likewise.
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
        net = self._new_net(seed)
        if self._trained:
            net.load_state_dict(self.net.state_dict())
        self.net = net.to(device or pixels.device)
        settings: dict[str, Any] = {"updates": updates, "batch_size": batch_size, "lr": lr, "seed": seed}
        kept = Checkpoint(checkpoint, pixels, **settings, purifier=self._config())
        record = None
        for record in denoise_and_damp(net, pixels, **settings, state=kept.state):
            if record.step % save_every == 0 or record.step == updates:
                kept.save(record.state)
            if on_record is not None:
                on_record(FitStep(record.step, updates, images=batch_size, loss=record.loss))
        final = kept.state if record is None else record.state()
        if final is not None:
            averaged(net, final)
        self._trained = True
        self.zero_grad(set_to_none=True)
        return self.eval().requires_grad_(False)

    def purify(self, x: Images, noise: KeyedNoise, labels: Tensor | None = None) -> Images:
        dtype = x.dtype
        strength = torch.tensor([[self.strength, self.chroma]], device=x.device).expand(len(x), 2)
        if self.jitter:
            low, high = JITTER
            strength = (strength * low * (high / low) ** noise.uniform(0, 2)).clamp_max(STRONGEST)
        x = x.float().contiguous(memory_format=torch.channels_last)
        y = self.net(x, strength / _LEVELS)
        y = y + (x - y).mean((2, 3), keepdim=True)
        if self.grain:
            y = torch.add(y.clamp(0, 1), noise.normal(1, *x.shape[1:]), alpha=self.grain / _LEVELS)
        return y.clamp(0, 1).to(dtype)

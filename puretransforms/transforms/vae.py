"""VAE purification as a transform; networks in :mod:`puretransforms.models.dvae`, fit in :mod:`..train.dvae`."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..data.samples import check_labels, gather
from ..errors import NotFittedError
from ..functional import checks
from ..functional.devices import PRECISIONS, working_dtype
from ..functional.random import KeyedNoise
from ..functional.shapes import Float, Labels, Tensor
from ..models.dvae import DVAE, RateVAE, frozen
from ..registry import register
from ..train.checkpoint import Checkpoint
from ..train.dvae import fit_dvae
from ..train.rate import SCHEDULES, FitRecord, FitSchedule
from .base import PureTransform

_ARCHITECTURES = {"small": (32, 128), "published": (64, 256)}  # width, latent channels
_FROZEN: WeakKeyDictionary[RateVAE, tuple[Any, RateVAE]] = WeakKeyDictionary()


@register("vae")
class VAEPurify(PureTransform):
    """Code images at a limited rate: what the code has no room for, and what the label alone predicts, is dropped.

    Three modes, which differ in what they need and in what may be claimed for them:

    * **Pretrained, without labels** (the constructor): a rate-limited autoencoder trained on natural images, a learned
      codec of about one bit per pixel. An extension of this library; D-VAE has no such mode.
    * **Fitted, with labels**: ``VAEPurify(weights=None).fit(dataset)``, then ``purifier(images, labels)``. This is
      D-VAE (Yu et al., ICML 2024, arXiv 2405.01460): two networks are fitted to the poisoned set itself, each predicts
      from code and label a perturbation ``p``, and ``x -> D2(clamp(clamp(x - p1(x, y)) - p2(x1, y)))``, with ``D2``
      the reconstruction of the second network.
    * **Fitted, without labels**: ``purifier(images)`` of a fitted purifier is the reconstruction ``D2(x)`` alone.

    Labels are found in ``(images, labels)``, in either order, or under ``"label"``, ``"labels"``, ``"target"`` or
    ``"targets"`` of a mapping. They pass through. Made for training images; test images are left alone.

    Args:
        weights: a name (:func:`puretransforms.hub.list_weights`), a folder or a repo of the Hugging Face Hub, whose
            config says all that is not given here. ``None`` for untrained networks (always the same ones), which
            purify nothing until they are fitted: a call of such a purifier is refused.
        arch: ``"small"`` (width 32, 128 latent channels) or ``"published"`` (64 and 256). ``None``: as the weights say,
            or ``"small"``.
        width, latent: override those of ``arch``.
        size: side of the images: it decides the stem, and the shape of a spatial class table. ``None``: as the weights
            say, or 32; a fit takes that of its images.
        num_classes: of a fitted purifier; ``None`` for one without labels.
        classes: their names in label order, where the dataset of the fit had names; ``clean`` holds them against those
            of its source.
        schedule: of a fit: see :meth:`fit`.
        spatial: one map for each class, which ties the labelled mode to ``size``, or one vector for any size.
        sample: draw the latent noise, as the authors do; otherwise the mean of the code is decoded, which keeps about
            a decibel more and gives the same result every time.
        precision: of the networks: ``"bf16"``, ``"fp32"``, or ``"auto"``: bfloat16 where the hardware computes in it,
            else float32 (:func:`~puretransforms.functional.devices.working_dtype`).
        seed, device, images, chunk_size, differentiable, p: see :class:`~puretransforms.transforms.base.PureTransform`.

    Raises:
        WeightsUnavailableError, WeightsCorruptedError, WeightsMismatchError: as ``from_pretrained``.
        LabelError: labels that do not fit the images or the fit.
        NotFittedError: images for a purifier without weights before :meth:`fit`.
        SizeError: images far from the size that pretrained weights are for (16 to 64 pixels for ``vae-small-32``).

    >>> import torch
    >>> images, labels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8), torch.arange(8) % 2
    >>> brief = FitSchedule(epochs=1, batch_size=4)  # to show the shapes
    >>> purifier = VAEPurify(weights=None, width=4, latent=8).fit((images, labels), schedule=brief)
    >>> purifier(images, labels)[0].shape
    torch.Size([8, 3, 16, 16])
    """

    needs_fit = True
    reads_labels = True
    _refuses_sizes = True  # at 224 pixels the codec for 32 paints checkerboards and shifts colours
    _gpu_pixels = 1 << 20

    def __init__(
        self,
        weights: str | Path | None = "vae-small-32",
        *,
        arch: str | None = None,
        width: int | None = None,
        latent: int | None = None,
        size: int | None = None,
        num_classes: int | None = None,
        classes: list[str] | None = None,
        spatial: bool = True,
        schedule: str | FitSchedule | dict = "published",
        sample: bool = False,
        precision: str = "auto",
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
        self.width = checks.whole("width", _ARCHITECTURES[self.arch][0] if width is None else width, least=1)
        self.latent = checks.whole("latent", _ARCHITECTURES[self.arch][1] if latent is None else latent, least=1)
        self.size = checks.whole("size", 32 if size is None else size, least=1)
        self.num_classes = None if num_classes is None else checks.whole("num_classes", num_classes, least=1)
        self.classes = classes
        self.spatial = checks.flag("spatial", spatial)
        self.schedule = asdict(schedule) if isinstance(schedule, FitSchedule) else schedule
        _schedule(self.schedule)
        self.sample = self.randomized = checks.flag("sample", sample)
        self.precision = checks.choice("precision", precision, PRECISIONS)
        self._build(seed=0)

    def _build(self, seed: int, table_std: float = 1.0) -> None:
        """Fresh networks; the global generator is left as it was."""
        self.reads_labels = self.num_classes is not None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self.num_classes is None:
                self.net = RateVAE(self.width, self.latent, size=self.size)
            else:
                options: dict[str, Any] = {"size": self.size, "spatial": self.spatial, "table_std": table_std}
                self.first = DVAE(self.num_classes, self.width, self.latent, **options)
                self.net = DVAE(self.num_classes, self.width, self.latent, **options)
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    # --- the fit -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        dataset: Any,
        *,
        schedule: str | FitSchedule | None = None,
        num_classes: int | None = None,
        seed: int | None = None,
        device: str | None = None,
        compiled: bool = False,
        checkpoint: str | Path | None = None,
        save_every: int = 200,
        on_record: Callable[[FitRecord], object] | None = None,
    ) -> "VAEPurify":
        """Fit D-VAE to a poisoned, labelled dataset: two stages, see :func:`puretransforms.train.dvae.fit_dvae`.

        The networks are made anew, for the size and the classes of the dataset. ``precision="auto"`` fits the published
        schedule in float32 on every device, as the authors do: in bfloat16 so long a fit has not been measured to be as
        good. Other schedules are fitted in the dtype that purifies.

        Args:
            dataset: what :func:`puretransforms.data.samples.gather` takes: images of one size and at 8 bits, with
                labels. No augmentation: what is fitted is what is purified.
            schedule: ``"published"`` (60 epochs a stage, for GPUs), ``"short"`` (for small machines), or a
                :class:`~puretransforms.train.rate.FitSchedule`; ``None`` for that of the constructor.
            num_classes: ``None`` for that of the constructor, or one more than the largest label.
            seed: of the fit; ``None`` for the purifier's own, or 0.
            device: where to fit and to purify; ``None`` for where the images are.
            compiled: fit through ``torch.compile``: half as fast again on a CPU; it needs a C++ compiler.
            checkpoint: file that is written every ``save_every`` updates and at the end of a stage, and from which the
                same call goes on after a break.
            save_every: updates between two checkpoints.
            on_record: called after every update, for a progress bar or a log.

        Raises:
            LabelError, NoImageError: data that cannot be fitted.
            ManifestMismatchError, WeightsCorruptedError: the checkpoint is of another fit, or damaged.
            DivergenceError: the fit blew up; the checkpoint holds the last state saved.
        """
        plan = _schedule(self.schedule if schedule is None else schedule)
        samples = gather(dataset)
        pixels, labels = samples.images, samples.targets
        seed = self.seed or 0 if seed is None else seed
        known = self.num_classes if num_classes is None else num_classes
        self.num_classes = max(int(labels.max()) + 1, len(samples.classes or ())) if known is None else known
        check_labels(labels, len(pixels), self.num_classes)
        self.classes = samples.classes
        self.size = max(pixels.shape[-2:])
        self._build(seed, plan.table_std)
        self.to(device or pixels.device)
        kept = Checkpoint(checkpoint, pixels, labels, schedule=plan, seed=seed, purifier=self._config())
        records = fit_dvae(
            self.first,
            self.net,  # type: ignore[arg-type]  # a DVAE: it has classes
            pixels,
            labels,
            schedule=plan,
            sample=self.sample,
            precision=self._fit_dtype(plan),
            compiled=compiled,
            seed=seed,
            state=kept.state,
        )
        for record in records:
            if record.step % save_every == 0 or record.step == record.updates:
                kept.save(record.state)
            if on_record is not None:
                on_record(record)
        self._trained = True
        self.zero_grad(set_to_none=True)
        return self.eval().requires_grad_(False)

    def _fit_dtype(self, schedule: FitSchedule) -> torch.dtype:
        """float32 for the published schedule unless the caller says otherwise; see :meth:`fit`."""
        if self.precision == "auto" and schedule == SCHEDULES["published"]:
            return torch.float32
        return working_dtype(self.precision, next(self.parameters()).device)

    # --- purification ------------------------------------------------------------------------------------------------

    def purify(
        self, x: Float[Tensor, "b 3 h w"], noise: KeyedNoise, labels: Labels | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        if labels is not None:
            *_, x = self._subtract(x, labels, noise)
        net = self._fast(self.net)
        return net.reconstruct(x.to(net.post.weight.dtype), self._draw(noise, 2, x)).to(x.dtype).clamp(0, 1)

    def perturbation(self, images: Any, labels: Any) -> Float[Tensor, "n 3 h w"]:
        """What the two stages subtract in all: the part of each image that its label predicts and its code lacks.

        Look at it, or compare it between classes; do not take it for the poison. It is unbounded, holds natural
        class cues as well, and misses whatever does not depend on the class.

        Args:
            images: one image or batch as the transform takes it, three channels.
            labels: an int, or integers of the leading shape of the images.

        Returns:
            float32 ``[N, 3, H, W]``, in units of ``[0, 1]`` pixels, on the device of the images.

        Raises:
            NotFittedError: this purifier was never fitted.
        """
        if self.num_classes is None:
            raise NotFittedError(
                "expected a fitted VAEPurify, got one without class table: make one with "
                "VAEPurify(weights=None).fit(dataset)."
            )

        def both(x: Tensor, noise: KeyedNoise, own: Tensor | None) -> Tensor:
            p1, p2, _ = self._subtract(x, own, noise)
            return (p1 + p2).float()

        return self.measured(images, both, labels)

    def _subtract(self, x: Tensor, labels: Tensor | None, noise: KeyedNoise) -> tuple[Tensor, Tensor, Tensor]:
        """Both perturbations, and what is left."""
        subtracted = []
        for step, net in enumerate((self._fast(self.first), self._fast(self.net))):
            p = net.perturbation(x.to(net.post.weight.dtype), labels, self._draw(noise, step, x)).to(x.dtype)
            subtracted.append(p)
            x = (x - p).clamp(0, 1)
        return subtracted[0], subtracted[1], x

    def _draw(self, noise: KeyedNoise, step: int, x: Tensor) -> Tensor | None:
        return noise.normal(step, *self.net.latent_shape(*x.shape[-2:])) if self.sample else None

    def _fast(self, net: RateVAE) -> Any:
        """:func:`~puretransforms.models.dvae.frozen`, made anew only where the parameters have changed."""
        if torch.compiler.is_compiling():
            return net  # a graph cannot hold what is kept outside; the folded net computes the same
        tensors = [*net.parameters(), *net.buffers()]
        dtype = working_dtype(self.precision, tensors[0].device)
        if any(t.is_inference() for t in tensors):
            return frozen(net, dtype)
        now = dtype, [(t.data_ptr(), t._version, t.device) for t in tensors]
        if net not in _FROZEN or _FROZEN[net][0] != now:
            _FROZEN[net] = now, frozen(net, dtype)
        return _FROZEN[net][1]


def _schedule(given: str | FitSchedule | dict) -> FitSchedule:
    if isinstance(given, str):
        return SCHEDULES[checks.choice("schedule", given, SCHEDULES)]
    if isinstance(given, dict):
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        return FitSchedule(**values)
    return given

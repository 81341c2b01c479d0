"""VAE purification as a transform; networks in :mod:`puretransforms.models.dvae`, fit in :mod:`..train.dvae`."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..data.images import round_to_uint8, to_unit, unwrap
from ..errors import LabelError, NotFittedError
from ..functional.devices import check_not_forked_cuda
from ..functional.random import KeyedNoise, content_ids
from ..functional.shapes import Float, Int, Tensor
from ..models.dvae import DVAE, RateVAE, frozen
from ..train.checkpoint import identity, load_checkpoint, save_checkpoint
from ..train.dvae import fit_dvae
from ..train.rate import SCHEDULES, FitRecord, FitSchedule
from .base import PureTransform
from .labels import check_labels, colour, gather, integers, labels_of

_ARCHITECTURES = {"small": (32, 128), "published": (64, 256)}  # width, latent channels
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_GPU_PIXELS = 1 << 20
_FROZEN: WeakKeyDictionary[RateVAE, tuple[Any, RateVAE]] = WeakKeyDictionary()


class VAEPurify(PureTransform):
    """Code images at a limited rate: what the code has no room for, and what the label alone predicts, is dropped.

    Three modes, which differ in what they need and in what may be claimed for them:

    * **Pretrained, without labels** (the constructor): a rate-limited autoencoder trained on natural images, a learned
      codec of about one bit per pixel. An extension of this library; D-VAE has no such mode.
    * **Fitted, with labels**: ``VAEPurify.fit(dataset)``, then ``purifier(images, labels)``. This is D-VAE (Yu et al.,
      ICML 2024, arXiv 2405.01460): two networks are fitted to the poisoned set itself, each predicts from code and
      label a perturbation ``p``, and ``x -> D2(clamp(clamp(x - p1(x, y)) - p2(x1, y)))``, with ``D2`` the
      reconstruction of the second network.
    * **Fitted, without labels**: ``purifier(images)`` of a fitted purifier is the reconstruction ``D2(x)`` alone.

    Labels are found in ``(images, labels)``, in either order, or under ``"label"``, ``"labels"``, ``"target"`` or
    ``"targets"`` of a mapping. They pass through. Made for training images; test images are left alone.

    Args:
        weights: a name (:func:`puretransforms.hub.list_weights`), a folder or a repo of the Hugging Face Hub, whose
            config says all that is not given here. ``None`` for untrained networks (always the same ones), which
            purify nothing: for training and for tests.
        arch: ``"small"`` (width 32, 128 latent channels) or ``"published"`` (64 and 256).
        width, latent: override those of ``arch``.
        size: side of the images: it decides the stem, and the shape of a spatial class table.
        num_classes: of a fitted purifier; ``None`` for one without labels.
        spatial: one map for each class, which ties the labelled mode to ``size``, or one vector for any size.
        sample: draw the latent noise, as the authors do; otherwise the mean of the code is decoded, which keeps about
            a decibel more and gives the same result every time.
        precision: of the networks, ``"bf16"`` or ``"fp32"``.
        **base: ``seed``, ``device``, ``images``, ``chunk_size``, ``differentiable`` of :class:`PureTransform`.

    Raises:
        WeightsUnavailableError, WeightsCorruptedError, WeightsMismatchError: as ``from_pretrained``.
        LabelError: labels that do not fit the images or the fit.

    >>> import torch
    >>> purifier = VAEPurify(weights=None, width=4, latent=8)  # untrained, to show the shapes
    >>> purifier(torch.rand(4, 3, 32, 32)).shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        weights: str | Path | None = "vae-small-32",
        *,
        arch: str = "small",
        width: int | None = None,
        latent: int | None = None,
        size: int = 32,
        num_classes: int | None = None,
        spatial: bool = True,
        sample: bool = False,
        precision: str = "bf16",
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
        if size < 1:
            raise ValueError(f"expected size of at least 1 pixel, got {size}.")
        self.arch = arch
        self.width = _ARCHITECTURES[arch][0] if width is None else width
        self.latent = _ARCHITECTURES[arch][1] if latent is None else latent
        self.size = size
        self.num_classes = num_classes
        self.spatial = spatial
        self.sample = sample
        self.precision = precision
        self._build(seed=0)

    def _build(self, seed: int, table_std: float = 1.0) -> None:
        """Fresh networks; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self.num_classes is None:
                self.net = RateVAE(self.width, self.latent, size=self.size)
            else:
                options = {"size": self.size, "spatial": self.spatial, "table_std": table_std}
                self.first = DVAE(self.num_classes, self.width, self.latent, **options)
                self.net = DVAE(self.num_classes, self.width, self.latent, **options)
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    # --- the fit -----------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        dataset: Any,
        *,
        schedule: str | FitSchedule = "published",
        num_classes: int | None = None,
        arch: str = "published",
        seed: int = 0,
        device: str | None = None,
        compiled: bool = False,
        checkpoint: str | Path | None = None,
        save_every: int = 200,
        on_record: Callable[[FitRecord], object] | None = None,
        **options: Any,
    ) -> "VAEPurify":
        """Fit D-VAE to a poisoned, labelled data set: two stages, see :func:`puretransforms.train.dvae.fit_dvae`.

        Args:
            dataset: a map-style data set of ``(image, label)``, or a pair ``(images, labels)`` of tensors; images of
                one size and at 8 bits. No augmentation: what is fitted is what is purified.
            schedule: ``"published"`` (60 epochs a stage, for GPUs), ``"short"`` (for small machines), or a
                :class:`~puretransforms.train.rate.FitSchedule`.
            num_classes: ``None`` for one more than the largest label.
            arch, **options: of the constructor; the ``size`` is that of the images.
            seed: of the fit, and of the purifier that comes back.
            device: where to fit and to purify.
            compiled: fit through ``torch.compile``: half as fast again on a CPU; it needs a C++ compiler.
            checkpoint: file that is written every ``save_every`` updates and at the end of a stage, and from which the
                same call goes on after a break.
            on_record: called after every update, for a progress bar or a log.

        Raises:
            LabelError, NoImageError: data that cannot be fitted.
            ManifestMismatchError, WeightsCorruptedError: the checkpoint is of another fit, or damaged.
            DivergenceError: the fit blew up; the checkpoint holds the last state saved.
        """
        if isinstance(schedule, str):
            if schedule not in SCHEDULES:
                raise ValueError(f"expected schedule to be one of {', '.join(SCHEDULES)}, got {schedule!r}.")
            schedule = SCHEDULES[schedule]
        pixels, labels = gather(dataset)
        classes = int(labels.max()) + 1 if num_classes is None else num_classes
        side = max(pixels.shape[-2:])
        purifier = cls(weights=None, arch=arch, size=side, num_classes=classes, seed=seed, device=device, **options)
        purifier._build(seed, schedule.table_std)
        purifier.to(device or pixels.device)
        file = None if checkpoint is None else Path(checkpoint)
        of = identity(pixels, labels, schedule=schedule, seed=seed, purifier=purifier._config()) if file else ""
        records = fit_dvae(
            purifier.first,
            purifier.net,
            pixels,
            labels,
            schedule=schedule,
            sample=purifier.sample,
            precision=_DTYPES[purifier.precision],
            compiled=compiled,
            seed=seed,
            state=load_checkpoint(file, of) if file else None,
        )
        for record in records:
            if file and (record.step % save_every == 0 or record.step == record.updates):
                save_checkpoint(file, record.state(), of)
            if on_record is not None:
                on_record(record)
        purifier.zero_grad(set_to_none=True)
        return purifier.eval().requires_grad_(False)

    # --- purification ------------------------------------------------------------------------------------------------

    def forward(self, *inputs: Any) -> Any:
        """Purify the images of a sample; with labels, where this purifier was fitted and the sample holds them."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        if isinstance(sample, Mapping) and not isinstance(sample, dict):
            sample = dict(sample)
        found = None if self.num_classes is None else labels_of(sample)
        if found is None:
            return super().forward(sample)
        leaves, spec = tree_flatten(sample)
        chosen = self._choose(leaves)
        params = self.make_params([leaves[i] for i in chosen])
        images = [leaves[i] for i in chosen]
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            for i, image in zip(chosen, self._labelled(images, found, params), strict=True):
                leaves[i] = image
        return tree_unflatten(leaves, spec)

    def purify(self, x: Float[Tensor, "b c h w"], noise: KeyedNoise) -> Float[Tensor, "b c h w"]:
        net = self._fast(self.net)
        return net.reconstruct(x.to(net.post.weight.dtype), self._draw(noise, 2, x)).to(x.dtype).clamp(0, 1)

    def purify_labelled(
        self, x: Float[Tensor, "b 3 h w"], labels: Int[Tensor, " b"], noise: KeyedNoise
    ) -> Float[Tensor, "b 3 h w"]:
        """The whole of D-VAE on a float batch in ``[0, 1]``: subtract twice, then reconstruct."""
        *_, cleaned = self._subtract(x, labels, noise)
        return self.purify(cleaned, noise)

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
                "expected a fitted VAEPurify, got one without class table: VAEPurify.fit(dataset) makes one."
            )
        self._choose([images])
        params = self.make_params([images])
        parts = []
        with torch.no_grad():
            for x, y, noise in self._batches(images, integers(labels), params):
                p1, p2, _ = self._subtract(colour(x), y, noise)
                parts.append((p1 + p2).float())
        return torch.cat(parts).to(images.device if isinstance(images, Tensor) else "cpu")

    def _subtract(self, x: Tensor, labels: Tensor, noise: KeyedNoise) -> tuple[Tensor, Tensor, Tensor]:
        """Both perturbations, and what is left."""
        subtracted = []
        for step, net in enumerate((self._fast(self.first), self._fast(self.net))):
            p = net.perturbation(x.to(net.post.weight.dtype), labels, self._draw(noise, step, x)).to(x.dtype)
            subtracted.append(p)
            x = (x - p).clamp(0, 1)
        return subtracted[0], subtracted[1], x

    def _labelled(self, images: list[Any], labels: Tensor, params: dict[str, Any]) -> Iterator[Any]:
        counts = [len(unwrap(image)[0]) for image in images]
        if labels.numel() != sum(counts):
            raise LabelError(f"expected one label for each of {sum(counts)} images, got {labels.numel()}.")
        for image, own in zip(images, labels.split(counts), strict=True):
            pixels, rewrap = unwrap(image)
            out = torch.cat([self._like(x, y, noise) for x, y, noise in self._batches(image, own, params)])
            out = out.to(pixels.device)
            yield rewrap(round_to_uint8(out) if pixels.dtype == torch.uint8 else out.to(pixels.dtype))

    def _like(self, x: Tensor, labels: Tensor, noise: KeyedNoise) -> Tensor:
        """Purified, with as many channels as ``x``."""
        y = self.purify_labelled(colour(x), labels, noise)
        return y if x.shape[1] == 3 else y.mean(1, keepdim=True)

    def _batches(
        self, image: Any, labels: Tensor, params: dict[str, Any]
    ) -> Iterator[tuple[Tensor, Tensor, KeyedNoise]]:
        """Chunks of an image or batch as floats, with their labels and noise, on the device of the work."""
        pixels, _ = unwrap(image)
        device = torch.device(self.device or pixels.device)
        check_not_forked_cuda(device)
        self._follow(device)
        labels = check_labels(labels, len(pixels), self.num_classes).to(device)
        ids = content_ids(pixels) if params["by_content"] else torch.arange(len(pixels), device=pixels.device)
        noise = KeyedNoise(params["seed"], ids.to(device))
        size = self._auto_chunk(pixels) if self.chunk_size == "auto" else self.chunk_size
        for i in range(0, len(pixels), size):
            yield to_unit(pixels[i : i + size].to(device)), labels[i : i + size], noise[i : i + size]

    def _draw(self, noise: KeyedNoise, step: int, x: Tensor) -> Tensor | None:
        return noise.normal(step, *self.net.latent_shape(*x.shape[-2:])) if self.sample else None

    def _fast(self, net: RateVAE) -> RateVAE:
        """:func:`~puretransforms.models.dvae.frozen`, made anew only where the parameters have changed."""
        dtype = _DTYPES[self.precision]
        tensors = [*net.parameters(), *net.buffers()]
        if any(t.is_inference() for t in tensors):
            return frozen(net, dtype)
        now = dtype, [(t.data_ptr(), t._version, t.device) for t in tensors]
        if net not in _FROZEN or _FROZEN[net][0] != now:
            _FROZEN[net] = now, frozen(net, dtype)
        return _FROZEN[net][1]

    def _auto_chunk(self, pixels: Tensor) -> int:
        """As the base on a CPU; bounded on a GPU, where the activations of a whole data set would not fit."""
        return max(1, _GPU_PIXELS // pixels[0, 0].numel()) if pixels.is_cuda else super()._auto_chunk(pixels)

"""The plumbing that every purifier inherits: which images of a sample, their labels, types, devices and random draws.

A purifier writes one method, :meth:`PureTransform.purify`, on a float batch; everything else happens here once.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar
from warnings import warn

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision.transforms import v2

from ..data.images import is_plain_image, is_typed_image, round_to_uint8, to_unit, unwrap
from ..data.samples import check_labels, integers, labels_in
from ..errors import CompilationError, LabelError, NoImageError, NotFittedError, UntouchedImageWarning
from ..functional import checks
from ..functional.devices import check_available, check_not_forked_cuda, device_named
from ..functional.random import KeyedNoise, content_ids
from ..functional.shapes import Float, Images, Labels, Tensor
from ..hub.pretrained import Pretrained

_CACHED_PIXELS = 1 << 17
_CHOICE = -1  # the step of the noise that decides which images are purified, where p < 1


class PureTransform(
    Pretrained,  # first: the other order loses the class keywords of the Hub's mixin
    v2.Transform,
    library_name="puretransforms",
    license="apache-2.0",
    pipeline_tag="image-to-image",
    tags=["data-purification", "data-poisoning", "torchvision"],
):
    """Base of all purifiers: a torchvision v2 transform that also runs in ``nn.Sequential`` and kornia containers.

    Accepts PIL images (RGB, L, RGBA, LA, P), plain tensors and tv_tensors ``[..., C, H, W]``, uint8 or float in
    ``[0, 1]``, alone or anywhere in a nested sample, and returns the same type, mode, dtype, range, shape and device;
    labels, boxes, masks and everything else pass through. Each image gets its own draw.

    A subclass writes :meth:`purify`, and :meth:`fit` and :attr:`fitted` where it learns from a dataset; until then it
    refuses to purify.

    Args:
        seed: ``None`` draws anew at every call from torch's global generator. An int fixes the noise of each image as
            a function of ``(seed, pixels)``: the same in any batch, order, worker, process and epoch.
        device: where to purify; ``None`` follows the input (``v2.Compose`` never moves its children). The result
            comes back on the input's device either way.
        images: ``"first"`` follows torchvision: every PIL image and tv_tensor, or else the first plain image tensor,
            with an :class:`~puretransforms.errors.UntouchedImageWarning` if another is left. ``"all"`` takes each.
        chunk_size: purify at most this many images at a time, which bounds memory and changes no result.
        differentiable: let gradients flow through (for adaptive attacks); otherwise the result carries none.
        p: probability of each image to be purified; the others come back as they are.

    Raises:
        NoImageError: nothing in the sample is an image (numpy HWC, labels only, a wrong dtype or channel count).
        RangeError: float pixels outside ``[0, 1]``.
        LabelError: a purifier that reads labels found none that fit.
        NotFittedError: a purifier that learns from a dataset, before :meth:`fit`.
        HardwareError: no such device, or at a call none on this machine.
        ForkedWorkerError: CUDA work inside a forked DataLoader worker.
        CompilationError: ``torch.compile(fullgraph=True)`` or ``torch.export`` of a purifier that no graph can hold.
    """

    role: ClassVar[str] = "purifier"
    channels: ClassVar[int | None] = 3  # what purify takes: 3 (grey images are expanded), or None for any number
    needs_fit: ClassVar[bool] = False  # does it learn from a dataset?
    _runs_unfitted: ClassVar[bool] = False  # does it purify before that, as its docstring says, for training and tests?
    reads_labels: bool = False  # does purify use the labels of a sample that holds some?
    randomized: bool = True  # does purify use its noise? One that does not draws nothing from the global generator
    graph_refusal: str | None = None  # why no graph can hold this purifier, and what to do instead
    num_classes: int | None = None  # labels lie in 0 .. num_classes - 1, where they are read
    _quantize = staticmethod(round_to_uint8)
    _gpu_pixels: int | None = None  # in a chunk on a GPU, where the activations of a whole dataset would not fit

    def __init_subclass__(cls, **settings: Any) -> None:
        """Refuse, where a class is defined, a ``purify`` that cannot be called as every purifier is."""
        super().__init_subclass__(**settings)
        if "purify" in vars(cls):
            signature = inspect.signature(cls.purify)
            try:
                signature.bind("self", "x", "noise", "labels")
            except TypeError:
                raise TypeError(
                    f"expected purify(self, x, noise, labels=None) in {cls.__name__}, got purify{signature}: write it "
                    "with these arguments, used or not."
                ) from None

    def __init__(
        self,
        *,
        seed: int | None = None,
        device: str | None = None,
        images: str = "first",
        chunk_size: int | str = "auto",
        differentiable: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__()
        self.seed = checks.seed(seed)
        if device is not None:
            device_named(device)  # a wrong name is refused here
        self.device = device
        self.images = checks.choice("images", images, ("first", "all"))
        self.chunk_size = checks.chunk_size(chunk_size)
        self.differentiable = checks.flag("differentiable", differentiable)
        self.p = checks.number("p", p, least=0, most=1)

    def purify(self, x: Images, noise: KeyedNoise, labels: Labels | None = None) -> Images:
        """Purify a float batch in ``[0, 1]``; row ``i`` may use row ``i`` of ``noise`` and ``labels`` and nothing else.

        ``labels`` are those of the sample where :attr:`reads_labels` is true and it holds some, else ``None``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define purify(x, noise, labels=None).")

    @property
    def fitted(self) -> bool:
        """Is this purifier ready for use: was it fitted, here or before it was saved, or does it need no fit?"""
        return self._trained or not self.needs_fit

    def fit(self, dataset: Any, **options: Any) -> "PureTransform":
        """Learn from a dataset, in place, and return the purifier itself.

        Args:
            dataset: what :func:`puretransforms.data.samples.gather` takes.
            **options: of the purifier.

        Raises:
            TypeError: this purifier learns from no dataset.
        """
        raise TypeError(f"{type(self).__name__} needs no fit: use it as it is.")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The one draw of a call: what keys the noise of every image in it."""
        if self.seed is not None:
            return {"seed": self.seed, "by_content": True}
        if not self.randomized and self.p == 1:
            return {"seed": 0, "by_content": False}
        drawn = torch.randint(2**63 - 1, ())
        return {"seed": drawn if torch.compiler.is_compiling() else int(drawn), "by_content": False}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Purify one image with given parameters."""
        return self._transform_all([inpt], params)[0]

    def forward(self, *inputs: Any) -> Any:
        """Purify the images of a sample (any nesting of tuples, lists and mappings); the rest passes through."""
        if self.graph_refusal is not None and torch.compiler.is_compiling():
            self._refuse_graph()
        return self._forward(*inputs)

    def _refuse_graph(self) -> None:
        """A graph break where graphs may break, and the reason in the error where they may not."""
        reason = f"{type(self).__name__} {self.graph_refusal}."
        if torch.compiler.is_exporting():
            raise CompilationError(reason)
        torch.compiler.disable(_nothing, reason=reason)()

    def _forward(self, *inputs: Any) -> Any:
        sample = inputs if len(inputs) > 1 else inputs[0]
        if isinstance(sample, Mapping) and not isinstance(sample, dict):
            sample = dict(sample)  # a Hugging Face LazyBatch is no pytree node: it would pass through whole
        leaves, spec = tree_flatten(sample)
        chosen = self._choose(leaves)
        labels = labels_in(sample) if self.reads_labels else None
        params = self.make_params([leaves[i] for i in chosen])
        for i, image in zip(chosen, self._transform_all([leaves[i] for i in chosen], params, labels), strict=True):
            leaves[i] = image
        return tree_unflatten(leaves, spec)

    def _choose(self, leaves: list[Any]) -> list[int]:
        typed = [i for i, leaf in enumerate(leaves) if is_typed_image(leaf)]
        plain = [i for i, leaf in enumerate(leaves) if is_plain_image(leaf)]
        chosen = sorted(typed + plain) if self.images == "all" else typed or plain[:1]
        if not chosen:
            raise NoImageError(_why_no_image(leaves))
        alike = {3} | {leaves[i].shape[-3] for i in chosen if i in plain}  # one channel beside a colour image: a mask
        left = [i for i in plain if i not in chosen and leaves[i].shape[-3] in alike]
        if left:
            warn(
                f"{type(self).__name__} left {len(left)} image-like tensor(s) of this sample unpurified, as "
                f'torchvision does: pass images="all" to purify each, or wrap masks in tv_tensors.Mask.',
                UntouchedImageWarning,
                stacklevel=4,
            )
        return chosen

    def _transform_all(self, images: list[Any], params: dict[str, Any], labels: Tensor | None = None) -> list[Any]:
        """Purify images together, one batch for each shape, dtype and device among them."""
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return self._transform_groups(images, params, labels)

    def _transform_groups(self, images: list[Any], params: dict[str, Any], labels: Tensor | None) -> list[Any]:
        batches, rewraps = zip(*(unwrap(image) for image in images), strict=True)
        counts = [len(pixels) for pixels in batches]
        own: list[Any] = [None] * len(batches)
        if labels is not None:
            if len(labels) != sum(counts):
                raise LabelError(f"expected one label for each of {sum(counts)} images, got {len(labels)}.")
            own = list(labels.split(counts))
        ids, first = [], 0
        for pixels in batches:
            numbers = torch.arange(first, first + len(pixels), device=pixels.device)
            ids.append(content_ids(pixels) if params["by_content"] else numbers)
            first += len(pixels)
        groups: dict[Any, list[int]] = {}
        for i, pixels in enumerate(batches):
            groups.setdefault((pixels.shape[1:], pixels.dtype, pixels.device), []).append(i)
        out: list[Any] = [None] * len(batches)
        for members in groups.values():
            pixels = _joined([batches[i] for i in members])
            part = None if labels is None else _joined([own[i] for i in members])
            purified = self._purify_batch(pixels, params["seed"], _joined([ids[i] for i in members]), part)
            for i, pixels in zip(members, purified.split([counts[i] for i in members]), strict=True):
                out[i] = rewraps[i](pixels)
        return out

    def _purify_batch(self, pixels: Tensor, seed: int, ids: Tensor, labels: Tensor | None) -> Tensor:
        """Chunk by chunk, from dtype to dtype, so that everything between stays in a cache or in bounded memory."""
        self._check_size(*pixels.shape[-2:])
        chunks = self._chunks(pixels, KeyedNoise(seed, ids), labels)
        if self._chunk_length(pixels) >= len(pixels):
            return self._purify_part(*next(chunks)).to(pixels)
        out, first = torch.empty_like(pixels), 0
        for part, noise, own in chunks:
            out[first : first + len(part)] = self._purify_part(part, noise, own)
            first += len(part)
        return out

    def _chunks(
        self, pixels: Tensor, noise: KeyedNoise, labels: Tensor | None = None
    ) -> Iterator[tuple[Tensor, KeyedNoise, Tensor | None]]:
        """The pixels ``[N, C, H, W]`` in pieces on the device of the work, with their noise and labels."""
        device = torch.device(self.device or pixels.device)
        check_not_forked_cuda(device)
        check_available(device)
        self._follow(device)
        noise = noise.to(device)
        if labels is not None:
            if self.num_classes is not None:
                labels = check_labels(labels, len(pixels), self.num_classes)
            labels = labels.to(device)
        size = self._chunk_length(pixels)
        for i in range(0, len(pixels), size):
            part = slice(i, i + size)
            yield pixels[part].to(device), noise[part], None if labels is None else labels[part]

    def _chunk_length(self, pixels: Tensor) -> int:
        return self._auto_chunk(pixels) if isinstance(self.chunk_size, str) else self.chunk_size

    def _purify_part(self, pixels: Tensor, noise: KeyedNoise, labels: Tensor | None) -> Tensor:
        if self.p == 1:
            return self._purify_pixels(pixels, noise, labels)
        chosen = noise.uniform(_CHOICE)[:, None, None, None] < self.p
        return torch.where(chosen, self._purify_pixels(pixels, noise, labels).to(pixels.dtype), pixels)

    def _purify_pixels(self, pixels: Tensor, noise: KeyedNoise, labels: Tensor | None) -> Tensor:
        y = self._purify_channels(to_unit(pixels), noise, labels)
        return self._quantize(y) if pixels.dtype == torch.uint8 else y

    def _auto_chunk(self, pixels: Tensor) -> int:
        """Images in a chunk: on a CPU as many as stay in a core's cache, on a GPU all that fit."""
        most = self._gpu_pixels if pixels.is_cuda else _CACHED_PIXELS
        return len(pixels) if most is None else max(1, most // pixels[0, 0].numel())

    def _purify_channels(self, x: Tensor, noise: KeyedNoise, labels: Tensor | None = None) -> Tensor:
        if not (self.fitted or self._runs_unfitted):
            raise NotFittedError(
                f"expected {type(self).__name__} to be fitted, but it has seen no dataset: call fit(dataset), or use "
                "clean(), which fits it first."
            )
        whole = self._with_channels(x)
        y = self.purify(whole, noise, labels)
        return y if whole is x else y.mean(1, keepdim=True)

    def _with_channels(self, x: Tensor) -> Tensor:
        """``x``, or a grey batch expanded to the channels that :meth:`purify` takes."""
        if self.channels in (None, x.shape[1]):
            return x
        if x.shape[1] != 1:
            raise NoImageError(
                f"{type(self).__name__} expected {self.channels} channels (or 1), got {x.shape[1]}: "
                "split alpha and other extra channels off first."
            )
        return x.expand(-1, self.channels, -1, -1)

    def measured(
        self, images: Any, measure: Callable[[Tensor, KeyedNoise, Tensor | None], Tensor], labels: Any = None
    ) -> Tensor:
        """``measure(x, noise, labels)`` of every image, on its way through the same plumbing as :meth:`purify`.

        Args:
            images: one image or batch as the transform takes it.
            measure: of a float batch ``[B, 3, H, W]`` in ``[0, 1]`` (grey images are expanded), gives ``[B, ...]``.
            labels: an int, or integers of the leading shape of the images.

        Returns:
            ``[N, ...]``, on the device of the images.
        """
        self._choose([images])
        pixels, _ = unwrap(images)
        own = None if labels is None else integers(labels)
        if own is not None and len(own) != len(pixels):
            raise LabelError(f"expected one label for each of {len(pixels)} images, got {len(own)}.")
        params = self.make_params([images])
        ids = content_ids(pixels) if params["by_content"] else torch.arange(len(pixels), device=pixels.device)
        parts = []
        with torch.no_grad():
            for part, noise, some in self._chunks(pixels, KeyedNoise(params["seed"], ids), own):
                parts.append(measure(self._with_channels(to_unit(part)), noise, some))
        return torch.cat(parts).to(pixels.device)

    def _follow(self, device: torch.device) -> None:
        tensor = next((t for group in (self.parameters(), self.buffers()) for t in group), None)
        if tensor is not None and tensor.device != device:
            self.to(device)


def _nothing() -> None:
    pass


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _why_no_image(leaves: list[Any]) -> str:
    expected = "expected a PIL image or a tensor [..., C, H, W] (uint8, or float in [0, 1])"
    if any(isinstance(leaf, np.ndarray) and leaf.ndim >= 2 for leaf in leaves):
        return f"{expected}, got a numpy array: convert it first with v2.ToImage() (HWC) or torch.from_numpy (CHW)."
    tensors = [f"{leaf.dtype} {list(leaf.shape)}" for leaf in leaves if isinstance(leaf, torch.Tensor)]
    got = "; ".join(tensors) or ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "an empty sample"
    return f"{expected}, got {got}: put the transform where the sample holds the image."


class BPDA(torch.nn.Module):
    """Purified forward, identity gradient: the adaptive attack on a purifier whose own gradient is useless.

    Backward pass differentiable approximation (Athalye, Carlini & Wagner, ICML 2018). ``x``: float ``[..., C, H, W]``
    in ``[0, 1]``; the result equals ``transform(x)``, its gradient with respect to ``x`` is 1.
    """

    def __init__(self, transform: PureTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        return x + (self.transform(x.detach()) - x).detach()

"""The plumbing that every purifier inherits: which images of a sample, their types, devices and random draws.

A purifier writes one method, :meth:`PureTransform.purify`, on a float batch; everything else happens here once.
"""

from collections.abc import Mapping
from typing import Any, ClassVar
from warnings import warn

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision.transforms import v2

from ..data.images import is_plain_image, is_typed_image, round_to_uint8, to_unit, unwrap
from ..errors import NoImageError, UntouchedImageWarning
from ..functional.devices import check_not_forked_cuda
from ..functional.random import KeyedNoise, content_ids
from ..functional.shapes import Float, Tensor
from ..hub.pretrained import Pretrained

_CACHED_PIXELS = 1 << 17


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

    Args:
        seed: ``None`` draws anew at every call from torch's global generator. An int fixes the noise of each image as
            a function of ``(seed, pixels)``: the same in any batch, order, worker, process and epoch.
        device: where to purify; ``None`` follows the input (``v2.Compose`` never moves its children). The result
            comes back on the input's device either way.
        images: ``"first"`` follows torchvision: every PIL image and tv_tensor, or else the first plain image tensor,
            with an :class:`~puretransforms.errors.UntouchedImageWarning` if another is left. ``"all"`` takes each.
        chunk_size: purify at most this many images at a time, which bounds memory and changes no result.
        differentiable: let gradients flow through (for adaptive attacks); otherwise the result carries none.

    Raises:
        NoImageError: nothing in the sample is an image (numpy HWC, labels only, a wrong dtype or channel count).
        RangeError: float pixels outside ``[0, 1]``.
        ForkedWorkerError: CUDA work inside a forked DataLoader worker.
    """

    channels: ClassVar[int | None] = 3  # what purify takes: 3 (grey images are expanded), or None for any number
    _quantize = staticmethod(round_to_uint8)

    def __init__(
        self,
        *,
        seed: int | None = None,
        device: str | None = None,
        images: str = "first",
        chunk_size: int | str = "auto",
        differentiable: bool = False,
    ) -> None:
        super().__init__()
        if images not in ("first", "all"):
            raise ValueError(f'expected images="first" or "all", got {images!r}.')
        if chunk_size != "auto" and not (isinstance(chunk_size, int) and chunk_size >= 1):
            raise ValueError(f'expected chunk_size="auto" or a number of images from 1, got {chunk_size!r}.')
        self.seed = seed
        self.device = device
        self.images = images
        self.chunk_size = chunk_size
        self.differentiable = differentiable

    def purify(self, x: Float[Tensor, "b c h w"], noise: KeyedNoise) -> Float[Tensor, "b c h w"]:
        """Purify a float batch in ``[0, 1]``; row ``i`` may use row ``i`` of ``noise`` and nothing else."""
        raise NotImplementedError(f"{type(self).__name__} must define purify(x, noise).")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The one draw of a call: the seed that keys the noise of every image in it."""
        fresh = self.seed is None
        return {"seed": int(torch.randint(2**63 - 1, ())) if fresh else self.seed, "by_content": not fresh}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Purify one image with given parameters."""
        return self._transform_all([inpt], params)[0]

    def forward(self, *inputs: Any) -> Any:
        """Purify the images of a sample (any nesting of tuples, lists and mappings); the rest passes through."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        if isinstance(sample, Mapping) and not isinstance(sample, dict):
            sample = dict(sample)  # a Hugging Face LazyBatch is no pytree node: it would pass through whole
        leaves, spec = tree_flatten(sample)
        chosen = self._choose(leaves)
        params = self.make_params([leaves[i] for i in chosen])
        for i, image in zip(chosen, self._transform_all([leaves[i] for i in chosen], params), strict=True):
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
                stacklevel=3,
            )
        return chosen

    def _transform_all(self, images: list[Any], params: dict[str, Any]) -> list[Any]:
        """Purify images together, one batch for each shape, dtype and device among them."""
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return self._transform_groups(images, params)

    def _transform_groups(self, images: list[Any], params: dict[str, Any]) -> list[Any]:
        batches, rewraps = zip(*(unwrap(image) for image in images), strict=True)
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
            purified = self._purify_batch(
                _joined([batches[i] for i in members]), params["seed"], _joined([ids[i] for i in members])
            )
            for i, pixels in zip(members, purified.split([len(batches[i]) for i in members]), strict=True):
                out[i] = rewraps[i](pixels)
        return out

    def _purify_batch(self, pixels: Tensor, seed: int, ids: Tensor) -> Tensor:
        """Chunk by chunk, from dtype to dtype, so that everything between stays in a cache or in bounded memory."""
        device = torch.device(self.device or pixels.device)
        check_not_forked_cuda(device)
        self._follow(device)
        noise = KeyedNoise(seed, ids.to(device))
        size = self._auto_chunk(pixels) if self.chunk_size == "auto" else self.chunk_size
        if size >= len(pixels):
            return self._purify_part(pixels, noise, device).to(pixels)
        out = torch.empty_like(pixels)
        for part in (slice(i, i + size) for i in range(0, len(pixels), size)):
            out[part] = self._purify_part(pixels[part], noise[part], device)
        return out

    def _purify_part(self, pixels: Tensor, noise: KeyedNoise, device: torch.device) -> Tensor:
        y = self._purify_channels(to_unit(pixels.to(device)), noise)
        return self._quantize(y) if pixels.dtype == torch.uint8 else y

    def _auto_chunk(self, pixels: Tensor) -> int:
        """Images in a chunk: all of them on a GPU, on a CPU as many as stay in a core's cache."""
        return len(pixels) if pixels.is_cuda else max(1, _CACHED_PIXELS // pixels[0, 0].numel())

    def _purify_channels(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        if self.channels in (None, x.shape[1]):
            return self.purify(x, noise)
        if x.shape[1] != 1:
            raise NoImageError(
                f"{type(self).__name__} expected {self.channels} channels (or 1), got {x.shape[1]}: "
                "split alpha and other extra channels off first."
            )
        return self.purify(x.expand(-1, self.channels, -1, -1), noise).mean(1, keepdim=True)

    def _follow(self, device: torch.device) -> None:
        tensor = next((t for group in (self.parameters(), self.buffers()) for t in group), None)
        if tensor is not None and tensor.device != device:
            self.to(device)


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

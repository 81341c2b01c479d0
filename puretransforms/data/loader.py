"""Transforms on the GPU after the batch: copied and transformed on a side stream, one batch ahead of training."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from ..functional.shapes import Tensor


class GPUTransformLoader:
    """Wrap a ``DataLoader`` so that its batches arrive on ``device``, transformed.

    Workers decode and collate on the CPU; each batch is then copied and transformed on a side CUDA stream while the
    model trains on the batch before it. Forked workers cannot use CUDA, so a GPU transform belongs here and not in the
    dataset. Create the loader with ``pin_memory=True``: only copies from pinned memory overlap with computation.
    On any other device the transform is applied plainly. The values are those of ``transform(batch)`` on that device;
    a transform without a seed of its own makes its draws one batch ahead of those of the training step.

    Args:
        loader: yields batches: ``(images, labels)``, dicts, any nesting of tuples, lists and dicts. Every tensor
            moves to ``device``; all else stays.
        transform: called on each moved batch as a whole, such as a ``PureTransform``, which finds the images itself.
        device: where to.

    >>> import torch
    >>> data = torch.utils.data.TensorDataset(torch.rand(6, 3, 8, 8), torch.arange(6))
    >>> loader = torch.utils.data.DataLoader(data, batch_size=4)
    >>> [len(labels) for images, labels in GPUTransformLoader(loader, lambda batch: batch, device="cpu")]
    [4, 2]
    """

    def __init__(
        self, loader: Iterable[Any], transform: Callable[[Any], Any], device: torch.device | str = "cuda"
    ) -> None:
        self.loader = loader
        self.transform = transform
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        if self.device.type == "cuda":
            return self._one_ahead()
        return (self.transform(self._moved(batch)) for batch in self.loader)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the loader has: ``dataset``, ``batch_size``, ``sampler``, ..."""
        if name == "loader" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.loader, name)

    def _moved(self, batch: Any) -> Any:
        if isinstance(batch, Mapping) and not isinstance(batch, dict):
            batch = dict(batch)  # no pytree node: its tensors would stay behind
        return tree_map(lambda x: x.to(self.device, non_blocking=True) if isinstance(x, Tensor) else x, batch)

    def _one_ahead(self) -> Iterator[Any]:
        """Batch ``n + 1`` is queued on the side stream before batch ``n`` is handed over."""
        with torch.cuda.device(self.device):
            side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream(self.device))  # weights of the transform may still be on their way
        ready = None
        for batch in self.loader:
            queued = self._queue(batch, side)
            if ready is not None:
                yield self._hand_over(*ready)
            ready = queued
        if ready is not None:
            yield self._hand_over(*ready)

    def _queue(self, batch: Any, side: Any) -> tuple[Any, Any]:
        with torch.cuda.device(self.device), torch.cuda.stream(side):
            out = self.transform(self._moved(batch))
            return out, side.record_event()

    def _hand_over(self, batch: Any, done: Any) -> Any:
        """Make the consumer's stream wait for this batch alone, and keep its memory until that stream is past it."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(done)
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor) and leaf.is_cuda:
                leaf.record_stream(stream)
        return batch

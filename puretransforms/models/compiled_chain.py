"""The Langevin chain through ``torch.compile``: noise, gradient and update in one graph; on CUDA, a CUDA graph.

The states are those of :func:`~puretransforms.functional.langevin.langevin_chain` to float rounding. A compiled step is
made for one number of rows, and making one takes long: the first has the rows of the first batch, smaller batches (the
last of a data set) are filled up to a size that there is, and larger ones to the next power of two.
"""

from collections.abc import Callable
from copy import deepcopy
from threading import Lock
from typing import Any

import torch
from torch.nn import Module

from ..errors import CompilationError
from ..functional.langevin import langevin_step
from ..functional.random import KeyedNoise, NormalStream
from ..functional.shapes import Float, Tensor


class CompiledChain:
    """Langevin chains of one network, from the start to the last state; to be called like a function.

    What was compiled and captured is kept for later calls, in memory alone: a copy or a pickle starts without. Calls
    may come from any thread and stream, and take turns. On CUDA the activations of every size stay allocated, and the
    host does not wait for the device between the first step and the last.
    """

    def __init__(self) -> None:
        self._net: Module | None = None
        self._kind: Any = None
        self._steps: dict[Any, dict[int, _CompiledStep]] = {}
        self._turn = Lock()
        self._done: torch.cuda.Event | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def __call__(
        self,
        net: Module,
        x: Float[Tensor, "b c h w"],
        noise: KeyedNoise,
        *,
        steps: int,
        step_size: float,
        temperature: float,
        first_step: int = 0,
    ) -> Float[Tensor, "b c h w"]:
        """The last state of ``langevin_chain`` with the same arguments, without a gradient.

        Args:
            net: the energy, frozen, ``[B, C, H, W] -> [B]``; gets its images in the dtype of its first parameter.
                Its parameters may change from call to call, its layers are compiled once.
            x: start, in ``[-1, 1]``.
            noise: of the chain, as all that follows, for :func:`~puretransforms.functional.langevin.langevin_chain`.
            steps: number of steps.
            step_size: of a step.
            temperature: of the chain.
            first_step: number of the first noise stream.

        Raises:
            CompilationError: ``torch.compile`` does not work here, say for want of a C++ compiler.
        """
        first = next(net.parameters())
        with self._turn, torch.inference_mode(False), torch.no_grad(), torch.cuda.device_of(first):
            if self._done is not None:
                self._done.wait()  # another stream may still be at work on the buffers
            held = self._hold(net)
            sizes = self._steps.setdefault((x.shape[1:], x.dtype, step_size, temperature), {})
            grown = 1 << max(len(x) - 1, 0).bit_length() if sizes else len(x)
            rows = min((size for size in sizes if size >= len(x)), default=grown)
            if rows not in sizes:
                sizes[rows] = _CompiledStep(held, (rows, *x.shape[1:]), x.dtype, step_size, temperature)
            final = sizes[rows].run(x, noise, steps, first_step)
            if first.is_cuda:
                self._done = torch.cuda.Event()
                self._done.record()
            return final

    def _hold(self, net: Module) -> Module:
        """The network of all calls, with the parameters of this one: a graph is bound to their places in memory."""
        kind = repr(net), [(p.shape, p.dtype, p.device) for p in net.parameters()]
        if self._net is None or kind != self._kind:
            self._net, self._kind, self._steps = deepcopy(net), kind, {}
        for ours, theirs in zip(self._net.parameters(), net.parameters(), strict=True):
            ours.copy_(theirs)
        return self._net


class _CompiledStep:
    """One Langevin step for one shape, between buffers that stay where they are."""

    def __init__(
        self, net: Module, shape: tuple[int, ...], dtype: torch.dtype, step_size: float, temperature: float
    ) -> None:
        first = next(net.parameters())
        self.x = torch.zeros(shape, dtype=dtype, device=first.device).contiguous(memory_format=torch.channels_last)
        self.stream = NormalStream(shape[0], shape[1:], first.device)
        self.arguments = net, first.dtype, step_size, temperature
        self.step = _compiled(_step)
        self.advance: Callable[[], None] | None = None

    def run(self, x: Tensor, noise: KeyedNoise, steps: int, first_step: int) -> Tensor:
        if self.advance is None:
            self.advance = self._first()
        self.x[: len(x)].copy_(x)
        self.x[len(x) :].zero_()
        self.stream.seek(noise, first_step)
        for _ in range(steps):
            self.advance()
        return self.x[: len(x)].clone(memory_format=torch.channels_last)

    def _advance(self) -> None:
        self.x.copy_(self.step(self.x, self.stream, *self.arguments))
        self.stream.advance()

    def _first(self) -> Callable[[], None]:
        """Compile; what makes a step from now on."""
        try:
            if self.x.is_cuda:
                return _captured(self._advance)
            self._advance()
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CompilationError(
                f"expected torch.compile to work here, as compiled=True needs it, got {reason.rstrip('.')}: install a "
                "C++ compiler such as g++ (for a GPU also Triton), or leave compiled=False."
            ) from error
        return self._advance


def _step(
    x: Tensor, stream: NormalStream, net: Module, dtype: torch.dtype, step_size: float, temperature: float
) -> Tensor:
    gradient = torch.func.grad(lambda y: net(y.to(dtype)).sum())(x)
    return langevin_step(x, gradient, stream.normal().to(x.dtype), step_size, temperature)


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, dynamic=False)


def _captured(work: Callable[[], None]) -> Callable[[], None]:
    """``work`` on CUDA as a graph: run three times to warm up, as torch asks for, then captured; what replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):  # other threads may be pinning memory
        work()
    return graph.replay

"""The compiled chain without its compiler: the same states, one step for many batches, and nothing left in Python.

``torch.compile`` itself runs in tests/transforms/test_ebm_compiled.py.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

from puretransforms.functional.langevin import langevin_chain
from puretransforms.functional.random import KeyedNoise
from puretransforms.models import compiled_chain as compiled
from puretransforms.models.compiled_chain import CompiledChain
from puretransforms.models.energy import FoldedEnergyNet

SETTINGS = {"steps": 4, "step_size": 1.25e-2, "temperature": 1e-5}


@pytest.fixture(autouse=True)
def made(monkeypatch) -> list:
    """The functions that were handed to the compiler."""
    functions: list = []
    monkeypatch.setattr(compiled, "_compiled", lambda function: (functions.append(function), function)[1])
    return functions


def network(seed: int = 0) -> FoldedEnergyNet:
    torch.manual_seed(seed)
    return FoldedEnergyNet(4).requires_grad_(False)


def images(n: int, size: int = 8) -> torch.Tensor:
    x = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9
    return x.contiguous(memory_format=torch.channels_last)


def noise(n: int) -> KeyedNoise:
    return KeyedNoise(0, torch.arange(n))


def last(net, x, draws, **settings) -> torch.Tensor:
    return list(langevin_chain(net, x, draws, **SETTINGS | settings))[-1]


def test_the_last_state_is_that_of_the_chain():
    net, chain = network(), CompiledChain()
    for first_step, n in ((0, 5), (4, 5), (0, 3)):
        want = last(net, images(n), noise(n), first_step=first_step)
        found = chain(net, images(n), noise(n), **SETTINGS, first_step=first_step)
        assert torch.allclose(found, want, rtol=0, atol=1e-6) and found.stride() == want.stride()
    assert torch.equal(chain(net, images(2), noise(2), **SETTINGS | {"steps": 0}), images(2))
    assert (want - images(3)).abs().mean() > 0.01


def test_a_smaller_batch_fills_up_a_step_that_there_is(made):
    net, chain = network(), CompiledChain()
    wants = {n: last(net, images(n), noise(n)) for n in (1, 5, 6, 8, 9)}
    for n, steps in ((6, 1), (5, 1), (8, 2), (6, 2), (1, 2), (9, 3), (1, 3)):
        assert torch.allclose(chain(net, images(n), noise(n), **SETTINGS), wants[n], rtol=0, atol=1e-6)
        assert len(made) == steps, n
    assert [list(sizes) for sizes in chain._steps.values()] == [[6, 8, 16]], "the first as it is, then powers of two"
    chain(net, images(2, 16), noise(2), **SETTINGS)
    assert len(made) == 4, "another image size is another step"
    chain(net, images(2), noise(2), **SETTINGS | {"temperature": 1e-4})
    assert len(made) == 5
    assert chain(net, images(0), noise(0), **SETTINGS).shape == (0, 3, 8, 8)


def test_new_weights_need_no_new_step_and_no_network_is_written_to(made):
    chain, nets = CompiledChain(), [network(0), network(1)]
    before = [[p.clone() for p in net.parameters()] for net in nets]
    for net in (*nets, nets[0]):
        found = chain(net, images(4), noise(4), **SETTINGS)
        assert torch.allclose(found, last(net, images(4), noise(4)), rtol=0, atol=1e-6)
    assert len(made) == 1
    for net, parameters in zip(nets, before, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), parameters, strict=True))
    with torch.no_grad():
        nets[0].head.weight.data.mul_(3)
    assert not torch.allclose(chain(nets[0], images(4), noise(4), **SETTINGS), found, rtol=0, atol=1e-3)
    wide = FoldedEnergyNet(8).requires_grad_(False)
    assert torch.allclose(
        chain(wide, images(4), noise(4), **SETTINGS), last(wide, images(4), noise(4)), rtol=0, atol=1e-6
    )
    assert len(made) == 2


def test_threads_take_turns():
    net, chain, draws = network(), CompiledChain(), noise(8)
    batches = [images(8, 16) * factor for factor in (0.1, 0.4, 0.7, 1.0)]
    wants = [last(net, batch, draws) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: chain(net, batch, draws, **SETTINGS), batches * 3))
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(found, wants * 3, strict=True))


class Tape(TorchDispatchMode):
    """What a CUDA graph keeps of some work: its operations on fixed memory, and no line of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        made: dict = {}
        for operation, args, kwargs, out in self.operations:
            args, kwargs = tree_map_only(torch.Tensor, lambda t: made.get(id(t), t), (args, kwargs))
            new = operation(*args, **kwargs)
            tree_map(lambda a, b: made.__setitem__(id(a), b) if isinstance(a, torch.Tensor) else None, out, new)


def test_a_step_that_was_recorded_once_replays_as_every_other(made):
    net, chain = network(), CompiledChain()
    chain(net, images(4), noise(4), **SETTINGS | {"steps": 0})
    (sizes,) = chain._steps.values()
    (step,) = sizes.values()
    with torch.no_grad(), Tape() as tape:
        step._advance()
    assert len(tape.operations) > 30
    step.advance = tape.replay
    for settings in ({}, {"steps": 7, "first_step": 11}):
        found = chain(net, images(4), noise(4), **SETTINGS | settings)
        assert torch.allclose(found, last(net, images(4), noise(4), **settings), rtol=0, atol=1e-6)
    assert len(made) == 1


def test_no_chain_waits_for_the_device(monkeypatch):
    """A fake tensor has no values: whatever asks for one, as ``item``, ``if`` and ``nonzero`` do, raises."""
    monkeypatch.setattr(compiled, "deepcopy", lambda net: net)  # fake tensors cannot be copied so
    with FakeTensorMode():
        net, x, draws = network(), torch.zeros(4, 3, 8, 8), noise(4)
        for ask in (lambda: float(x.sum()), lambda: bool((x > 0).any()), x.nonzero):
            with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
                ask()
        assert last(net, x, draws).shape == x.shape
        chain = CompiledChain()
        for n in (4, 3):
            assert chain(net, x[:n], draws[:n], **SETTINGS).shape == (n, 3, 8, 8)


def test_other_errors_than_those_of_the_compiler_are_not_renamed(monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(compiled, "_compiled", lambda function: fail)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        CompiledChain()(network(), images(2), noise(2), **SETTINGS)

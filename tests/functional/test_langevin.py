"""Langevin dynamics against a plain transcription, against the law it must sample, and in every grad mode."""

import weakref

import numpy as np
import pytest
import torch

from puretransforms.functional.langevin import energy_gradient, langevin_chain, langevin_step
from puretransforms.functional.random import KeyedNoise
from puretransforms.models.energy import EnergyNet, FoldedEnergyNet

EPS, TEMPERATURE = 1.25e-2, 1e-4


def noise(n: int = 3, seed: int = 0) -> KeyedNoise:
    return KeyedNoise(seed, torch.arange(n))


def images(n: int = 3, size: int = 8, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype) * 1.8 - 0.9


def bowl(x: torch.Tensor) -> torch.Tensor:
    """An energy whose gradient is known: ``sum(a x**2 / 2 + b x**4 / 4)``."""
    return (0.3 * x.square() / 2 + 0.2 * x.pow(4) / 4).flatten(1).sum(1)


def test_a_step_is_the_published_formula():
    x, gradient, z = (torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(3))
    want = x.numpy() - EPS**2 / (2 * TEMPERATURE) * gradient.numpy() + EPS * z.numpy()
    np.testing.assert_allclose(langevin_step(x, gradient, z), want, rtol=0, atol=1e-14)
    single = langevin_step(x.float(), gradient.float(), z.float())
    np.testing.assert_allclose(single, want, rtol=0, atol=1e-6)
    colder = langevin_step(x, gradient, z * 0, step_size=0.02, temperature=5e-5)
    np.testing.assert_allclose(colder, x - 4.0 * gradient, rtol=0, atol=1e-14)


def test_ten_steps_equal_a_plain_loop_with_a_gradient_by_hand():
    x, draws = images(dtype=torch.float64), noise()
    y = x.numpy().copy()
    chain = langevin_chain(bowl, x, draws, steps=10)
    single = langevin_chain(bowl, x.float(), draws, steps=10)
    for t, (state, state32) in enumerate(zip(chain, single, strict=True)):
        y = y - EPS**2 / (2 * TEMPERATURE) * (0.3 * y + 0.2 * y**3) + EPS * draws.normal(t, 3, 8, 8).double().numpy()
        np.testing.assert_allclose(state, y, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state32, y, rtol=0, atol=1e-6)
    assert t == 9


@pytest.mark.parametrize("make", [lambda: EnergyNet(8), lambda: FoldedEnergyNet(8)])
def test_ten_steps_of_a_network_equal_a_plain_float64_loop(make):
    torch.manual_seed(0)
    net, x, draws = make(), images(), noise()
    twin = make().double()
    twin.load_state_dict(net.state_dict())
    found = list(langevin_chain(net, x, draws, steps=10))[-1]
    for i in range(3):  # image by image, gradients by backward()
        y = x[i].double()
        for t in range(10):
            leaf = y.clone().requires_grad_()
            twin(leaf[None])[0].backward()
            y = y - EPS**2 / (2 * TEMPERATURE) * leaf.grad + EPS * draws.normal(t, 3, 8, 8)[i].double()
        np.testing.assert_allclose(found[i], y, rtol=0, atol=1e-6)
    assert (found - x).abs().max() > 0.01


def test_the_chain_samples_its_gaussian():
    """For ``f = temperature * x**2 / (2 s**2)`` a step is an AR(1) process whose variance is known exactly."""
    s = 0.05
    pull = EPS**2 / (2 * s**2)
    start = torch.zeros(8, 3, 24, 24)
    chain = langevin_chain(
        lambda x: TEMPERATURE * x.square().flatten(1).sum(1) / (2 * s**2), start, noise(8), steps=200
    )
    final = list(chain)[-1]
    assert final.var() == pytest.approx(EPS**2 / (1 - (1 - pull) ** 2), rel=0.05)
    assert abs(final.mean()) < 0.003


def test_a_chain_goes_on_where_it_stopped():
    x = images()
    whole = list(langevin_chain(bowl, x, noise(), steps=7))
    head = list(langevin_chain(bowl, x, noise(), steps=3))
    tail = list(langevin_chain(bowl, head[-1], noise(), steps=4, first_step=3))
    assert all(torch.equal(a, b) for a, b in zip(whole, head + tail, strict=True))
    assert list(langevin_chain(bowl, x, noise(), steps=0)) == []


def test_a_row_depends_on_its_own_noise_and_image_alone():
    x, draws = images(5), noise(5)
    whole = list(langevin_chain(bowl, x, draws, steps=4))[-1]
    some = torch.tensor([3, 0])
    assert torch.equal(list(langevin_chain(bowl, x[some], draws[some], steps=4))[-1], whole[some])
    other = list(langevin_chain(bowl, x, noise(5, seed=1), steps=4))[-1]
    assert (other - whole).abs().mean() > 0.005


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_grad_mode_gives_the_same_states_and_keeps_no_graph(mode):
    torch.manual_seed(0)
    net, x = FoldedEnergyNet(4), images()
    want = list(langevin_chain(net, x, noise(), steps=3))[-1]
    with mode():
        found = list(langevin_chain(net, x + 0, noise(), steps=3))[-1]
    assert torch.equal(found, want) and not found.requires_grad
    assert all(p.grad is None for p in net.parameters()) and not x.requires_grad


def test_memory_does_not_grow_with_the_steps():
    torch.manual_seed(0)
    net, alive = FoldedEnergyNet(4), []
    for state in langevin_chain(net, images(), noise(), steps=6):
        alive.append(weakref.ref(state))
        assert sum(ref() is not None for ref in alive) <= 2
    assert len(alive) == 6


def test_gradients_flow_through_the_chain_where_they_are_wanted():
    x = images(dtype=torch.float64).requires_grad_()
    final = list(langevin_chain(lambda y: 0.05 * y.square().flatten(1).sum(1), x, noise(), steps=5))[-1]
    final.sum().backward()
    want = (1 - EPS**2 / (2 * TEMPERATURE) * 0.1) ** 5
    assert torch.allclose(x.grad, torch.full_like(x, want), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda y: energy_gradient(bowl, y), x[:1, :, :2, :2].detach().requires_grad_())

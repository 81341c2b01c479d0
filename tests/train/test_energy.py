"""Training of energies: the scale they learn, what they learn to tell apart, and that a break changes no bit."""

import math
from itertools import islice

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from puretransforms.errors import DivergenceError, NoImageError
from puretransforms.functional.langevin import energy_gradient
from puretransforms.models.energy import EnergyNet, FoldedEnergyNet
from puretransforms.train.energy import cosine, denoising_score_matching, maximum_likelihood, staircase


@pytest.fixture(scope="module")
def waves() -> torch.Tensor:
    """300 smooth, colourful uint8 images ``[3, 16, 16]``."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16), indexing="ij")
    a, b, phase = torch.randn(3, 300, 3, 1, 1, generator=generator) * 3
    return ((a * x + b * y + phase).sin() * 110 + 128).to(torch.uint8)


def net(kind: type = FoldedEnergyNet, nf: int = 8) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(nf)


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Bowl(nn.Module):
    """``k / 2 * |x - centre|**2``: the exact energy of a data set of one image."""

    def __init__(self, centre: torch.Tensor) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.zeros(()))
        self.register_buffer("centre", centre)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.k / 2 * (x - self.centre).square().flatten(1).sum(1)


@pytest.mark.parametrize(("step_size", "temperature", "removal"), [(1.25e-2, 1e-4, 0.5), (0.02, 2e-4, 0.25)])
def test_the_drift_of_a_purifier_removes_the_fraction_asked_for(step_size, temperature, removal):
    image = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    model = Bowl(image / 127.5 - 1)
    settings = {"step_size": step_size, "temperature": temperature, "removal": removal}
    first, *_, last = denoising_score_matching(model, image, updates=200, lr=0.05, **settings)
    assert first.loss == pytest.approx(1, rel=0.1) and last.loss < 1e-3
    assert step_size**2 / (2 * temperature) * float(model.k.detach()) == pytest.approx(removal, rel=0.01)


def test_a_few_seconds_of_score_matching_rank_noisy_images_higher_and_denoise_them(waves):
    model = net(nf=16)
    records = list(denoising_score_matching(model, waves, updates=150, batch_size=16, lr=3e-3))
    assert sum(r.loss for r in records[-20:]) / 20 < 0.7 < sum(r.loss for r in records[:5]) / 5
    assert [r.step for r in records] == list(range(1, 151)) and records[0].lr == 3e-3 > records[-1].lr > 0
    x = waves[:64] / 127.5 - 1
    bumps = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)) * 0.1
    with torch.no_grad():
        clean, noisy = model(x), model(x + bumps)
    assert (noisy > clean).double().mean() > 0.95
    drift = 0.78125 * energy_gradient(model, x + bumps)
    assert torch.cosine_similarity(drift.flatten(1), bumps.flatten(1)).mean() > 0.5
    assert (bumps - drift).norm() < 0.95 * bumps.norm()


def test_maximum_likelihood_lowers_the_energy_of_data(waves):
    torch.manual_seed(3)
    model, global_state = net(EnergyNet), torch.get_rng_state()
    records = list(
        maximum_likelihood(
            model, waves, updates=25, batch_size=16, bank_size=64, chain_steps=5, lr=1e-3, schedule=lambda progress: 1.0
        )
    )
    assert torch.equal(torch.get_rng_state(), global_state)
    assert sum(r.loss for r in records[-5:]) < sum(r.loss for r in records[:5])
    assert all(r.drift > 0 for r in records)
    states = records[-1].state()["bank"]
    assert states.shape == (64, 3, 16, 16) and states.dtype == torch.float32
    x = waves[:64] / 127.5 - 1
    assert 0 < (states.sort(0).values - x.sort(0).values).abs().mean() < 0.5


def test_the_bank_starts_as_data_and_keeps_chains_or_restarts(waves):
    one, x = waves[:1], waves[:1] / 127.5 - 1
    settings = {"updates": 1, "batch_size": 4, "bank_size": 4, "data_noise": 0.0}
    model = net(EnergyNet)
    drift = 0.78125 * energy_gradient(model, x).norm()
    (record,) = maximum_likelihood(model, one, chain_steps=1, rejuvenation=0.0, **settings)
    assert record.drift == pytest.approx(float(drift), rel=1e-4)
    moved = record.state()["bank"] - x
    assert 0.9 * 0.0125 < moved.std() < 1.5 * 0.0125  # one step from the image, in every slot
    (record,) = maximum_likelihood(net(EnergyNet), one, chain_steps=1, rejuvenation=1.0, **settings)
    assert torch.equal(record.state()["bank"], x.expand(4, -1, -1, -1))
    (record,) = maximum_likelihood(net(EnergyNet), one, chain_steps=0, **settings)
    assert record.loss == pytest.approx(0, abs=1e-2) and record.drift == 0
    noisy = settings | {"data_noise": 0.1, "batch_size": 1, "bank_size": 200}
    (record,) = maximum_likelihood(net(EnergyNet), one, chain_steps=0, **noisy)
    assert (record.state()["bank"] - x).std() == pytest.approx(0.1, rel=0.02)


RUNS = {
    "score": (denoising_score_matching, {"updates": 6, "batch_size": 5}),
    "score bf16": (denoising_score_matching, {"updates": 6, "batch_size": 5, "precision": torch.bfloat16}),
    "likelihood": (maximum_likelihood, {"updates": 6, "batch_size": 5, "bank_size": 12, "chain_steps": 2}),
    "likelihood bf16": (
        maximum_likelihood,
        {"updates": 6, "batch_size": 5, "bank_size": 12, "chain_steps": 2, "precision": torch.bfloat16},
    ),
}


@pytest.fixture(params=RUNS)
def run(request, waves):
    objective, settings = RUNS[request.param]
    return lambda model, **more: objective(model, waves, **settings | more)


def test_a_resumed_run_is_bit_equal_to_one_without_a_break(run):
    straight, broken = net(), net()
    whole = list(run(straight))
    first = list(islice(run(broken), 3))
    state = load(save(first[-1].state()))  # through the file format
    again = net()
    rest = list(run(again, state=state))
    assert [(r.step, r.loss, r.lr) for r in first + rest] == [(r.step, r.loss, r.lr) for r in whole]
    assert torch.equal(parameters(again), parameters(straight))
    left, right = rest[-1].state(), whole[-1].state()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert list(run(net(), state=left)) == []


def test_a_seed_fixes_everything_and_nothing_global_is_touched(run):
    results = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(disturbance)
        state, model = torch.get_rng_state(), net()
        records = run(model, seed=seed)
        assert torch.equal(parameters(model), parameters(net())), "nothing happens before the first record"
        losses = [record.loss for record in records]
        assert torch.equal(torch.get_rng_state(), state)
        results.append((losses, parameters(model)))
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])
    assert results[0][0] != results[2][0]


def test_training_works_under_no_grad_and_leaves_the_mode_alone(run):
    model, twin = net(), net().requires_grad_(False)
    whole = [record.loss for record in run(model)]
    with torch.no_grad():
        found = []
        for record in run(twin):
            assert not torch.is_grad_enabled()
            found.append(record.loss)
    assert found == whole


def test_a_loss_that_is_not_finite_stops_the_run_before_it_harms_the_net(run):
    model = net()
    records = run(model, lr=1e30, schedule=lambda progress: 1.0)
    before = parameters(model)
    with pytest.raises(DivergenceError, match=r"got (nan|inf|-inf) at update \d .*lower lr"):
        for _ in records:
            before = parameters(model)
    assert torch.equal(parameters(model), before) and math.isfinite(float(before.sum()))


def test_augmentation_is_applied_to_the_drawn_batch(waves):
    seen = []

    def blank(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append((batch.dtype, len(batch), generator))
        return torch.full_like(batch, 128)

    image = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)
    blanked = [r.loss for r in denoising_score_matching(net(), waves, updates=2, batch_size=3, augment=blank)]
    plain = [r.loss for r in denoising_score_matching(net(), image.repeat(300, 1, 1, 1), updates=2, batch_size=3)]
    assert blanked == plain and [entry[:2] for entry in seen] == [(torch.uint8, 3)] * 2


@pytest.mark.parametrize("bad", [torch.rand(4, 3, 8, 8), torch.zeros(3, 8, 8).byte(), torch.zeros(4, 1, 8, 8).byte()])
def test_images_that_are_not_a_uint8_batch_are_refused(bad):
    for objective in (denoising_score_matching, maximum_likelihood):
        with pytest.raises(NoImageError, match=r"expected uint8 images \[N, 3, H, W\]"):
            next(objective(net(), bad, updates=1))


def test_settings_that_cannot_be_are_refused(waves):
    with pytest.raises(ValueError, match="batch_size"):
        next(denoising_score_matching(net(), waves, updates=1, batch_size=0))
    with pytest.raises(ValueError, match="bank_size of at least the batch_size 8, got 7"):
        next(maximum_likelihood(net(), waves, updates=1, batch_size=8, bank_size=7))
    with pytest.raises(ValueError, match=r"expected the state\(\) of a record"):
        next(denoising_score_matching(net(), waves, updates=1, state={"x": torch.zeros(1)}))


def test_schedules():
    assert (cosine(0.0), cosine(0.5), cosine(1.0)) == pytest.approx((1, 0.5, 0))
    assert [staircase(p) for p in (0.0, 0.3, 0.34, 0.63, 0.9)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])

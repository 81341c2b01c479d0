"""The fit of D-VAE: one update by hand, the schedule, the two stages, and that a break changes no bit."""

import math
from itertools import islice

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from puretransforms.errors import DivergenceError, LabelError, NoImageError
from puretransforms.models.dvae import DVAE, RateVAE
from puretransforms.train.dvae import fit_dvae, without_perturbation
from puretransforms.train.rate import PUBLISHED, SHORT, FitSchedule, fit_stage

TINY = FitSchedule(epochs=2, batch_size=6, lr=1e-3)


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """20 uint8 images ``[3, 16, 16]`` and labels of three classes."""
    images = torch.randint(0, 256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return images, torch.arange(20) % 3


def net(seed: int = 0, kind: type = DVAE) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(4, 6) if kind is RateVAE else kind(3, 4, 6, size=16)


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([t.detach().flatten().double() for t in model.state_dict().values()])


def test_an_update_is_adam_on_the_clipped_gradient_of_the_plain_loss(data):
    """By hand in float64: the loss of the paper, clipping, Adam's first step ``lr * g / (|g| + eps)``."""
    images, labels = data[0][:6], data[1][:6]
    model, twin = net(), net().double()
    schedule = FitSchedule(epochs=1, batch_size=6, lr=1e-3, table_lr=0.02, magnitude_from=0, max_norm=0.01)
    (record,) = fit_stage(model, images, labels, rate_limit=1.0, schedule=schedule)
    draws = torch.Generator().manual_seed(0)
    order = torch.randperm(6, generator=draws)
    stream = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, (), generator=draws)))
    noise = torch.randn(6, 8, 8, 6, generator=stream).permute(0, 3, 1, 2).double()
    x = images[order].double() / 255
    out = twin.train()(x, labels[order], noise)
    kld = 0.5 * (out.mu**2 + out.log_var.exp() - 1 - out.log_var).sum(1).mean()
    magnitude = (out.perturbation**2).mean()
    reconstruction = ((out.reconstruction - x) ** 2).mean()
    perturbed = (((out.reconstruction + out.perturbation).clamp(0, 1) - x) ** 2).mean()
    loss = reconstruction + perturbed + 0.01 * kld + magnitude
    assert kld.item() > 1 and magnitude.item() > 0.002
    want = [t.item() for t in (loss, reconstruction, perturbed, kld, magnitude)]
    got = [record.loss, record.reconstruction, record.perturbed, record.rate, record.magnitude]
    assert got == pytest.approx(want, rel=1e-5)
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in twin.parameters()))
    assert norm > 0.01
    for (name, p), q in zip(twin.named_parameters(), model.parameters(), strict=True):
        g = p.grad * 0.01 / norm
        step = (0.02 if name.startswith("table.") else 1e-3) * g / (g.abs() + 1e-8)
        large = g.abs() > 1e-7  # float32 leaves the sign of the others open
        assert torch.allclose((p.detach() - step)[large], q.detach().double()[large], rtol=0, atol=2e-5), name


def test_the_published_schedule_and_its_learning_rate(data):
    assert (PUBLISHED.epochs, PUBLISHED.rate_limits, PUBLISHED.batch_size, PUBLISHED.lr) == (60, (1.0, 3.0), 128, 5e-3)
    assert (PUBLISHED.table_lr, PUBLISHED.table_std) == (5e-3, 1.0)
    assert (PUBLISHED.magnitude_limit, PUBLISHED.magnitude_from, PUBLISHED.max_norm) == (0.002, 11, 5.0)
    assert SHORT.epochs < 20 and SHORT.rate_limits == PUBLISHED.rate_limits
    records = list(fit_stage(net(), *data, rate_limit=1.0, schedule=FitSchedule(epochs=4, batch_size=6, lr=1.0e-3)))
    assert [(r.step, r.epoch) for r in records] == [(i + 1, i // 3) for i in range(12)]
    want = [1e-3 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [r.lr for r in records[::3]] == pytest.approx(want) and records[2].lr == records[0].lr


def test_an_epoch_sees_every_image_once_and_leaves_out_the_incomplete_batch(data):
    seen = []

    def note(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(batch.clone())
        return batch

    list(fit_stage(net(kind=RateVAE), data[0], rate_limit=1.0, schedule=TINY, augment=note))
    assert [len(batch) for batch in seen] == [6] * 6
    epochs = [torch.cat(seen[i : i + 3]).flatten(1) for i in (0, 3)]
    assert all(len(epoch.unique(dim=0)) == 18 for epoch in epochs) and not torch.equal(*epochs)


def test_the_magnitude_counts_from_its_epoch_on(data):
    images, labels = data
    for start, late in ((0, [True, True]), (1, [False, True]), (2, [False, False])):
        schedule = FitSchedule(epochs=2, batch_size=20, magnitude_from=start, lr=1e-6, table_lr=1e-6)
        found = []
        for r in fit_stage(net(), images, labels, rate_limit=1.0, schedule=schedule):
            rest = r.loss - r.reconstruction - r.perturbed - 0.01 * max(r.rate, 1.0)
            found.append(rest == pytest.approx(max(r.magnitude, 0.002), rel=1e-3))
        assert found == late


def test_a_few_seconds_of_fitting_lower_the_distortion_and_the_rate(data):
    torch.manual_seed(3)
    state, model = torch.get_rng_state(), net()
    smooth = nn.functional.interpolate(data[0][..., :3, :3].float(), 16, mode="bilinear").to(torch.uint8)
    schedule = FitSchedule(epochs=30, batch_size=10)
    records = list(fit_stage(model, smooth, data[1], rate_limit=0.5, schedule=schedule))
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(r.reconstruction for r in records[-5:]) < 0.9 * sum(r.reconstruction for r in records[:5])
    assert records[-1].rate < 0.5 * records[0].rate


# --- breaks -----------------------------------------------------------------------------------------------------------


def flat(records: list) -> list[tuple]:
    return [(r.stage, r.step, r.loss, r.rate, r.lr) for r in records]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stop", [2, 6, 8])  # within the first stage, at its end, within the second
def test_a_resumed_fit_is_bit_equal_to_one_without_a_break(data, precision, stop):
    options = {"schedule": TINY, "precision": precision, "seed": 3}
    straight, broken, again = ((net(0), net(1)) for _ in range(3))
    whole = list(fit_dvae(*straight, *data, **options))
    first = list(islice(fit_dvae(*broken, *data, **options), stop))
    state = load(save(first[-1].state()))  # through the file format
    rest = list(fit_dvae(*again, *data, **options, state=state))
    assert flat(first + rest) == flat(whole) and [r.stage for r in whole] == [0] * 6 + [1] * 6
    for a, b in zip(again, straight, strict=True):
        assert torch.equal(parameters(a), parameters(b))
    left, right = rest[-1].state(), whole[-1].state()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    finished = net(5), net(6)
    assert list(fit_dvae(*finished, *data, **options, state=left)) == []
    assert torch.equal(parameters(finished[0]), parameters(straight[0]))


def test_the_plateau_ends_a_stage_early_and_a_resumed_run_ends_with_it(data):
    images, labels = data
    options = {"rate_limit": 1.0, "schedule": FitSchedule(epochs=12, batch_size=10, lr=1e-9, table_lr=0.0, plateau=0.5)}
    records = list(fit_stage(net(), images, labels, **options))
    assert records[-1].epoch == 5 and records[-1].updates == 24  # five epochs to compare with the one before
    first = list(islice(fit_stage(net(), images, labels, **options), 7))
    assert flat(list(fit_stage(net(), images, labels, **options, state=first[-1].state()))) == flat(records[7:])
    never = FitSchedule(epochs=12, batch_size=10, lr=1e-9, table_lr=0.0, plateau=None)
    assert len(list(fit_stage(net(), images, labels, rate_limit=1.0, schedule=never))) == 24


def test_a_seed_fixes_everything(data):
    losses = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(disturbance)
        losses.append([r.loss for r in fit_stage(net(), *data, rate_limit=1.0, schedule=TINY, seed=seed)])
    assert losses[0] == losses[1] != losses[2]


# --- the stages -------------------------------------------------------------------------------------------------------


def test_the_second_stage_is_fitted_to_what_the_first_one_leaves(data):
    images, labels = data
    a, b = net(0), net(1)
    records = list(fit_dvae(a, b, images, labels, schedule=TINY, seed=3))
    with torch.no_grad():
        p = a.eval()(images / 255, labels).perturbation
        by_hand = (images / 255 - p).clamp(0, 1).mul(255).round().to(torch.uint8)
    cleaned = without_perturbation(a, images, labels)
    assert ((cleaned.int() - by_hand.int()).abs() <= 1).all() and (cleaned != images).double().mean() > 0.5
    alone = net(1)
    second = list(fit_stage(alone, cleaned, labels, rate_limit=3.0, schedule=TINY, seed=4))
    assert [r.loss for r in second] == [r.loss for r in records[6:]]
    assert torch.equal(parameters(alone), parameters(b))


def test_what_lies_between_the_stages_is_rounded_and_sampled_on_request(data):
    images, labels = data
    model = net().eval()
    with torch.no_grad():
        model.perturbation_decoder.conv3.weight.zero_()
        model.perturbation_decoder.conv3.bias.fill_(0.3 / 255)  # truncation would take a whole level
    assert torch.equal(without_perturbation(model, images, labels), images)
    model = net()
    one, two, mean = (without_perturbation(model, images, labels, seed=seed) for seed in (0, 1, None))
    assert torch.equal(one, without_perturbation(model, images, labels, seed=0))
    assert not torch.equal(one, two) and not torch.equal(one, mean)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_fit_that_blows_up_stops_before_it_harms_the_weights(data):
    model = net()
    records = fit_stage(model, *data, rate_limit=1.0, schedule=FitSchedule(epochs=5, batch_size=6, lr=1e30))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(DivergenceError, match=r"finite loss and gradient, got .* at update \d+ .*lower lr"):
        for _ in records:
            before = [p.detach().clone() for p in model.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(bool(p.isfinite().all()) for p in before)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(20), "one integer label"),
        (torch.zeros(19, dtype=torch.int64), "one integer label"),
        (torch.full((20,), 3), "from 0 to 2, got 3"),
        (torch.full((20,), -1), "from 0 to 2, got -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(data, labels, message):
    with pytest.raises(LabelError, match=message):
        next(fit_stage(net(), data[0], labels, rate_limit=1.0, schedule=TINY))


def test_other_inputs_that_cannot_be_are_refused(data):
    with pytest.raises(LabelError, match="RateVAE"):
        next(fit_stage(net(kind=RateVAE), *data, rate_limit=1.0, schedule=TINY))
    with pytest.raises(NoImageError, match="uint8"):
        next(fit_stage(net(), data[0] / 255, data[1], rate_limit=1.0, schedule=TINY))
    with pytest.raises(ValueError, match="at least one batch of 128 images, got 20"):
        next(fit_stage(net(), *data, rate_limit=1.0))
    with pytest.raises(ValueError, match=r"expected the state\(\) of a record"):
        next(fit_dvae(net(), net(), *data, schedule=TINY, state={"x": torch.zeros(1)}))

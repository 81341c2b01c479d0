from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy

from puretransforms.errors import HardwareError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.availability.rem import REM, robust_loss, worst_of
from puretransforms.poisons.optimise import PGD, frozen, logits_of, loss_towards

TINY = {"on_cpu": True, "num_classes": 3, "width": 4, "train_steps": 2, "pgd_steps": 3, "views": 2, "inner_steps": 2}
INNER = PGD(4 / 255, 2 / 255, 3, ascend=True)


@pytest.fixture
def data():
    images = torch.randint(0, 256, (24, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(24) % 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SmallConvNet(3, width=4).eval()


def mirrored(x):
    return x.flip(3)


def test_a_cpu_is_refused_with_what_to_do(data):
    with pytest.raises(HardwareError, match=r"2,750,000 passes.*fit\(dataset, device='cuda'\)"):
        REM(num_classes=3).fit(data)
    assert REM(**TINY).fit(data).fitted


def test_a_view_keeps_the_fine_grain_of_the_noise():
    """A crop by whole pixels moves values and loses those outside; a sub-pixel shift would keep .386 of the energy."""
    signs = torch.randint(2, (400, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    seen = REM()._view(torch.Generator().manual_seed(1))(signs * 8 / 255)
    kept = seen.square().sum((1, 2, 3)) / (signs * 8 / 255).square().sum((1, 2, 3))
    assert kept.mean() == pytest.approx((1 - 20 / 9 / 32) ** 2, abs=0.01)  # .866
    assert set((seen * 255).round().unique().tolist()) == {-8.0, 0.0, 8.0}
    lost_rows = 32 - seen.abs().sum((1, 3)).gt(0).sum(1)
    assert set(lost_rows.tolist()) == set(range(5))  # 0 to 4 pixels
    shifts = [(dy, dx) for dy in range(-4, 5) for dx in range(-4, 5)]
    mirrored = 0
    for image, view in zip(signs.flip(3)[:40], seen.sign()[:40], strict=True):
        inner = view[:, 8:24, 8:24]
        mirrored += any(image.roll(shift, (1, 2))[:, 8:24, 8:24].equal(inner) for shift in shifts)
    assert 8 < mirrored < 32


def test_the_inner_ascent_starts_at_random_in_the_whole_ball(data, model, monkeypatch):
    starts, run = [], PGD.run

    def recorded(self, x, losses, start=None, *more):
        if self.ascend:
            starts.append((x, start))
        return run(self, x, losses, start, *more)

    monkeypatch.setattr(PGD, "run", recorded)
    poison = REM(**TINY)
    poison.fit(data, surrogate=model)
    assert len(starts) == 2 * (3 * 2 + 1) + 3 * 2  # two steps of training and the last sweep, each in one batch
    for x, start in starts:
        free = (x > 4 / 255) & (x < 1 - 4 / 255)  # elsewhere it is clipped
        inside = start[free] * 255 / 4
        assert inside.abs().max() <= 1 + 1e-5 and inside.std() == pytest.approx(3**-0.5, abs=0.02)
    assert not any(a.equal(b) for (_, a), (_, b) in pairwise(starts))


def test_the_loss_is_that_of_the_worst_point_of_the_view(data, model):
    x, y = data[0][:5] / 255, data[1][:5]
    with frozen(model):
        worst = mirrored(x) + worst_of(model, y, mirrored(x), INNER, torch.Generator().manual_seed(1))
        expected = cross_entropy(logits_of(model, worst), y, reduction="none")
        plain = loss_towards(model, y, mirrored)(x)
        robust = robust_loss(model, y, mirrored, INNER, torch.Generator().manual_seed(1))(x)
    torch.testing.assert_close(robust, expected)
    assert robust.mean() > plain.mean() and (worst - mirrored(x)).abs().max() <= 4 / 255 + 1e-6


def test_its_gradient_is_that_at_the_worst_point_pulled_back_through_the_view_alone(data, model):
    x, y = data[0][:5] / 255, data[1][:5]
    with frozen(model):
        worst = mirrored(x) + worst_of(model, y, mirrored(x), INNER, torch.Generator().manual_seed(1))
        worst.requires_grad_(True)
        expected = torch.autograd.grad(loss_towards(model, y)(worst).sum(), worst)[0].flip(3)
        x.requires_grad_(True)
        found = torch.autograd.grad(
            robust_loss(model, y, mirrored, INNER, torch.Generator().manual_seed(1))(x).sum(), x
        )[0]
    torch.testing.assert_close(found, expected)


def test_the_noise_lowers_the_robust_loss_of_the_network_that_made_it(data, model):
    images, labels = data
    x = images / 255
    poison = REM(**{**TINY, "pgd_steps": 8}, padding=0)
    with frozen(model):
        delta = poison._noise(model, x, labels, torch.Generator().manual_seed(0))
        robust = robust_loss(model, labels, lambda v: v, poison._inner(), torch.Generator().manual_seed(2))
        assert robust(x + delta).mean() < robust(x).mean()
    assert delta.abs().max() <= 8 / 255 + 1e-6


def test_the_users_surrogate_is_trained_and_put_back_as_it_was_otherwise(data, model):
    before = model.head.weight.detach().clone()
    poison = REM(**TINY).fit(data, surrogate=model)
    assert not model.head.weight.equal(before) and all(p.requires_grad for p in model.parameters())
    assert not poison.delta.equal(REM(**TINY).fit(data).delta)
    assert poison.delta.flatten(1).any(1).all()


def test_refusals():
    with pytest.raises(ValueError, match="at least 1"):
        REM(views=0)

import pytest
import torch
from torch.nn.functional import cross_entropy

from puretransforms.errors import HardwareError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.availability.rem import REM, robust_loss
from puretransforms.poisons.pgd import PGD, loss_towards
from puretransforms.poisons.surrogate import frozen, logits_of

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
    with pytest.raises(HardwareError, match=r"2,750,000 passes.*fit\(images.cuda\(\), labels.cuda\(\)\)"):
        REM(num_classes=3).fit(*data)
    assert REM(**TINY).fit(*data).fitted


def test_the_loss_is_that_of_the_worst_point_of_the_view(data, model):
    x, y = data[0][:5] / 255, data[1][:5]
    with frozen(model):
        worst = mirrored(x) + INNER.run(mirrored(x), [loss_towards(model, y)])
        expected = cross_entropy(logits_of(model, worst), y, reduction="none")
        plain = loss_towards(model, y, mirrored)(x)
        robust = robust_loss(model, y, mirrored, INNER)(x)
    torch.testing.assert_close(robust, expected)
    assert robust.mean() > plain.mean() and (worst - mirrored(x)).abs().max() <= 4 / 255 + 1e-6


def test_its_gradient_is_that_at_the_worst_point_pulled_back_through_the_view_alone(data, model):
    x, y = data[0][:5] / 255, data[1][:5]
    with frozen(model):
        worst = mirrored(x) + INNER.run(mirrored(x), [loss_towards(model, y)])
        worst.requires_grad_(True)
        expected = torch.autograd.grad(loss_towards(model, y)(worst).sum(), worst)[0].flip(3)
        x.requires_grad_(True)
        found = torch.autograd.grad(robust_loss(model, y, mirrored, INNER)(x).sum(), x)[0]
    torch.testing.assert_close(found, expected)


def test_the_noise_lowers_the_robust_loss_of_the_network_that_made_it(data, model):
    images, labels = data
    x = images / 255
    poison = REM(**{**TINY, "pgd_steps": 8}, max_shift=0.0)
    with frozen(model):
        delta = poison._noise(model, x, labels, torch.Generator().manual_seed(0))
        robust = robust_loss(model, labels, lambda v: v, poison._inner())
        assert robust(x + delta).mean() < robust(x).mean()
    assert delta.abs().max() <= 8 / 255 + 1e-6


def test_the_users_surrogate_is_trained_and_put_back_as_it_was_otherwise(data, model):
    before = model.head.weight.detach().clone()
    poison = REM(**TINY).fit(*data, surrogate=model)
    assert not model.head.weight.equal(before) and all(p.requires_grad for p in model.parameters())
    assert not poison.delta.equal(REM(**TINY).fit(*data).delta)
    assert poison.delta.flatten(1).any(1).all()


def test_refusals():
    with pytest.raises(ValueError, match="at least 1"):
        REM(views=0)

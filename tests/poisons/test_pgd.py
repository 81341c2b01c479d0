import pytest
import torch

from puretransforms.functional.perturbation import magnitude
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.pgd import PGD, gradient, loss_towards, shifted
from puretransforms.poisons.surrogate import frozen


@pytest.fixture
def x():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def towards(goal):
    return lambda x: (x - goal).square().flatten(1).sum(1)


def test_it_walks_to_the_nearest_point_of_the_ball_and_of_the_image_range(x):
    walk = PGD(epsilon=0.1, step=0.03, steps=10)
    delta = walk.run(x, [towards(2.0)])
    torch.testing.assert_close(x + delta, (x + 0.1).clamp(0, 1))
    unclipped = PGD(0.1, 0.03, 10, clip=False).run(x, [towards(2.0)])
    torch.testing.assert_close(unclipped, torch.full_like(x, 0.1))
    away = PGD(0.1, 0.03, 10, ascend=True).run(x, [towards(2.0)])
    torch.testing.assert_close(x + away, (x - 0.1).clamp(0, 1))


def test_a_step_is_one_step_and_a_warm_start_goes_on(x):
    x = x * 0.5 + 0.25
    two = PGD(0.1, 0.02, 2).run(x, [towards(2.0)])
    torch.testing.assert_close(two, torch.full_like(x, 0.04))
    torch.testing.assert_close(PGD(0.1, 0.02, 1).run(x, [towards(2.0)], start=two), torch.full_like(x, 0.06))
    assert PGD(0.1, 0.02, 0).run(x, [towards(2.0)], start=x + 1).max() <= 0.1 + 1e-6


def test_gradients_of_several_losses_are_averaged(x):
    mean = gradient(x, [towards(0.0), towards(1.0)])
    torch.testing.assert_close(mean, 2 * x - 1)


def test_the_random_start_is_a_clipped_normal(x):
    wide = torch.full((8, 3, 32, 32), 0.5)
    start = PGD(8 / 255, 0.1, 1).random_start(wide, torch.Generator().manual_seed(0))
    assert (magnitude(start, "linf") - 8 / 255).abs().max() < 1e-6
    assert ((start.abs() > 8 / 255 - 1e-6).double().mean() - 0.3173).abs() < 0.01  # P(|N(0, 1)| > 1)


def test_descent_lowers_cross_entropy_and_ascent_raises_it(x):
    torch.manual_seed(0)
    model, labels = SmallConvNet(5, width=4), torch.tensor([0, 1, 2, 3])
    loss = loss_towards(model, labels)
    with frozen(model):
        before = loss(x)
        down, up = (loss(x + PGD(8 / 255, 2 / 255, 5, ascend=side).run(x, [loss])) for side in (False, True))
    assert (down < before).all() and (up > before).all()
    seen = []
    with frozen(model):
        loss_towards(model, labels, lambda view: seen.append(view) or view * 0)(x)
    assert seen[0] is x


def test_the_target_map_shifts_labels_around():
    assert shifted(torch.arange(4), 1, 4).tolist() == [1, 2, 3, 0]
    assert shifted(torch.arange(4), 0, 4).tolist() == [0, 1, 2, 3]


def test_a_frozen_model_is_put_back_as_it_was():
    model = SmallConvNet(3, width=4).train()
    model.features.bn0.eval()
    model.head.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), frozen(model):
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        raise ZeroDivisionError
    assert model.training and not model.features.bn0.training and model.features.bn1.training
    assert not model.head.bias.requires_grad and model.head.weight.requires_grad

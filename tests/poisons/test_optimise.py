import pytest
import torch
from torch import nn

from puretransforms.errors import SurrogateError
from puretransforms.functional.perturbation import magnitude
from puretransforms.models.resnet import ResNet18, SmallConvNet
from puretransforms.poisons.optimise import (
    PGD,
    check_surrogate,
    endless_batches,
    features_of,
    frozen,
    gradient,
    logits_of,
    loss_towards,
    shifted,
    trained_checkpoints,
)

LAYERS = ("stages.1", "stages.3")


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


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ResNet18(3, width=4).eval()


def test_features_are_what_the_last_linear_layer_gets_and_what_named_modules_put_out(model):
    x = torch.rand(2, 3, 16, 16)
    early, late, last = features_of(model, x, LAYERS)
    assert early.shape == (2, 8 * 8 * 8) and late.shape == (2, 32 * 2 * 2) and last.dtype == torch.float32
    torch.testing.assert_close(late.view(2, 32, 4).mean(2), last, rtol=0.02, atol=0.02)  # bfloat16 where there is any
    torch.testing.assert_close(model.head(last), logits_of(model, x), rtol=0.02, atol=0.02)
    assert [f.shape for f in features_of(model, x)] == [last.shape]


def test_features_carry_gradients_and_leave_no_hook_behind(model):
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    assert torch.autograd.grad(features_of(model, x, LAYERS)[0].sum(), x)[0].any()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_network_without_the_layer_is_refused(model):
    x = torch.rand(1, 3, 16, 16)
    with pytest.raises(SurrogateError, match=r"a module 'layer4', got ResNet18 of .*stages"):
        features_of(model, x, ["layer4"])
    with pytest.raises(SurrogateError, match="a linear layer, got Sequential"):
        features_of(nn.Sequential(nn.Conv2d(3, 3, 1)), x)


def test_all_are_frozen_and_put_back(model):
    other = SmallConvNet(3, width=4)
    other.head.bias.requires_grad_(False)
    with frozen(model, other):
        assert not other.training and not any(p.requires_grad for m in (model, other) for p in m.parameters())
    assert other.training and not model.training and model.head.bias.requires_grad
    assert other.head.weight.requires_grad and not other.head.bias.requires_grad


def test_checkpoints_are_states_of_one_run():
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    run = {"num_classes": 3, "width": 4, "epochs": 3, "seed": 0}
    every, last = (trained_checkpoints(images, torch.arange(12) % 3, count, **run) for count in (3, 1))
    assert len(every) == 3 and len(last) == 1
    assert not every[0].head.weight.equal(every[2].head.weight)
    assert last[0].head.weight.equal(every[2].head.weight)


def test_batches_visit_everything_in_each_epoch():
    batches = endless_batches(10, 4, torch.Generator().manual_seed(0))
    first, second = (torch.cat([next(batches) for _ in range(3)]) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10)) and not first.equal(second)


def test_a_surrogate_elsewhere_than_the_images_is_refused_with_the_way_there(model):
    with pytest.raises(SurrogateError, match=r'on meta, .* got it on cpu: call surrogate.to\("meta"\)'):
        check_surrogate(model, torch.zeros(1, 3, 16, 16, device="meta"), 3)

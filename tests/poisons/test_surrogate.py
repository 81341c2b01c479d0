import pytest
import torch
from torch import nn

from puretransforms.errors import SurrogateError
from puretransforms.models.resnet import ResNet18, SmallConvNet
from puretransforms.poisons.surrogate import endless_batches, features_of, frozen, logits_of, trained_checkpoints

LAYERS = ("stages.1", "stages.3")


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

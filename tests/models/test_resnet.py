"""The classifiers: parameter counts, torchvision's ResNet-18 as a second implementation, sizes, gradients."""

import pytest
import torch
from torchvision.models import resnet18

from puretransforms.models.resnet import ResNet18, SmallConvNet


def parameter_count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_width_64_has_the_parameter_count_of_resnet18_with_the_cifar_stem() -> None:
    assert parameter_count(ResNet18(10)) == 11_173_962


def test_equals_torchvisions_resnet18_with_the_stem_replaced() -> None:
    torch.manual_seed(0)
    ours = ResNet18(7).eval()
    theirs = resnet18(num_classes=7).eval()
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    for buffer in ours.buffers():  # running statistics that matter
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    state = {_torchvision_name(name): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x - 0.5), rtol=1e-4, atol=1e-4)


def _torchvision_name(name: str) -> str:
    head, _, rest = name.partition(".")
    if head == "stages":
        stage, _, rest = rest.partition(".")
        return f"layer{int(stage) + 1}.{rest.replace('shortcut', 'downsample')}"
    return f"{ {'stem': 'conv1', 'bn': 'bn1', 'head': 'fc'}[head] }.{rest}"


@pytest.mark.parametrize("width", [4, 16])
def test_parameters_grow_with_the_square_of_the_width(width: int) -> None:
    ratio = parameter_count(ResNet18(10, width=2 * width)) / parameter_count(ResNet18(10, width=width))
    assert 3.8 < ratio < 4


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 40), (64, 64)])
@pytest.mark.parametrize("model", [ResNet18, SmallConvNet])
def test_any_size_and_any_number_of_classes(model: type, size: tuple[int, int]) -> None:
    assert model(5, width=4)(torch.rand(2, 3, *size)).shape == (2, 5)


@pytest.mark.parametrize("model", [ResNet18, SmallConvNet])
def test_every_parameter_gets_a_gradient(model: type) -> None:
    torch.manual_seed(0)
    net = model(3, width=4)
    torch.nn.functional.cross_entropy(net(torch.rand(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("model", [ResNet18, SmallConvNet])
def test_memory_format_changes_nothing(model: type) -> None:
    torch.manual_seed(0)
    net = model(10, width=8).eval()
    x = torch.rand(3, 3, 16, 16)
    plain = net(x)
    last = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, rtol=1e-4, atol=1e-5)

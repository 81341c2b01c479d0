import pytest
import torch

from puretransforms.models.unet import ARCHITECTURES, PurifierUNet


@pytest.fixture(scope="module")
def net() -> PurifierUNet:
    """With a last layer that is not 0."""
    torch.manual_seed(0)
    net = ARCHITECTURES["small"]()
    torch.nn.init.normal_(net.head.weight, std=0.02)
    torch.nn.init.normal_(net.head.bias, std=0.02)
    return net.eval()


def strengths(*rows: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(rows) / 255


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_new_network_is_the_identity(name):
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(ARCHITECTURES[name]()(x, strengths((25, 25), (75, 10))), x)


def test_small_fits_a_file_of_a_megabyte():
    assert sum(p.numel() for p in ARCHITECTURES["small"]().parameters()) * 4 < 1_000_000


def test_widths_are_multiples_of_16():
    for make in ARCHITECTURES.values():
        net = make()
        assert net.stem.out_channels % 16 == 0 and net.down.out_channels % 16 == 0


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (9, 13), (31, 33), (32, 32), (50, 224)])
def test_any_size(net, size):
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        out = net(x, strengths((25, 25)))
    assert out.shape == x.shape
    assert (out - x).abs().max() > 1e-4


def test_too_small_says_so(net):
    with pytest.raises(ValueError, match="at least 4x4 pixels, got 3x32"):
        net(torch.rand(1, 3, 3, 32), strengths((25, 25)))


def test_cropping_far_from_an_edge_changes_nothing(net):
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        whole = net(x, strengths((25, 25)))
        part = net(x[:, :, :, :80].contiguous(), strengths((25, 25)))
    torch.testing.assert_close(part[:, :, :, :30], whole[:, :, :, :30], atol=1e-5, rtol=1e-5)


def test_no_strength_is_the_identity_for_luma_chroma_or_both(net):
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        out = net(x, strengths((0, 0), (25, 0), (0, 25)))
    assert torch.equal(out[0], x[0])
    moved = out - x
    gray = moved.mean(1, keepdim=True)
    assert moved[1].abs().max() > 1e-3 and (moved[1] - gray[1]).abs().max() < 1e-5  # all channels alike
    assert moved[2].abs().max() > 1e-3 and gray[2].abs().max() < 1e-5


def test_strength_matters_and_rows_are_apart(net):
    x = torch.rand(1, 3, 32, 32).expand(3, -1, -1, -1)
    with torch.no_grad():
        out = net(x, strengths((10, 10), (40, 40), (10, 10)))
    torch.testing.assert_close(out[0], out[2])
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_gradients_reach_image_strength_and_every_weight(net):
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    strength = strengths((25, 30), (10, 5)).requires_grad_()
    (net(x, strength) - x.detach()).square().mean().backward()
    for tensor in (x, strength, *net.parameters()):
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0
    net.zero_grad()


def test_gradient_agrees_with_differences(net):
    double = PurifierUNet(16, 16, (1, 1, 1)).double()
    torch.nn.init.normal_(double.head.weight, std=0.1)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)

    def value(y):
        return double(y, strengths((25, 40)).double()).square().sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        slope = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-8)

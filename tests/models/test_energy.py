"""The energy networks against a transcription of the published table, and the folding against exactness."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from puretransforms.functional.langevin import energy_gradient
from puretransforms.models.energy import EnergyNet, FoldedEnergyNet, TwoTermConv2d, fold, frozen


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """In float64, with biases that are not 0, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(0)
    for p in net.double().parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.1
    return net


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def published(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Block by block as the paper's code has it: the stem pools before its 1x1 convolution, the second block after."""

    def conv(name: str, h: torch.Tensor) -> torch.Tensor:
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], padding=w[f"{name}.weight"].shape[-1] // 2)

    def pool(h: torch.Tensor) -> torch.Tensor:
        return (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4

    h = pool(conv("stem.conv2", F.relu(conv("stem.conv1", x)))) + conv("stem_skip", pool(x))
    h = pool(conv("down.conv2", F.relu(conv("down.conv1", F.relu(h))))) + pool(conv("down_skip", h))
    for block in ("residual1", "residual2"):
        h = h + conv(f"{block}.conv2", F.relu(conv(f"{block}.conv1", F.relu(h))))
    return F.relu(h).mean((2, 3)) @ w["head.weight"][0]


class PureGenNet(torch.nn.Module):
    """The published network with the names and the order of work of its authors' code."""

    def __init__(self, nf: int) -> None:
        super().__init__()
        for number, channels in enumerate((3, nf, nf, nf), start=1):
            block = torch.nn.Module()
            block.c1, block.c2 = torch.nn.Conv2d(channels, nf, 3, 1, 1), torch.nn.Conv2d(nf, nf, 3, 1, 1)
            if number <= 2:
                block.c_sc = torch.nn.Conv2d(channels, nf, 1)
            self.add_module(f"block{number}", block)
        self.l5 = torch.nn.Linear(nf, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b = self.block1
        x = F.avg_pool2d(b.c2(F.relu(b.c1(x))), 2) + b.c_sc(F.avg_pool2d(x, 2))
        b = self.block2
        x = F.avg_pool2d(b.c2(F.relu(b.c1(F.relu(x)))), 2) + F.avg_pool2d(b.c_sc(x), 2)
        for b in (self.block3, self.block4):
            x = b.c2(F.relu(b.c1(F.relu(x)))) + x
        return self.l5(F.relu(x).mean((2, 3)))


def test_sizes_are_the_published_ones():
    assert parameters(EnergyNet()) == parameters(EnergyNet(128)) == 1_053_824
    assert parameters(EnergyNet(256)) == 4_204_800
    assert parameters(FoldedEnergyNet()) == parameters(FoldedEnergyNet(48)) == 181_584


def test_the_cost_is_the_documented_one():
    net = EnergyNet()
    for variant, gflop in ((net, 0.544), (fold(net), 0.328), (FoldedEnergyNet(), 0.048)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            variant(torch.zeros(1, 3, 32, 32))
        assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.01)


def test_the_published_network_is_its_table():
    net = randomised(EnergyNet(6))
    x = images(3, 3, 32, 32)
    assert torch.allclose(net(x), published(net.state_dict(), x), rtol=1e-12)


def test_a_state_dict_of_the_authors_loads_strictly_with_the_same_energies():
    theirs, net = randomised(PureGenNet(6)), EnergyNet(6).double()
    state = theirs.state_dict()
    net.load_state_dict(state)
    assert torch.allclose(net(images(3, 3, 32, 32)), theirs(images(3, 3, 32, 32))[:, 0], rtol=1e-12)
    assert list(state) == list(theirs.state_dict()) and len(state) == 21
    assert set(net.state_dict()) == set(EnergyNet(6).state_dict())
    torch.nn.Sequential(EnergyNet(6)).load_state_dict({f"0.{name}": tensor for name, tensor in state.items()})
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "head.weight"'):
        net.load_state_dict({name: tensor for name, tensor in state.items() if name != "l5.weight"})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "block5.c1.weight"'):
        net.load_state_dict(state | {"block5.c1.weight": torch.zeros(1)})


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (30, 18), (17, 31)])
def test_folding_changes_no_energy_and_no_gradient(size):
    net = randomised(EnergyNet(8))
    folded, x = fold(net), images(2, 3, *size)
    assert torch.allclose(folded(x), net(x), rtol=1e-10, atol=0)
    assert torch.allclose(energy_gradient(folded, x), energy_gradient(net, x), rtol=1e-6, atol=1e-12)
    assert not any(p.requires_grad for p in folded.parameters()) and all(p.requires_grad for p in net.parameters())
    assert fold(folded) is folded


def test_folding_holds_in_float32_and_in_inference_mode():
    torch.manual_seed(0)
    net, x = EnergyNet(16), images(4, 3, 32, 32).float()
    with torch.inference_mode():
        folded = fold(net)
    assert torch.allclose(folded(x), net(x), rtol=0, atol=1e-6)
    assert not any(p.is_inference() for p in folded.parameters())


@pytest.mark.parametrize("make", [EnergyNet, FoldedEnergyNet])
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (18, 30), (32, 32)])
def test_every_pixel_of_any_size_moves_the_energy(make, size):
    gradient = energy_gradient(randomised(make(8)), images(1, 3, *size))
    assert gradient.shape[-2:] == size and (gradient.abs() > 0).all()


@pytest.mark.parametrize("make", [EnergyNet, FoldedEnergyNet])
def test_an_energy_depends_on_its_own_image_alone(make):
    net, x = randomised(make(8)), images(5, 3, 16, 16)
    alone = torch.cat([net(image[None]) for image in x])
    assert torch.allclose(net(x), alone, rtol=1e-12)
    others = x.clone()
    others[1:] = 0
    assert torch.allclose(net(others)[0], alone[0], rtol=1e-12)


def test_frozen_copies_compute_in_bfloat16_and_answer_in_float32():
    torch.manual_seed(0)
    net, x = EnergyNet(16), images(4, 3, 32, 32).float()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    half, full = frozen(net, torch.bfloat16), frozen(net)
    assert half.stem.conv1.weight.dtype == torch.bfloat16 and not any(p.requires_grad for p in half.parameters())
    energies = half(x.bfloat16())
    assert energies.dtype == torch.float32
    assert torch.allclose(energies, net(x), rtol=0, atol=0.02 * float(net(x).detach().abs().max()))
    assert torch.allclose(full(x), net(x), rtol=0, atol=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    assert frozen(net.double(), torch.float64)(x.double()).dtype == torch.float64


def test_a_fresh_network_starts_without_biases_and_with_a_small_drift():
    torch.manual_seed(0)
    net = EnergyNet(64)
    assert all((tensor == 0).all() for name, tensor in net.named_parameters() if name.endswith("bias"))
    drift = 0.78125 * energy_gradient(net, images(4, 3, 32, 32).float()).flatten(1).norm(dim=1)
    assert 1e-3 < drift.mean() < 1


@pytest.mark.parametrize(("kernel", "bias"), [(3, True), (1, False)])
def test_a_weight_of_two_terms_is_that_of_float32_to_twice_the_digits(kernel, bias):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 8, kernel, padding=kernel // 2, bias=bias)
    split = TwoTermConv2d(conv, torch.bfloat16)
    kept = split.weight[:, :3].double() + split.weight[:, 3:].double()
    assert ((kept - conv.weight).abs() <= 2**-16 * conv.weight.abs()).all()
    x = images(2, 3, 8, 8).bfloat16()
    error = (split(x).double() - conv.double()(x.double())).norm() / conv(x.double()).norm()
    assert split(x).dtype == torch.bfloat16 and error < 2**-8


def test_the_layers_that_see_pixels_keep_two_terms_in_bfloat16_alone():
    net = EnergyNet(16)
    half, full = frozen(net, torch.bfloat16), frozen(net)
    assert half.stem.conv1.weight.shape == (16, 6, 3, 3) and half.stem_skip.weight.shape == (16, 6, 1, 1)
    assert torch.equal(full.stem.conv1.weight, net.stem.conv1.weight)

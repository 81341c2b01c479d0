"""Networks of D-VAE: counts, the released layout layer by layer, and what the perturbation decoder may see."""

import pytest
import torch
from torch import nn

from puretransforms.errors import NoImageError
from puretransforms.functional.padding import whole
from puretransforms.functional.rate import sample_latent
from puretransforms.models.dvae import DVAE, Decoder, RateVAE, frozen


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def seeded(make, *args, **options) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*args, **options)


def test_parameter_counts_are_those_of_the_released_parts():
    assert count(RateVAE()) == 666_307
    assert count(DVAE(10)) == 1_181_382
    assert count(DVAE(100)) == 4_130_502
    assert count(DVAE(10, spatial=False)) == 854_982
    assert count(DVAE(100, spatial=False)) == 866_502
    large = DVAE(100, size=224)
    assert count(large.table) == 100 * 100_352 and count(large) - count(large.table) == 891_398
    assert count(RateVAE(32, 128)) == 167_779


@pytest.mark.parametrize(("size", "cells"), [(32, 16), (64, 32), (224, 28)])
def test_latent_maps_and_outputs_at_the_three_sizes(size, cells):
    net, x = DVAE(3, 4, 6, size=size).eval(), torch.rand(1, 3, size, size)
    with torch.no_grad():
        out = net(x, torch.tensor([1]))
    assert out.mu.shape == out.log_var.shape == (1, 6, cells, cells)
    assert net.latent_shape(size, size) == (6, cells, cells)
    assert out.reconstruction.shape == out.perturbation.shape == x.shape
    assert out.reconstruction.min() > 0 and out.reconstruction.max() < 1


# --- against the released layout --------------------------------------------------------------------------------------


def released_decoder(ours: Decoder, width: int) -> nn.Sequential:
    """The published stack in plain layers, in float64."""
    stack = nn.Sequential(
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
        nn.ConvTranspose2d(width, width, 3, stride=1, padding=1),
        nn.InstanceNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, width // 2, 3, stride=1, padding=1),
        nn.InstanceNorm2d(width // 2),
        nn.ReLU(),
        nn.ConvTranspose2d(width // 2, 3, 3, stride=1, padding=1),
    ).double()
    layers = (layer for layer in stack if isinstance(layer, nn.ConvTranspose2d))
    for layer, own in zip(layers, (ours.up, ours.conv1, ours.conv2, ours.conv3), strict=True):
        layer.load_state_dict(own.state_dict())
    return stack


@pytest.mark.parametrize("train", [True, False])
def test_the_whole_net_equals_the_released_layout(train):
    width, net = 8, seeded(DVAE, 4, 8, 12)
    x = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    labels, noise = torch.tensor([0, 1, 2, 3, 1]), torch.randn(5, 12, 16, 16, dtype=torch.float64)
    net = net.double().train(train)
    encoder, e = net.encoder, net.encoder.blocks
    plain = nn.Sequential(encoder.stem, encoder.bn, nn.ReLU(), *e)
    h = plain(x)
    mu, log_var = net.mu(h), net.log_var(h)
    z = net.post(mu + torch.exp(0.5 * log_var) * noise)
    u = net.table.weight[labels].reshape(5, 2 * width, 16, 16)
    reconstruction = torch.sigmoid(released_decoder(net.image_decoder, width)(z))
    perturbation = released_decoder(net.perturbation_decoder, width)(z + u)
    for enabled in (True, False):  # other kernels without gradients
        with torch.set_grad_enabled(enabled):
            out = net(x, labels, noise)
        assert torch.allclose(out.mu, mu, atol=1e-10) and torch.allclose(out.log_var, log_var, atol=1e-10)
        assert torch.allclose(out.reconstruction, reconstruction, rtol=0, atol=1e-9)
        assert torch.allclose(out.perturbation, perturbation, rtol=0, atol=1e-9)
    with torch.no_grad():
        assert torch.allclose(net.reconstruct(x, noise), reconstruction, rtol=0, atol=1e-9)
        assert torch.allclose(net.perturbation(x, labels, noise), perturbation, rtol=0, atol=1e-9)


def test_gradients_of_a_decoder_equal_those_of_the_released_layers():
    ours = seeded(Decoder, 8, False).double()
    z = torch.randn(2, 16, 6, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    plain = released_decoder(ours, 8)
    want = torch.autograd.grad((plain(z) * weights).sum(), [z, *plain.parameters()])
    got = torch.autograd.grad((ours(z) * weights).sum(), [z, *ours.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-9) for a, b in zip(got, want, strict=True))


def test_every_parameter_receives_a_gradient():
    net = seeded(DVAE, 3, 4, 6)
    out = net(torch.rand(3, 3, 32, 32), torch.arange(3), torch.randn(3, *net.latent_shape(32, 32)))
    (out.reconstruction.square().mean() + out.perturbation.square().mean() + out.log_var.mean()).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None]


# --- what the perturbation decoder sees, and its range: each law fails with the mistake put back ----------------------


class SeesFeatures(DVAE):
    """The mistake: the table is added to the features before the bottleneck."""

    def forward(self, x, labels, noise=None):
        out = super().forward(x, labels, noise)
        leak = self.perturbation_decoder(self._classed(self.encoder(x), labels))
        return out._replace(perturbation=leak)


class Squashes(DVAE):
    """The mistake: the sigmoid of the image decoder on the perturbation too."""

    def forward(self, x, labels, noise=None):
        out = super().forward(x, labels, noise)
        return out._replace(perturbation=out.perturbation.sigmoid())


def sees_the_code_alone(net: DVAE) -> bool:
    """With a code that says nothing, is the perturbation that of the class, whatever the image?"""
    with torch.no_grad():
        for head in (net.mu, net.log_var):
            head.weight.zero_()
        one, two = (net(torch.rand(2, 3, 32, 32), torch.tensor([0, 1])).perturbation for _ in range(2))
    return torch.equal(one, two) and not torch.equal(one[0], one[1])


def is_unbounded(net: DVAE) -> bool:
    with torch.no_grad():
        net.perturbation_decoder.conv3.weight.mul_(1000)
        p = net(torch.rand(2, 3, 32, 32), torch.tensor([0, 1])).perturbation
    return bool(p.min() < -1 and p.max() > 1)


def test_the_perturbation_decoder_sees_the_image_through_the_code_alone():
    assert sees_the_code_alone(seeded(DVAE, 2, 4, 6).eval())
    assert not sees_the_code_alone(seeded(SeesFeatures, 2, 4, 6).eval())


def test_the_perturbation_is_unbounded():
    assert is_unbounded(seeded(DVAE, 2, 4, 6).eval())
    assert not is_unbounded(seeded(Squashes, 2, 4, 6).eval())


def test_the_noise_is_that_of_the_code():
    net, x = seeded(RateVAE, 4, 6).eval(), torch.rand(2, 3, 32, 32)
    noise = torch.randn(2, *net.latent_shape(32, 32))
    with torch.no_grad():
        out = net(x, noise)
        by_hand = net.image_decoder(net.post(sample_latent(out.mu, out.log_var, noise))).sigmoid()
        assert torch.equal(out.reconstruction, by_hand) and not torch.equal(net(x).reconstruction, by_hand)
        assert torch.allclose(net(x).reconstruction, net.reconstruct(x))


# --- sizes, folding, refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(31, 33), (1, 1), (2, 7)])
@pytest.mark.parametrize("size", [32, 224])
def test_odd_sizes_are_extended_and_cropped(shape, size):
    net = seeded(RateVAE, 4, 6, size=size).eval()
    x = torch.rand(2, 3, *shape)
    with torch.no_grad():
        out = net(x)
        assert out.reconstruction.shape == x.shape == net.reconstruct(x).shape
        assert out.mu.shape[1:] == net.latent_shape(*shape)
        extended = whole(x, net.stride)
        assert torch.allclose(net(extended).reconstruction[..., : shape[0], : shape[1]], out.reconstruction, atol=1e-6)
        assert torch.equal(extended[..., : shape[0], : shape[1]], x)


@pytest.mark.parametrize("size", [32, 224])
def test_a_frozen_copy_computes_the_same_and_shares_nothing(size):
    net = seeded(DVAE, 3, 8, 12, size=size, spatial=False)
    x, labels = torch.rand(6, 3, 32, 32), torch.arange(6) % 3
    net.train()(x, labels)  # statistics that are not 0 and 1
    before = {name: t.clone() for name, t in net.state_dict().items()}
    copy = frozen(net)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items()) and net.training
    net.eval()
    with torch.no_grad():
        assert (copy.reconstruct(x) - net.reconstruct(x)).abs().max() < 1e-4
        want = net.perturbation(x, labels)
        assert (copy.perturbation(x, labels) - want).abs().max() < 1e-3 * want.abs().max()
        half = frozen(net, torch.bfloat16).reconstruct(x.bfloat16())
        assert half.dtype == torch.bfloat16 and (half.float() - net.reconstruct(x)).abs().max() < 0.05
    assert not any(p.requires_grad for p in copy.parameters())
    assert not [m for m in copy.encoder.modules() if isinstance(m, nn.BatchNorm2d)]


def test_a_spatial_table_is_tied_to_its_size_and_a_vector_is_not():
    with pytest.raises(NoImageError, match=r"32 pixels a side.*spatial=False"), torch.no_grad():
        DVAE(2, 4, 6)(torch.rand(1, 3, 48, 48), torch.tensor([0]))
    with torch.no_grad():
        assert DVAE(2, 4, 6, spatial=False)(torch.rand(1, 3, 48, 48), torch.tensor([0])).perturbation.shape[-1] == 48


def test_the_initial_table():
    assert DVAE(10, 4, 6).table.weight.std().item() == pytest.approx(1, rel=0.05)
    assert not DVAE(10, 4, 6, table_std=0.0).table.weight.any()


@pytest.mark.parametrize(("args", "message"), [((3, 8), "even width"), ((0, 8), "even width"), ((4, 0), "latent")])
def test_widths_that_cannot_be_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        RateVAE(*args)
    with pytest.raises(ValueError, match="num_classes"):
        DVAE(0)

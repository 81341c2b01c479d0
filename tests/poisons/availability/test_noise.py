import pytest
import torch

from puretransforms.functional.perturbation import magnitude
from puretransforms.poisons.availability.noise import ClasswiseNoise, SamplewiseNoise


@pytest.fixture
def grey():
    return torch.full((64, 3, 16, 16), 128, dtype=torch.uint8)


def delta_of(poison, images, labels, index=None):
    poisoned, _ = poison(images, labels, index)
    return (poisoned.float() - images.float()) / 255


def test_classwise_noise_is_one_field_a_class(grey):
    labels = torch.arange(64) % 4
    delta = delta_of(ClasswiseNoise(), grey, labels, torch.arange(64))
    assert delta[:4].flatten(1).unique(dim=0).shape[0] == 4
    for i in range(64):
        assert delta[i].equal(delta[labels[i]])


def test_samplewise_noise_is_a_field_of_its_own_for_every_index(grey):
    labels = torch.zeros(64, dtype=torch.int64)
    delta = delta_of(SamplewiseNoise(), grey, labels, torch.arange(64))
    assert delta.flatten(1).unique(dim=0).shape[0] == 64
    correlation = torch.corrcoef(delta.flatten(1)) - torch.eye(64)
    assert correlation.abs().max() < 5.5 / 768**0.5


@pytest.mark.parametrize("noise", [ClasswiseNoise, SamplewiseNoise])
def test_the_three_kinds(grey, noise):
    labels, index = torch.arange(64) % 10, torch.arange(64)
    sign = delta_of(noise(kind="sign"), grey, labels, index)
    assert (sign.abs() * 255).round().eq(8).all() and abs(sign.sign().mean()) < 0.05
    uniform = delta_of(noise(kind="uniform"), grey, labels, index) * 255
    assert uniform.abs().max() <= 8.001 and uniform.std() == pytest.approx(8 / 3**0.5, rel=0.05)
    l2 = noise(kind="l2", epsilon=0.5, quantize=None)
    size = magnitude(l2(grey / 255, labels, index)[0] - grey / 255, "l2")
    torch.testing.assert_close(size, torch.full_like(size, 0.5), rtol=1e-4, atol=0)
    assert (l2.norm, noise().norm) == ("l2", "linf")


def test_the_field_of_a_class_does_not_depend_on_how_many_classes_there_are():
    few, many = (ClasswiseNoise(num_classes=k).fields(3, 8, 8) for k in (3, 12))
    assert few.equal(many[:3])

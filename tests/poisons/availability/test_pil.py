"""PIL against a plain transcription of its equations, and its effect on a linear eye."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from puretransforms.poisons import PIL


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(40) % 4


@pytest.fixture
def linear():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False))


def test_the_steps_are_those_of_the_equations(data, linear):
    images, labels = data
    poison = PIL(num_classes=4, steps=3, balance=0.6, seed=2).fit(data, surrogate=linear)
    x, w = images.double().flatten(1) / 255, linear[1].weight.double()
    start = torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
    noise = -start.double().flatten(1) * 8 / 255  # the authors subtract it
    for _ in range(3):
        noise.requires_grad_(True)
        shortcut = cross_entropy(noise @ w.T, labels)
        uniform = torch.full((40, 4), 0.25, dtype=torch.float64)
        hidden = kl_div(log_softmax((x - noise) @ w.T, 1), uniform, reduction="batchmean")
        (slope,) = torch.autograd.grad(0.6 * shortcut + 0.4 * hidden, noise)
        noise = (noise.detach() - 0.8 / 255 * slope.sign()).clamp(-8 / 255, 8 / 255)
    expected = (-noise * 255).round()
    differs = (poison.delta.double().flatten(1) * 255 - expected).abs()
    assert differs.max() <= 1 and (differs > 1e-3).double().mean() < 0.002, "rounding of a half may fall either way"


def test_a_linear_eye_sees_the_class_in_the_noise_and_without_the_shortcut_nothing_in_the_image(data, linear):
    images, labels = data
    poison = PIL(num_classes=4).fit(data, surrogate=linear)
    hidden = PIL(num_classes=4, balance=0.0).fit(data, surrogate=linear)
    x = images.float() / 255
    with torch.no_grad():
        assert (linear(-poison.delta).argmax(1) == labels).all()
        before, after = (softmax(linear(seen), 1).max(1).values.mean() for seen in (x, x + hidden.delta))
    assert after < 0.95 * before, "nearer to one in four"
    assert poison.delta.abs().mul(255).ge(7).double().mean() > 0.8, "most values end near the faces of the ball"


def test_without_a_surrogate_it_trains_a_linear_one(data):
    images, labels = data
    class_colour = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    learnable = (images // 4 + class_colour[labels] // 2).to(torch.uint8)
    a = PIL(num_classes=4, epochs=200).fit((learnable, labels))
    b = PIL(num_classes=4, epochs=1).fit((learnable, labels))
    assert not a.delta.equal(b.delta), "what it has learned shows"
    means = torch.stack([a.delta[labels == label].mean(0) for label in range(4)])
    inside = torch.stack(
        [nn.functional.cosine_similarity(d, means[y], 0).mean() for d, y in zip(a.delta, labels, strict=True)]
    )
    assert inside.mean() > 0.5, "the noise of a class points one way: the shortcut"

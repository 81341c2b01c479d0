"""Recipes: torch's own optimizers as second implementations, the schedules, what is frozen and when."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from puretransforms.functional.augment import random_shift
from puretransforms.models.airbench import AirbenchNet
from puretransforms.models.resnet import SmallConvNet
from puretransforms.train.classifier import evaluate, train_classifier
from puretransforms.train.recipes import Muon, MuonRecipe, OneCycleSGD, orthogonalize
from puretransforms.train.settings import FULL, QUARTER


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def stripes(count: int = 120, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes by colour, noisy."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 120, (count, 3, size, size), generator=generator)
    images[torch.arange(count), labels] += 60
    return images.to(torch.uint8), labels


def small() -> AirbenchNet:
    torch.manual_seed(5)
    return AirbenchNet(3, width=(4, 8, 8))


def test_onecycle_sgd_is_torchs_sgd_under_torchs_schedule():
    images, labels = stripes()
    torch.manual_seed(1)
    ours = SmallConvNet(3, width=4)
    torch.manual_seed(1)
    theirs = SmallConvNet(3, width=4).train().to(memory_format=torch.channels_last)
    recipe = OneCycleSGD(max_lr=0.05, weight_decay=1e-3, momentum=0.8)
    options = {"epochs": 2, "batch_size": 40, "augment": None, "dtype": None}
    records = list(train_classifier(ours, images, labels, recipe=recipe, **options))
    sgd = torch.optim.SGD(theirs.parameters(), 0.05, 0.8, weight_decay=1e-3, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, 0.05, total_steps=6, cycle_momentum=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        order = torch.randperm(120, generator=generator)
        torch.randint(2**63 - 1, (), generator=generator)
        for rows in order.tensor_split(3):
            x = images[rows].float().div(255).contiguous(memory_format=torch.channels_last)
            sgd.zero_grad()
            cross_entropy(theirs(x), labels[rows]).backward()
            sgd.step()
            lr = schedule.get_last_lr()[0]
            schedule.step()
    assert records[-1].lr == lr
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_muon_takes_the_step_of_torchs_muon_from_a_normalised_weight():
    weight = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(3 * weight), nn.Parameter(weight * math.sqrt(6) / weight.norm())
    muon = Muon([ours], lr=0.1, momentum=0.6)
    options = {"lr": 0.1, "momentum": 0.6, "nesterov": True, "ns_steps": 3, "weight_decay": 0.0}
    reference = torch.optim.Muon([theirs], **options)
    for step in range(3):
        ours.grad = torch.randn(6, 12, generator=torch.Generator().manual_seed(step))
        theirs.grad = ours.grad.clone()
        with torch.no_grad():
            theirs.mul_(math.sqrt(6) / theirs.norm())
        muon.step()
        reference.step()
        assert (ours - theirs).abs().max() < 0.1 * 0.04  # theirs computes in bfloat16


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (5, 5)])
def test_orthogonalised_matrices_keep_their_singular_vectors(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalize(matrix, steps=10) @ vh.T
    assert (inner - torch.diag(inner.diag())).abs().max() < 1e-9
    assert (inner.diag() - 1).abs().max() < 0.4


def test_filters_keep_their_norm_whatever_the_gradient():
    weight = nn.Parameter(torch.randn(6, 3, 3, 3))
    for scale in (1e-3, 1e3):
        weight.grad = scale * torch.randn(6, 3, 3, 3)
        before = weight.detach().clone()
        Muon([weight], lr=1e-6, momentum=0.6).step()
        assert weight.norm().item() == pytest.approx(math.sqrt(6), rel=1e-4)
    assert not torch.equal(before, weight)


def test_rates_fall_linearly_and_the_whitening_bias_is_frozen_after_its_epochs():
    model = small()
    recipe = MuonRecipe(whiten_epochs=1)
    stepper = recipe.build(model, epochs=3, steps_per_epoch=2, batch_size=50)
    x, rates, biases = torch.rand(4, 3, 16, 16), [], []
    for _ in range(6):
        model.zero_grad()
        model(x).square().sum().backward()
        rates.append(stepper.step())
        biases.append(model.whiten.bias.detach().clone())
    assert rates == pytest.approx([0.24 * (1 - k / 6) for k in range(6)])
    assert not torch.equal(biases[0], biases[1])
    assert all(torch.equal(biases[1], later) for later in biases[2:])
    assert not model.whiten.bias.requires_grad and model.head.weight.requires_grad
    recipe.build(model, epochs=3, steps_per_epoch=2, batch_size=50)
    assert model.whiten.bias.requires_grad, "a second training starts with all that a first one trains"


def test_each_kind_of_weight_has_its_published_rate_and_decay():
    muon, sgd = MuonRecipe().build(AirbenchNet(), epochs=8, steps_per_epoch=25, batch_size=2000).optimizers
    assert [(g["lr"], g["momentum"], len(g["params"])) for g in muon.param_groups] == [(0.24, 0.6, 6)]
    found = [(g["lr"], g["momentum"], g["nesterov"], len(g["params"]), g["steps"]) for g in sgd.param_groups]
    assert found == [(0.053, 0.85, True, 1, 75), (0.053, 0.85, True, 6, 200), (0.67, 0.85, True, 1, 200)]
    assert [g["weight_decay"] * g["lr"] for g in sgd.param_groups] == pytest.approx([0.004] * 3)


def test_muon_refuses_parameters_that_are_neither_filters_nor_biases_nor_matrices():
    with pytest.raises(ValueError, match=r"expected parameters of 1, 2 or 4 dimensions, .*OneCycleSGD"):
        MuonRecipe().build(nn.Conv1d(3, 4, 3), epochs=1, steps_per_epoch=1, batch_size=1)


def test_the_quarter_setting_learns_a_separable_set_and_the_full_one_is_wider():
    images, labels = stripes(150, 16)
    model = small()
    options = {"epochs": 8, "batch_size": 30, "label_smoothing": 0.2, "augment": random_shift}
    records = list(
        train_classifier(model, images[:120], labels[:120], recipe=MuonRecipe(), alternating_flip=True, **options)
    )
    assert evaluate(model, images[120:], labels[120:]) > 0.95
    assert records[0].loss > records[-1].loss, "means over the images, though the gradient is that of the sum"
    assert records[-1].loss < math.log(3)
    assert (QUARTER.width, FULL.width) == ((16, 64, 64), (32, 128, 128))
    assert QUARTER.recipe == FULL.recipe == MuonRecipe() and QUARTER.epochs == FULL.epochs == 8


def test_the_alternating_flip_shows_each_image_both_ways_in_any_two_epochs():
    images = torch.randint(256, (60, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []

    def spy(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(x.clone())
        return x

    labels = torch.arange(60) % 3
    model = SmallConvNet(3, width=4)
    list(train_classifier(model, images, labels, epochs=4, batch_size=60, augment=spy, alternating_flip=True))

    def mirrored(epoch: torch.Tensor) -> torch.Tensor:
        shown = {tuple(x.flatten().tolist()) for x in epoch}
        plain = torch.tensor([tuple(x.flatten().tolist()) in shown for x in images])
        flipped = torch.tensor([tuple(x.flip(2).flatten().tolist()) in shown for x in images])
        assert (plain ^ flipped).all()
        return flipped

    first, second, third, fourth = (mirrored(epoch) for epoch in seen)
    assert torch.equal(first, ~second) and torch.equal(first, third) and torch.equal(second, fourth)
    assert 15 < int(first.sum()) < 45

import pytest
import torch

from puretransforms.functional.random import KeyedNoise
from puretransforms.poisons import AR, LSP, EMSamplewise, Mix, SamplewiseNoise

SEVERAL = ["lsp", "samplewise:epsilon=0.02", "ar"]


@pytest.fixture
def batch():
    images = torch.randint(256, (600, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(600) % 10, torch.arange(600) * 3


def test_an_image_is_as_its_own_poison_makes_it(batch):
    images, labels, index = batch
    mix = Mix(poisons=SEVERAL, seed=5)
    mixed, _ = mix(images, labels, index)
    alone = LSP(seed=5), SamplewiseNoise(epsilon=0.02, seed=5), AR(seed=5)
    each = torch.stack([poison(images, labels, index)[0] for poison in alone])
    chosen = mix.choice(KeyedNoise(5, index))
    assert mixed.equal(each[chosen, torch.arange(600)])


def test_the_shares_are_equal_and_blind_to_the_class(batch):
    _, labels, index = batch
    chosen = Mix(poisons=SEVERAL).choice(KeyedNoise(0, index))
    for label in (None, 0, 7):
        shares = torch.bincount(chosen if label is None else chosen[labels == label], minlength=3).double()
        shares /= shares.sum()
        assert (shares - 1 / 3).abs().max() < (0.06 if label is None else 0.25)


def test_the_default_is_five_poisons_and_learns_from_the_clean_data(batch):
    images, labels, index = batch
    mix = Mix()
    assert len(mix.parts) == 5 and mix.needs_fit and not mix.fitted
    assert mix.fit((images, labels)).fitted
    assert (mix(images, labels, index)[0] != images).flatten(1).any(1).double().mean() > 0.99


def test_a_part_that_stores_a_perturbation_for_each_image_finds_it(batch):
    images, labels, index = (part[:40] for part in batch)
    few = images[:, :, :8, :8]
    spec = "em_samplewise:width=4:max_rounds=1:train_steps=1:pgd_steps=1"
    mix = Mix(poisons=["samplewise", spec], seed=3).fit((few, labels), index=index)
    mixed, _ = mix(few, labels, index)
    rows = mix.choice(KeyedNoise(3, index)) == 1
    alone = EMSamplewise(width=4, max_rounds=1, train_steps=1, pgd_steps=1, seed=3).fit((few, labels), index=index)
    assert rows.any() and mixed[rows].equal(alone(few[rows], labels[rows], index[rows])[0])


@pytest.mark.parametrize(
    ("poisons", "says"),
    [
        ([], "a list of names"),
        ("lsp", "a list of names"),
        (["lsp", "badnets"], "any image, got 'badnets'"),
        (["gradient_matching"], "any image"),
        (["mix"], "any image"),
        (["lsp:seed=1"], "without num_classes, seed"),
        (["unknown"], "unknown"),
    ],
)
def test_what_cannot_be_mixed_is_refused(poisons, says):
    with pytest.raises(ValueError, match=says):
        Mix(poisons=poisons)

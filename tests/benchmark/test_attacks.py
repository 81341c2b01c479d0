"""Each named attack gives the poisoned set that its poison gives, and the test images that it aims at."""

import pytest
import torch

from puretransforms.benchmark.attacks import ATTACKS, find_attack
from puretransforms.benchmark.digits import LabelledImages
from puretransforms.errors import BenchmarkError, LabelError
from puretransforms.poisons.badnets import BadNets
from puretransforms.poisons.convolution import CUDA
from puretransforms.poisons.ops import OPS

COSTLY = {"em_classwise", "em_samplewise"}


def data(n: int, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return LabelledImages(images, torch.arange(n) % 4)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - COSTLY))
def test_every_attack_keeps_shapes_and_says_what_it_changed(name: str) -> None:
    train, test = data(80), data(20, 1)
    attack, options = find_attack(name)
    attacked = attack.make(train, test, 4, **options)
    changed = (attacked.images != train.images).flatten(1).any(1)
    assert attacked.images.shape == train.images.shape and attacked.images.dtype == torch.uint8
    assert not (changed & ~attacked.mask).any()
    assert changed[attacked.mask].double().mean() > 0.9 if name != "clean" else not attacked.mask.any()
    backdoor = attack.kind == "backdoor"
    assert (len(attacked.wanted) > 0) == backdoor
    assert backdoor or torch.equal(attacked.targets, train.targets)
    assert len(attacked.triggered) == len(attacked.wanted) == len(attacked.truth)


def test_the_set_is_the_poison_by_hand() -> None:
    train, test = data(30), data(8, 1)
    attacked = ATTACKS["cuda"].make(train, test, 4)
    assert torch.equal(attacked.images, CUDA(num_classes=4)(train.images, train.targets)[0])
    attacked = ATTACKS["ops"].make(train, test, 4)
    fitted = OPS(num_classes=4).fit(train.images, train.targets)
    assert torch.equal(attacked.images, fitted(train.images, train.targets)[0])


def test_a_backdoor_aims_at_all_test_images_of_other_classes() -> None:
    train, test = data(40), data(20, 1)
    attack, options = find_attack("badnets:target=2:rate=0.25")
    attacked = attack.make(train, test, 4, **options)
    assert int(attacked.mask.sum()) == 10 and (attacked.targets[attacked.mask] == 2).all()
    others = test.targets != 2
    assert torch.equal(attacked.triggered, BadNets(num_classes=4, target=2).trigger(test.images[others]))
    assert torch.equal(attacked.truth, test.targets[others]) and (attacked.wanted == 2).all()


def test_a_backdoor_without_other_classes_is_refused() -> None:
    train = data(40)
    test = LabelledImages(train.images[:4], torch.zeros(4, dtype=torch.int64))
    with pytest.raises(LabelError, match="other classes than the target 0"):
        ATTACKS["badnets"].make(train, test, 4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("arsenic", "expected a poison among clean, ar, badnets"), ("lsp:seed", "name:option=value, got 'lsp:seed'")],
)
def test_unknown_words_are_refused(spec: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        find_attack(spec)


def test_options_are_json_or_text() -> None:
    _, options = find_attack("badnets:target=3:mode=all-to-all:rate=0.5")
    assert options == {"target": 3, "mode": "all-to-all", "rate": 0.5}


def test_names_are_sorted_for_people() -> None:
    assert list(ATTACKS)[1:] == sorted(list(ATTACKS)[1:])

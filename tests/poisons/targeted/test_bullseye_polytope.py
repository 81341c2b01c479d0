import pytest
import torch

from puretransforms.errors import SurrogateError
from puretransforms.models.resnet import ResNet18
from puretransforms.poisons.optimise import features_of
from puretransforms.poisons.targeted.base import TargetedSetup
from puretransforms.poisons.targeted.bullseye_polytope import BullseyePolytope

TINY = {"num_classes": 3, "width": 4, "epochs": 1, "steps": 25}
LAYERS = ("stages.1",)


@pytest.fixture
def data():
    images = torch.randint(0, 256, (30, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(30) % 3


@pytest.fixture
def setup(data):
    return TargetedSetup(data[0][1], 1, 2, torch.arange(2, 20, 3))


@pytest.fixture
def surrogates():
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(ResNet18(3, width=4).eval())
    return found


def distances(model, images, setup, layers=()):
    """Relative distance of the mean feature of the bases from the target's, one for each layer."""
    poisons = features_of(model, images[setup.base_indices] / 255, layers)
    wanted = features_of(model, setup.target[None] / 255, layers)
    return torch.stack([(p.mean(0) - w[0]).norm() / w.norm() for p, w in zip(poisons, wanted, strict=True)]).detach()


@pytest.mark.parametrize("layers", [(), LAYERS])
def test_the_mean_feature_moves_onto_the_target_for_every_surrogate(data, setup, surrogates, layers):
    images, labels = data
    poison = BullseyePolytope(**TINY, layers=layers).fit((images, labels), setup=setup, surrogate=surrogates)
    poisoned = poison(images, labels, torch.arange(30))[0]
    before, after = (torch.stack([distances(m, x, setup, layers) for m in surrogates]) for x in (images, poisoned))
    assert (after < before).all() and after[:, -1].mean() < 0.5 * before[:, -1].mean()
    assert poison.loss == pytest.approx(float(after.mean()), abs=0.02)  # the poisons are kept at 8 bits


def test_only_the_bases_change_inside_the_budget_and_the_same_way_again(data, setup, surrogates):
    images, labels = data
    poison = BullseyePolytope(**TINY).fit((images, labels), setup=setup, surrogate=surrogates[0])
    poisoned = poison(images, labels, torch.arange(30))[0]
    assert (poisoned != images).flatten(1).any(1).nonzero()[:, 0].equal(setup.base_indices)
    assert (poisoned.int() - images.int()).abs().max() == 8
    assert BullseyePolytope(**TINY).fit(data, setup=setup, surrogate=surrogates[0]).delta.equal(poison.delta)


def test_without_a_surrogate_one_is_trained(data, setup):
    assert BullseyePolytope(**{**TINY, "steps": 2}).fit(data, setup=setup).delta.any()


def test_refusals(data, setup, surrogates):
    with pytest.raises(SurrogateError, match="a module 'layer4'"):
        BullseyePolytope(**TINY, layers=["layer4"]).fit(data, setup=setup, surrogate=surrogates)
    with pytest.raises(ValueError, match="at least 1"):
        BullseyePolytope(steps=0)

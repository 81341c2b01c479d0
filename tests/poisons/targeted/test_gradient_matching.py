import pytest
import torch
from torch.nn.functional import cross_entropy

from puretransforms.errors import LabelError, ManifestMismatchError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.targeted.base import TargetedSetup
from puretransforms.poisons.targeted.gradient_matching import GradientMatching, learning
from puretransforms.train.classifier import train_classifier
from puretransforms.train.recipes import OneCycleSGD

TINY = {"num_classes": 3, "width": 4, "epochs": 1, "restarts": 1, "steps": 12}


@pytest.fixture
def data():
    images = torch.randint(0, 256, (40, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(40) % 3


@pytest.fixture
def setup(data):
    return TargetedSetup(data[0][1], 1, 2, torch.arange(2, 32, 3))


@pytest.fixture
def surrogate():
    torch.manual_seed(0)
    return SmallConvNet(3, width=4).eval()


@pytest.fixture
def learned(data, surrogate):
    """A network that knows its training set, so that the poisons have something to teach."""
    for _ in train_classifier(
        surrogate, *data, epochs=15, batch_size=10, recipe=OneCycleSGD(max_lr=0.05), augment=None
    ):
        pass
    return surrogate.eval()


def cosine(a, b):
    a, b = (torch.cat([part.flatten() for part in gradient]) for gradient in (a, b))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_the_poisons_teach_what_the_target_under_the_wrong_label_would(data, setup, learned):
    (images, labels), surrogate = data, learned
    poison = GradientMatching(**TINY, max_shift=1.0).fit((images, labels), setup=setup, surrogate=surrogate)
    wanted = learning(surrogate, setup.target[None] / 255, torch.tensor([2]))
    before = cosine(learning(surrogate, images[setup.base_indices] / 255, labels[setup.base_indices]), wanted)
    poisoned = poison(images, labels, torch.arange(40))[0]
    after = cosine(learning(surrogate, poisoned[setup.base_indices] / 255, labels[setup.base_indices]), wanted)
    assert after > before + 0.1
    assert poison.loss == pytest.approx(1 - after, abs=0.02)


def test_its_views_shift_by_up_to_an_eighth_of_the_side(surrogate):
    images = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 14:18, 14:18] = 255
    seen = []
    surrogate.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    setup = TargetedSetup(images[0], 0, 1, torch.arange(199))
    poison = GradientMatching(**{**TINY, "steps": 1}, epsilon=1 / 255)
    poison.fit((images, torch.ones(200, dtype=torch.int64)), setup=setup, surrogate=surrogate)
    views = [x for x in seen if len(x) == 199 and not x[:, :, 16, 16].gt(0.9).all()]
    assert len(views) == 1
    mass = (views[0].mean(1) - 2 / 255).clamp_min(0)
    for axis in (1, 2):
        centre = (mass.sum(axis) * torch.arange(32.0)).sum(1) / mass.sum((1, 2)) - 15.5
        assert 3.6 < centre.abs().max() < 4.05


def test_the_gradient_is_that_of_the_mean_loss(data, surrogate):
    x, y = data[0][:4] / 255, data[1][:4]
    cross_entropy(surrogate(x), y).backward()
    want = [p.grad for p in surrogate.parameters()]
    assert cosine(learning(surrogate, x, y), want) > 0.999  # bfloat16 where the hardware has it


def test_only_the_bases_change_and_stay_in_the_budget(data, setup, surrogate):
    images, labels = data
    poison = GradientMatching(**TINY, epsilon=8 / 255).fit((images, labels), setup=setup, surrogate=surrogate)
    poisoned = poison(images, labels, torch.arange(40))[0]
    changed = (poisoned != images).flatten(1).any(1)
    assert changed.nonzero()[:, 0].equal(setup.base_indices)
    assert (poisoned.int() - images.int()).abs().max() == 8
    assert poison.bases.equal(setup.base_indices)


def test_the_same_seed_gives_the_same_poison_and_the_surrogates_are_put_back(data, setup, surrogate):
    images, labels = data
    torch.manual_seed(1)
    other = SmallConvNet(3, width=4)
    other.head.bias.requires_grad_(False)
    a, b, c = (
        GradientMatching(**TINY, seed=seed).fit((images, labels), setup=setup, surrogate=[surrogate, other])
        for seed in (0, 0, 1)
    )
    assert a.delta.equal(b.delta) and not a.delta.equal(c.delta)
    assert other.training and not other.head.bias.requires_grad and other.head.weight.requires_grad
    state = torch.get_rng_state()
    GradientMatching(**TINY).fit((images, labels), setup=setup)  # trains one of its own
    assert state.equal(torch.get_rng_state())


def test_it_goes_to_a_file_and_back_and_its_budget_is_checked(data, setup, surrogate, tmp_path):
    images, labels = data
    poison = GradientMatching(**TINY).fit(data, setup=setup, surrogate=surrogate)
    path = poison.save(tmp_path / "poison.safetensors")
    again = GradientMatching.load(path)
    assert again(images, labels)[0].equal(poison(images, labels)[0])
    assert again.loss == poison.loss and again.bases.equal(poison.bases) and again.arguments == poison.arguments
    poison.epsilon = 8 / 255
    poison.save(path)
    with pytest.raises(ManifestMismatchError, match="inside the stored budget"):
        GradientMatching.load(path)


def test_refusals(data, setup, surrogate):
    with pytest.raises(LabelError, match="maps images"):
        GradientMatching(**TINY).fit(data, setup=setup, surrogate=SmallConvNet(4, width=4))
    with pytest.raises(ValueError, match="at least 1"):
        GradientMatching(steps=0)

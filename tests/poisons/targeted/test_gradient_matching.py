import pytest
import torch
from puretransforms.poisons.targeted.base.gradient_matching import GradientMatching, learning
from torch.nn.functional import cross_entropy

from puretransforms.errors import LabelError, ManifestMismatchError, NoImageError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.targeted.base import TargetedPerturbation, TargetedSetup
from puretransforms.train.classifier import train_classifier

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
    for _ in train_classifier(surrogate, *data, epochs=15, batch_size=10, max_lr=0.05, augment=None):
        pass
    return surrogate.eval()


def cosine(a, b):
    a, b = (torch.cat([part.flatten() for part in gradient]) for gradient in (a, b))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_the_poisons_teach_what_the_target_under_the_wrong_label_would(data, setup, learned):
    (images, labels), surrogate = data, learned
    poison = GradientMatching(**TINY, max_shift=1.0).craft(images, labels, setup, surrogate=surrogate)
    wanted = learning(surrogate, setup.target[None] / 255, torch.tensor([2]))
    before = cosine(learning(surrogate, images[setup.base_indices] / 255, labels[setup.base_indices]), wanted)
    poisoned = poison.apply(images)
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
    poison.craft(images, torch.ones(200, dtype=torch.int64), setup, surrogate=surrogate)
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
    poison = GradientMatching(**TINY, epsilon=8 / 255).craft(images, labels, setup, surrogate=surrogate)
    poisoned = poison.apply(images)
    changed = (poisoned != images).flatten(1).any(1)
    assert changed.nonzero()[:, 0].equal(setup.base_indices)
    assert (poisoned.int() - images.int()).abs().max() == 8
    altered = poison.images(images)
    assert sorted(altered) == setup.base_indices.tolist() and altered[5].equal(poisoned[5])


def test_the_same_seed_gives_the_same_poison_and_the_surrogates_are_put_back(data, setup, surrogate):
    images, labels = data
    torch.manual_seed(1)
    other = SmallConvNet(3, width=4)
    other.head.bias.requires_grad_(False)
    a, b, c = (
        GradientMatching(**TINY, seed=seed).craft(images, labels, setup, surrogate=[surrogate, other])
        for seed in (0, 0, 1)
    )
    assert a.delta.equal(b.delta) and not a.delta.equal(c.delta)
    assert other.training and not other.head.bias.requires_grad and other.head.weight.requires_grad
    state = torch.get_rng_state()
    GradientMatching(**TINY).craft(images, labels, setup)  # trains one of its own
    assert state.equal(torch.get_rng_state())


def test_it_goes_to_a_file_and_back_and_its_budget_is_checked(data, setup, surrogate, tmp_path):
    images, labels = data
    poison = GradientMatching(**TINY).craft(images, labels, setup, surrogate=surrogate)
    path = poison.save(tmp_path / "poison.safetensors")
    again = TargetedPerturbation.load(path)
    assert again.apply(images).equal(poison.apply(images)) and again.loss == poison.loss
    TargetedPerturbation(poison.index, poison.delta, 8 / 255, 0.0).save(path)
    with pytest.raises(ManifestMismatchError, match="inside the stored budget"):
        TargetedPerturbation.load(path)


def test_refusals(data, setup, surrogate):
    images, labels = data
    attack = GradientMatching(**TINY)
    with pytest.raises(NoImageError, match="at 8 bits"):
        attack.craft(images / 255, labels, setup)
    with pytest.raises(LabelError, match="bases of class 2, but 1 of 2"):
        attack.craft(images, labels, TargetedSetup(setup.target, 1, 2, torch.tensor([2, 3])))
    for wrong in ([2, 2], [2, 41], []):
        with pytest.raises(LabelError, match="different base indices"):
            attack.craft(images, labels, TargetedSetup(setup.target, 1, 2, torch.tensor(wrong, dtype=torch.int64)))
    with pytest.raises(LabelError, match="maps images"):
        attack.craft(images, labels, setup, surrogate=SmallConvNet(4, width=4))
    poison = attack.craft(images, labels, setup, surrogate=surrogate)
    with pytest.raises(NoImageError, match="training set at 8 bits"):
        poison.apply(images[..., :6])
    with pytest.raises(ValueError, match="at least 1"):
        GradientMatching(steps=0)

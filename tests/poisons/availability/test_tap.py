import pytest
import torch

from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.availability.tap import HYPO, TAP
from puretransforms.train.classifier import evaluate, predict, train_classifier
from puretransforms.train.recipes import OneCycleSGD

TINY = {"num_classes": 3, "width": 4, "epochs": 1}


@pytest.fixture(scope="module")
def data():
    """Three classes of noisy images told apart by brightness of one third."""
    labels = torch.arange(60) % 3
    images = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.6
    for label in range(3):
        images[labels == label, :, 4 * label : 4 * label + 4] += 0.08
    return images.mul(255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def surrogate(data):
    torch.manual_seed(0)
    model = SmallConvNet(3, width=8)
    for _ in train_classifier(model, *data, epochs=12, batch_size=16, recipe=OneCycleSGD(max_lr=0.05), augment=None):
        pass
    assert evaluate(model, *data) > 0.9
    return model


def test_the_surrogate_takes_every_image_for_the_next_class(data, surrogate):
    images, labels = data
    poison = TAP(**TINY, epsilon=16 / 255, step=2 / 255, steps=20, restarts=1, max_shift=1.0)
    poisoned, kept = poison.fit((images, labels), surrogate=surrogate)(images, labels)
    assert kept.equal(labels)
    taken = predict(surrogate, poisoned)
    assert (taken == (labels + 1) % 3).double().mean() > 0.9
    assert (poisoned.int() - images.int()).abs().max() == 16


@pytest.mark.parametrize("side", [32, 64])
def test_its_views_shift_by_up_to_an_eighth_of_the_side(side):
    images = torch.zeros(200, 3, side, side, dtype=torch.uint8)
    images[:, :, side // 2 - 2 : side // 2 + 2, side // 2 - 2 : side // 2 + 2] = 255
    model, seen = SmallConvNet(3, width=4), []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    poison = TAP(**TINY, epsilon=1 / 255, steps=1, restarts=1)
    poison.fit((images, torch.arange(200) % 3), surrogate=model)
    views = [x for x in seen if len(x) == 200 and not x[:, :, side // 2, side // 2].gt(0.9).all()]
    assert len(views) == 1
    mass = (views[0].mean(1) - 2 / 255).clamp_min(0)
    for axis in (1, 2):
        centre = (mass.sum(axis) * torch.arange(float(side))).sum(1) / mass.sum((1, 2)) - (side - 1) / 2
        assert 0.9 * side / 8 < centre.abs().max() < side / 8 + 0.05


def test_hypo_makes_the_true_class_surer_and_untargeted_tap_less(data, surrogate):
    images, labels = data

    def truth(x):
        with torch.no_grad():
            return surrogate(x.float() / 255).softmax(1).gather(1, labels[:, None]).mean()

    surrogate.eval()
    hypo = HYPO(**TINY, steps=10).fit((images, labels), surrogate=surrogate)
    away = TAP(**TINY, steps=10, restarts=1, targeted=False).fit((images, labels), surrogate=surrogate)
    assert truth(hypo(images, labels)[0]) > truth(images) > truth(away(images, labels)[0])


def test_more_restarts_never_end_higher(data, surrogate):
    images, labels = data
    aims = (labels + 1) % 3

    def loss(restarts):
        poison = TAP(**TINY, steps=2, restarts=restarts, max_shift=0.0).fit((images, labels), surrogate=surrogate)
        with torch.no_grad():
            logits = surrogate((images / 255 + poison.delta).clamp(0, 1))
        return torch.nn.functional.cross_entropy(logits, aims, reduction="none")

    surrogate.eval()
    one, four = loss(1), loss(4)  # both begin at one start; 8 bits and bfloat16 round
    assert (four <= one + 0.2).all() and four.mean() < one.mean() - 1e-3


def test_without_a_surrogate_one_is_trained_and_the_given_one_is_left_alone(data, surrogate):
    images, labels = data
    before = {name: value.clone() for name, value in surrogate.state_dict().items()}
    surrogate.train()
    a = TAP(**TINY, steps=1, restarts=1).fit((images, labels), surrogate=surrogate)
    assert surrogate.training and all(p.requires_grad for p in surrogate.parameters())
    assert all(value.equal(before[name]) for name, value in surrogate.state_dict().items())
    b = TAP(**TINY, steps=1, restarts=1).fit((images, labels))
    assert not a.delta.equal(b.delta)


def test_refusals():
    with pytest.raises(ValueError, match="at least 1"):
        TAP(restarts=0)

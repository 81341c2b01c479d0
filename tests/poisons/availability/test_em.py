import pytest
import torch

from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.availability.em import APBENCH, EMClasswise, EMSamplewise
from puretransforms.train.classifier import evaluate, train_classifier
from puretransforms.train.recipes import OneCycleSGD

TINY = {"width": 4, "num_classes": 3, "train_steps": 4, "batch_size": 32}


@pytest.fixture
def data():
    return blobs(0.3)


def blobs(height):
    """Three classes told apart by the place of a soft blob, in noise: the higher the easier."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    images = torch.rand(96, 3, 12, 12, generator=generator) * 0.7
    for label in range(3):
        images[labels == label, :, 4 * label : 4 * label + 4, 3:9] += height
    return images.mul(255).to(torch.uint8), labels


@pytest.mark.parametrize("kind", [EMClasswise, EMSamplewise])
def test_the_noise_lowers_the_loss_and_the_rounds_end_when_nothing_is_left_to_learn(data, kind):
    images, labels = data
    poison = kind(**TINY, pgd_steps=5, stop_accuracy=0.9).fit((images, labels))
    assert poison.history[-1] >= 0.9 and all(accuracy < 0.9 for accuracy in poison.history[:-1])
    capped = kind(**TINY, stop_accuracy=1.1, max_rounds=2).fit((images, labels))
    assert len(capped.history) == 2


def test_class_noise_is_one_image_for_each_class_and_a_mean_of_signs(data):
    images, labels = data
    poison = EMClasswise(**TINY, max_rounds=1, subset=1.0, step=8 / 255).fit((images, labels))
    assert poison.delta.shape == (3, 3, 12, 12)
    steps = poison.delta * 255 / 8 * 32 / 2  # a mean over 32 images of +-8/255 moves in steps of 2 / 32 * 8/255
    assert (steps - steps.round()).abs().max() < 1e-3, "every mean is a whole number of steps"
    assert (steps.abs() < 15.5).float().mean() > 0.5, "a sum of signs, clamped to the budget, would be +-16 throughout"
    assert poison.delta.flatten(1).std(1).min() > 0


def test_a_class_without_images_gets_no_noise(data):
    images, labels = data
    poison = EMClasswise(**{**TINY, "num_classes": 4}, max_rounds=1).fit((images, labels))
    assert poison.delta[3].eq(0).all() and not poison.delta[:3].eq(0).all()


@pytest.mark.parametrize("kind", [EMClasswise, EMSamplewise])
def test_one_sided_noise_is_the_positive_half_and_two_sided_is_both(data, kind):
    both, half = (kind(**TINY, max_rounds=1, one_sided=side).fit(data) for side in (False, True))
    assert both.delta.min() < 0 < both.delta.max()
    assert half.delta.min() == 0 and half.delta.max() > 0
    assert half.delta.equal(both.delta.clamp_min(0))  # one round: the halves part only after it


def test_the_five_step_variant_reaches_the_face_of_the_ball(data):
    poison = EMSamplewise(**TINY, max_rounds=1, **APBENCH).fit(data)
    assert poison.delta.abs().max() * 255 == pytest.approx(8)
    short = EMSamplewise(**TINY, max_rounds=1, pgd_steps=2).fit(data)
    assert short.delta.abs().max() * 255 <= 2  # 2 x 0.8 rounds to 2


def test_the_users_surrogate_is_the_one_that_is_trained(data):
    torch.manual_seed(0)
    surrogate = SmallConvNet(3, width=4)
    before = surrogate.head.weight.detach().clone()
    poison = EMClasswise(**TINY, max_rounds=2).fit(data, surrogate=surrogate)
    assert not surrogate.head.weight.equal(before) and surrogate.head.weight.requires_grad
    assert not poison.delta.equal(EMClasswise(**TINY, max_rounds=2).fit(data).delta)


def test_a_classifier_learns_the_noise_instead_of_the_images():
    images, labels = blobs(0.1)
    poison = EMClasswise(**TINY, epsilon=16 / 255, step=4 / 255, pgd_steps=5, max_rounds=20).fit((images, labels))
    other = (labels + 1) % 3
    swapped = poison(images, other)[0]  # each image wears the noise of another class
    follows = []
    for train in (images, poison(images, labels)[0]):
        torch.manual_seed(1)
        model = SmallConvNet(3, width=8)
        options = {"epochs": 10, "batch_size": 16, "recipe": OneCycleSGD(0.05), "augment": None}
        for _ in train_classifier(model, train, labels, **options):
            pass
        assert evaluate(model, train, labels) > 0.9
        follows.append(evaluate(model, swapped, other))
    assert follows[0] < 0.1 and follows[1] > 0.3, follows


def test_refusals():
    with pytest.raises(ValueError, match="at least 1"):
        EMSamplewise(pgd_steps=0)
    with pytest.raises(ValueError, match="subset"):
        EMClasswise(subset=0.0)

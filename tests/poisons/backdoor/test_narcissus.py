import pytest
import torch

from puretransforms.errors import LabelError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.backdoor.narcissus import Narcissus
from puretransforms.train.classifier import evaluate, predict, train_classifier
from puretransforms.train.recipes import OneCycleSGD

TINY = {"num_classes": 3, "target": 2, "width": 4, "epochs": 1, "rounds": 40, "lr": 0.1, "warmup": 0, "padding": 1}


@pytest.fixture(scope="module")
def data():
    """Three classes of noisy images told apart by brightness of one third."""
    labels = torch.arange(60) % 3
    images = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    for label in range(3):
        images[labels == label, :, 4 * label : 4 * label + 4] += 0.15
    return images.mul(255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def surrogate(data):
    torch.manual_seed(0)
    model = SmallConvNet(3, width=8)
    for _ in train_classifier(model, *data, epochs=12, batch_size=16, recipe=OneCycleSGD(max_lr=0.05), augment=None):
        pass
    assert evaluate(model, *data) > 0.9
    return model


def test_the_trigger_says_target_class_to_the_surrogate(data, surrogate):
    images, labels = data
    poison = Narcissus(**{**TINY, "rounds": 120}).fit((images, labels), surrogate=surrogate)
    assert (predict(surrogate, images[labels != 2]) == 2).double().mean() < 0.1
    assert (predict(surrogate, poison.trigger(images[labels != 2])) == 2).double().mean() > 0.9


def test_training_images_stay_in_the_ball_and_test_images_wear_it_magnified(data, surrogate):
    images, labels = data
    poison = Narcissus(**TINY, epsilon=8 / 255, magnify=2.0).fit((images, labels), surrogate=surrogate)
    poisoned, kept = poison(images, labels)
    change, shown = poisoned.int() - images.int(), poison.trigger(images).int() - images.int()
    assert kept.equal(labels) and change[labels != 2].eq(0).all()
    assert change[labels == 2].abs().max() == 8 and shown.abs().max() == 16
    inside = (images > 20) & (images < 235)
    assert shown[0][inside[0]].equal(2 * poison.delta[2].mul(255).round().int()[inside[0]])


@pytest.mark.parametrize("warmup", [0, 1])
def test_images_are_cropped_and_mirrored_and_the_trigger_is_added_afterwards(warmup):
    """An image whose rows and columns count up says where a crop was taken and whether it was mirrored."""
    images = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    images[:, 0], images[:, 1], images[:, 2] = torch.arange(100, 132), torch.arange(100, 132)[:, None], 128
    model, seen = SmallConvNet(3, width=4), []
    poison = Narcissus(**{**TINY, "rounds": 8, "lr": 0.3, "warmup": warmup, "padding": 4})

    def look(module, given):
        seen.append((module.training, given[0].detach()))

    model.register_forward_pre_hook(look)
    poison.fit((images, torch.full((50,), 2)), surrogate=model)
    seen = [(training, x) for training, x in seen if len(x) == 50]
    assert [training for training, _ in seen] == [True] * warmup + [False] * 8
    first = seen[0][1] * 255  # no trigger yet
    column, row = first[:, 0, 16], first[:, 1, :, 16]
    mirrored = column[:, 16] < column[:, 15]
    assert 10 < mirrored.sum() < 40
    assert (row[:, 16].round() - 116).abs().max() == 4 and row[:, 16].std() > 1.5
    blue = seen[-1][1][:, 2, 4:-4, 4:-4] * 255 - 128  # of one colour where no crop leaves the image
    assert blue.abs().max() > 1 and blue.eq(blue[0]).all()  # the trigger alone, in one place on every crop


def test_the_surrogate_is_left_alone_and_may_have_other_classes(data, surrogate):
    images, labels = data
    torch.manual_seed(1)
    other = SmallConvNet(5, width=8)
    for _ in train_classifier(
        other, images, labels + 2, epochs=4, batch_size=16, recipe=OneCycleSGD(max_lr=0.05), augment=None
    ):
        pass
    before = {name: value.clone() for name, value in other.state_dict().items()}
    other.train()
    poison = Narcissus(**{**TINY, "warmup": 2, "rounds": 10}, logit=4).fit((images, labels), surrogate=other)
    assert other.training and all(value.equal(before[name]) for name, value in other.state_dict().items())
    plain = Narcissus(**{**TINY, "rounds": 10}, logit=4).fit((images, labels), surrogate=other)
    assert not poison.delta.equal(plain.delta)  # without warm-up
    with pytest.raises(LabelError, match=r"logits \[1, 3\], got \[1, 5\]"):
        Narcissus(**TINY).fit((images, labels), surrogate=other)
    with pytest.raises(LabelError, match=r"logits \[1, 6\], got \[1, 5\]"):
        Narcissus(**TINY, logit=5).fit((images, labels), surrogate=other)


def test_images_of_the_target_class_are_all_it_takes(data, surrogate):
    images, labels = data
    chosen = labels == 2
    whole = Narcissus(**TINY).fit((images, labels), surrogate=surrogate)
    assert Narcissus(**TINY).fit((images[chosen], labels[chosen]), surrogate=surrogate).delta.equal(whole.delta)
    with pytest.raises(LabelError, match="target class 2, got none"):
        Narcissus(**TINY).fit((images[~chosen], labels[~chosen]), surrogate=surrogate)


def test_it_goes_to_a_file_and_back(data, surrogate, tmp_path):
    images, labels = data
    poison = Narcissus(**TINY, magnify=2.0).fit((images, labels), surrogate=surrogate)
    again = Narcissus.load(poison.save(tmp_path / "trigger.safetensors"))
    assert again.trigger(images).equal(poison.trigger(images)) and again.arguments == poison.arguments


def test_refusals():
    with pytest.raises(ValueError, match="at least 1"):
        Narcissus(magnify=0.5)
    with pytest.raises(ValueError, match="target as a whole number from 0 to 2, got 3"):
        Narcissus(num_classes=3, target=3)

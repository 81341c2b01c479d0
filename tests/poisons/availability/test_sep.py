import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from puretransforms.errors import SurrogateError
from puretransforms.models.resnet import SmallConvNet
from puretransforms.poisons.availability.sep import SEP, class_means
from puretransforms.poisons.availability.tap import TAP
from puretransforms.poisons.optimise import features_of, logits_of
from puretransforms.train.classifier import predict, train_classifier
from puretransforms.train.recipes import OneCycleSGD

TINY = {"num_classes": 3, "target_shift": 1, "epochs": 1, "width": 4, "checkpoints": 1}


@pytest.fixture(scope="module")
def data():
    """Three classes of noisy images told apart by brightness of one third."""
    labels = torch.arange(60) % 3
    images = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.6
    for label in range(3):
        images[labels == label, :, 4 * label : 4 * label + 4] += 0.08
    return images.mul(255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def networks(data):
    """Two networks that agree on the data and on little else."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = SmallConvNet(3, width=8)
        for _ in train_classifier(
            model, *data, epochs=12, batch_size=16, recipe=OneCycleSGD(max_lr=0.05), augment=None, seed=seed
        ):
            pass
        found.append(model.eval())
    return found


def towards(loss, x):
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(loss(x), x)[0]


@pytest.mark.parametrize("aligned", [False, True])
def test_the_first_step_follows_the_mean_gradient_of_all_checkpoints(data, networks, aligned):
    images, labels = data[0][:6], data[1][:6]
    aim, x = (labels + 1) % 3, images / 255
    total = torch.zeros_like(x)
    for model in networks:
        if aligned:
            goal = torch.stack([features_of(model, x[labels == k])[0].mean(0) for k in range(3)])[aim].detach()
            total += towards(lambda v, m=model, g=goal: mse_loss(features_of(m, v)[0], g, reduction="sum"), x)
        else:
            total += towards(lambda v, m=model: cross_entropy(logits_of(m, v), aim, reduction="sum"), x)
    expected = (x - 4 / 255 * total.sign()).clamp(0, 1) - x
    poison = SEP(**TINY, step=4 / 255, steps=1, align_features=aligned).fit((images, labels), surrogate=networks)
    torch.testing.assert_close(poison.delta, expected, rtol=0, atol=1e-6)


def test_class_means_are_means_and_zero_for_an_absent_class(data, networks):
    images, labels = data
    means = class_means(networks[0], images, labels, 4)
    expected = features_of(networks[0], images[labels == 1] / 255)[0].mean(0)
    torch.testing.assert_close(means[1], expected, rtol=1e-2, atol=1e-3)
    assert means[3].eq(0).all()


@pytest.mark.parametrize("aligned", [False, True])
def test_all_checkpoints_are_fooled_and_labels_kept(data, networks, aligned):
    images, labels = data
    poison = SEP(**TINY, epsilon=16 / 255, step=2 / 255, steps=15, align_features=aligned)
    poisoned, kept = poison.fit((images, labels), surrogate=networks)(images, labels)
    assert kept.equal(labels)
    for model in networks:
        assert (predict(model, poisoned) == (labels + 1) % 3).double().mean() > 0.9
    alone = poison.fit((images, labels), surrogate=networks[:1])(images, labels)[0]
    assert (predict(networks[1], alone) == (labels + 1) % 3).double().mean() < 1
    assert not alone.equal(poisoned)


def test_the_number_of_networks_is_checked(data, networks):
    with pytest.raises(SurrogateError, match="some networks as the surrogate of SEP, got 0"):
        SEP(**TINY).fit(data, surrogate=[])
    with pytest.raises(SurrogateError, match="one network as the surrogate of TAP, got 2"):
        TAP(num_classes=3).fit(data, surrogate=networks)
    with pytest.raises(ValueError, match="checkpoints as a whole number from 1 to 10, got 11"):
        SEP(checkpoints=11, epochs=10)
    with pytest.raises(ValueError, match="steps as a whole number of at least 1"):
        SEP(steps=0)

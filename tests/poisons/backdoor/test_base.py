import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import TensorDataset

from puretransforms.errors import LabelError, NoImageError
from puretransforms.poisons.availability.noise import ClasswiseNoise
from puretransforms.poisons.backdoor.badnets import BadNets
from puretransforms.poisons.backdoor.base import Backdoor
from puretransforms.poisons.backdoor.sig import SIG
from puretransforms.poisons.dataset import PoisonedDataset, asr_test_set


@pytest.fixture
def data():
    x = torch.randint(0, 256, (30, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(30) % 3


def test_all_to_one_and_all_to_all_labels(data):
    x, labels = data
    assert BadNets(target=2, num_classes=3)(x, labels)[1].tolist() == [2] * 30
    assert BadNets(mode="all-to-all", num_classes=3)(x, labels)[1].equal((labels + 1) % 3)


def test_a_clean_label_backdoor_touches_its_target_class_only(data):
    x, labels = data
    poison = SIG(target=1, num_classes=3)
    poisoned, out = poison(x, labels)
    assert out.equal(labels)
    assert (poisoned != x).flatten(1).any(1).equal(labels == 1)
    data_set = PoisonedDataset(TensorDataset(x, labels), poison, rate=1 / 3)
    assert data_set.mask.equal(labels == 1)
    with pytest.raises(ValueError, match=r"at most 0\.333333 for SIG .*10 of 30 samples are eligible"):
        PoisonedDataset(TensorDataset(x, labels), poison, rate=0.5)


def test_the_trigger_needs_no_label_and_is_what_training_saw(data):
    x, labels = data
    poison = BadNets(num_classes=3)
    assert poison.trigger(x).equal(poison(x, labels)[0])
    assert SIG(num_classes=3).trigger(x).ne(x).flatten(1).any(1).all()  # every class at test time
    pil = PIL.Image.fromarray(x[0].permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(poison.trigger(pil)), poison.trigger(x[0]).permute(1, 2, 0).numpy())


def test_the_attack_is_measured_on_images_that_are_not_what_the_attacker_wants_already(data):
    x, labels = data
    for poison in (BadNets(target=2, num_classes=3), SIG(target=2, num_classes=3)):
        test = asr_test_set(TensorDataset(x, labels), poison)
        assert len(test) == 20 and test.targets == [2] * 20
        originals = (labels != 2).nonzero().flatten().tolist()
        for i, original in enumerate(originals):
            image, label = test[i]
            assert image.equal(poison.trigger(x[original])) and label == 2
    test = asr_test_set(TensorDataset(x, labels), BadNets(mode="all-to-all", num_classes=3))
    assert len(test) == 30 and test.targets == ((labels + 1) % 3).tolist()


def test_refusals(data):
    x, labels = data
    with pytest.raises(LabelError, match="other classes than the target 1"):
        asr_test_set(TensorDataset(x, torch.ones_like(labels)), BadNets(target=1))
    with pytest.raises(TypeError, match="has a trigger, got ClasswiseNoise"):
        asr_test_set.__wrapped__(TensorDataset(x, labels), ClasswiseNoise())
    for bad in ({"target": 10}, {"target": -1}, {"mode": "some"}):
        with pytest.raises(ValueError, match="expected"):
            BadNets(**bad)
    with pytest.raises(NoImageError, match="label second"):
        BadNets().trigger(3)
    with pytest.raises(NotImplementedError, match="must define stamp"):
        Backdoor().trigger(x)

import json

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from puretransforms.errors import LabelError, NoImageError, NotFittedError, SourceError
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.poisons.export import export, load_poison_record
from puretransforms.poisons.targeted.base import TargetedPoison, TargetedSetup


class Planted(TargetedPoison):
    """Base ``i`` gets ``i + 1`` levels in every pixel."""

    def __init__(self, *, epsilon=8 / 255, num_classes=3, seed=0, quantize="round"):
        super().__init__(epsilon=epsilon, width=4, epochs=1, num_classes=num_classes, seed=seed, quantize=quantize)

    @property
    def arguments(self):
        return {"epsilon": self.epsilon, "num_classes": self.num_classes, "seed": self.seed}

    def optimise(self, bases, target, setup, surrogates, progress):
        levels = torch.arange(1, len(bases) + 1) / 255
        return torch.zeros_like(bases) + levels[:, None, None, None], 0.25


class Named(TensorDataset):
    classes = ("ant", "bee", "cow")


@pytest.fixture
def data():
    images = torch.randint(50, 200, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(12) % 3


@pytest.fixture
def setup(data):
    return TargetedSetup(data[0][1], 1, 2, torch.tensor([8, 2, 5]))


def added(poison, images, labels, index=None):
    return (poison(images, labels, index)[0].int() - images.int())[:, 0, 0, 0].tolist()


EXPECTED = [0, 0, 2, 0, 0, 3, 0, 0, 1, 0, 0, 0]


def test_the_bases_are_altered_by_index_or_pixels_and_all_others_pass(data, setup):
    images, labels = data
    poison = Planted().fit(data, setup=setup)
    assert added(poison, images, labels, torch.arange(12)) == added(poison, images, labels) == EXPECTED
    order = torch.tensor([8, 1, 2])
    assert added(poison, images[order].flip(2), labels[order], order) == [1, 0, 2]  # other pixels: the index decides
    assert added(poison, images[order].flip(2), labels[order]) == [0, 0, 0]
    off_grid = images / 255 + 0.2 / 255
    assert poison(off_grid, labels, torch.arange(12))[0][0].equal(off_grid[0])
    assert poison.bases.tolist() == [8, 2, 5] and poison.loss == 0.25
    assert poison(images, labels)[1].equal(labels)


def test_the_bases_count_in_the_index_that_fit_is_given(data, setup):
    images, labels = data
    places = torch.arange(12).flip(0) * 10
    shifted = TargetedSetup(setup.target, 1, 2, places[setup.base_indices])
    poison = Planted().fit(data, setup=shifted, index=places)
    assert added(poison, images, labels, places) == EXPECTED
    with pytest.raises(LabelError, match="different base indices from 0 to 110"):
        Planted().fit(data, setup=setup, index=places)


def test_a_poisoned_dataset_poisons_the_bases_and_goes_to_disk(data, setup, tmp_path):
    images, labels = data
    inner = TensorDataset(images, labels)
    poison = Planted().fit(inner, setup=setup)
    poisoned = PoisonedDataset(inner, poison)
    assert poisoned.mask.nonzero()[:, 0].tolist() == [2, 5, 8] and poisoned.rate == 3 / 12
    batch, targets = next(iter(DataLoader(poisoned, batch_size=12)))
    assert batch.equal(poison(images, labels, torch.arange(12))[0]) and targets.equal(labels)
    record = load_poison_record(export(poisoned, tmp_path / "out"), clean=inner)
    assert record.mask.equal(poisoned.mask) and record.measured["linf_max"] == pytest.approx(3 / 255, rel=1e-4)
    fewer = PoisonedDataset(inner, poison, rate=1 / 12)
    assert fewer.mask.sum() == 1 and (poisoned.mask | ~fewer.mask).all()
    with pytest.raises(ValueError, match=r"at most 0\.25 for Planted"):
        PoisonedDataset(inner, poison, rate=0.5)


def test_a_dataset_without_the_bases_and_a_poison_without_a_target_are_refused(data, setup):
    images, labels = data
    poison = Planted().fit(data, setup=setup)
    with pytest.raises(ValueError, match="fitted to alter, got none among 2"):
        PoisonedDataset(TensorDataset(images[:2], labels[:2]), poison)
    with pytest.raises(LabelError, match="expected label 2, with which an image was fitted, got 0"):
        poison(images, torch.zeros_like(labels), torch.arange(12))
    with pytest.raises(NotFittedError, match="setup=TargetedSetup"):
        PoisonedDataset(TensorDataset(images, labels), Planted())
    with pytest.raises(NotFittedError, match="setup=TargetedSetup"):
        Planted().fit(data)
    with pytest.raises(NotFittedError, match="setup=TargetedSetup"):
        Planted()(images, labels)


def test_setups_that_do_not_fit_the_training_set_are_refused(data, setup):
    with pytest.raises(NoImageError, match=r"uint8 \[3, 8, 8\], got torch.uint8 \[3, 8, 4\]"):
        Planted().fit(data, setup=TargetedSetup(setup.target[..., :4], 1, 2, setup.base_indices))
    with pytest.raises(LabelError, match="bases of class 2, but 1 of 2"):
        Planted().fit(data, setup=TargetedSetup(setup.target, 1, 2, torch.tensor([2, 3])))
    for wrong in ([2, 2], [2, 41], [-1], []):
        with pytest.raises(LabelError, match="different base indices"):
            Planted().fit(data, setup=TargetedSetup(setup.target, 1, 2, torch.tensor(wrong, dtype=torch.int64)))


def written(path, **setup):
    path.write_text(json.dumps(setup))
    return path


def test_a_setup_is_read_from_json_by_place_and_names_or_by_file_and_numbers(data, tmp_path):
    images, labels = data
    path = tmp_path / "setup.json"
    train = Named(images, labels)
    written(path, target_index=4, target_class="bee", base_class="cow", base_indices=[2, 5])
    setup = TargetedSetup.from_json(path, train, train)
    assert setup.target.equal(images[4]) and (setup.target_class, setup.base_class) == (1, 2)
    assert setup.base_indices.tolist() == [2, 5]
    PIL.Image.fromarray(images[4].permute(1, 2, 0).numpy()).save(tmp_path / "target.png")
    written(path, target_image="target.png", target_class=1, base_class=2, bases=3, seed=1)
    setup = TargetedSetup.from_json(path, data)
    assert setup.target.equal(images[4]) and (setup.target_class, setup.base_class) == (1, 2)
    assert (labels[setup.base_indices] == 2).all() and len(setup.base_indices.unique()) == 3
    assert TargetedSetup.from_json(path, data).base_indices.equal(setup.base_indices)
    again = {"target_image": "target.png", "target_class": 1, "base_class": 2, "bases": 3}
    setups = [TargetedSetup.from_json(written(path, **again, seed=seed), data) for seed in range(8)]
    assert len({tuple(other.base_indices.tolist()) for other in setups}) > 1
    assert Planted().fit(train, setup=setup).fitted


GOOD = {"target_index": 4, "base_class": 2, "bases": 2}


@pytest.mark.parametrize(
    ("setup", "error", "message"),
    [
        ({**GOOD, "base": 2}, SourceError, r"one JSON object of .*got \['base'\]"),
        ({"base_class": 2, "bases": 2}, SourceError, "target_index or target_image"),
        ({**GOOD, "target_image": "x.png"}, SourceError, "target_index or target_image"),
        ({**GOOD, "base_indices": [2]}, SourceError, "base_indices or bases"),
        ({**GOOD, "base_class": 7}, LabelError, "base_class of .* from 0 to 2 or one of ant, bee, cow, got 7"),
        ({**GOOD, "base_class": "cat"}, LabelError, "got 'cat'"),
        ({**GOOD, "target_class": 0}, LabelError, "target of class 0, .* got one of class 1"),
        ({**GOOD, "target_index": 12}, SourceError, "a sample 12, .* got a test set of 12"),
        ({**GOOD, "bases": 5}, LabelError, "at least 5 images of class 2 .* got 4"),
        (
            {"target_image": "x.png", "base_class": 2, "bases": 2},
            SourceError,
            "target_image of .*FileNotFound",
        ),
        ([1], SourceError, "one JSON object"),
    ],
)
def test_a_wrong_setup_file_is_refused_in_one_sentence(data, tmp_path, setup, error, message):
    path = tmp_path / "setup.json"
    path.write_text(json.dumps(setup))
    train = Named(*data)
    with pytest.raises(error, match=message) as caught:
        TargetedSetup.from_json(path, train, train)
    assert "\n" not in str(caught.value)


def test_a_setup_that_is_no_json_or_has_no_test_set_is_refused(data, tmp_path):
    path = tmp_path / "setup.json"
    with pytest.raises(SourceError, match="FileNotFoundError"):
        TargetedSetup.from_json(path, data)
    path.write_text("{")
    with pytest.raises(SourceError, match="a setup as JSON"):
        TargetedSetup.from_json(path, data)
    with pytest.raises(SourceError, match="got no test set"):
        TargetedSetup.from_json(written(path, **GOOD), data)
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "target.png")
    with pytest.raises(SourceError, match="target_class beside the target_image"):
        TargetedSetup.from_json(written(path, target_image="target.png", base_class=2, bases=1), data)

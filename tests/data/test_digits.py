"""The digits: sizes, what they look like, that the seed fixes everything, and the error without scikit-learn."""

import sys

import pytest
import torch
from torch.nn.functional import interpolate

from puretransforms.data.digits import load_digits
from puretransforms.data.samples import LabelledImages
from puretransforms.errors import MissingExtraError

sklearn_datasets = pytest.importorskip("sklearn.datasets")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_sizes_types_and_classes() -> None:
    train, test = load_digits()
    assert train.images.shape == (1297, 3, 32, 32) and test.images.shape == (500, 3, 32, 32)
    for part in (train, test):
        assert part.images.dtype == torch.uint8 and part.targets.dtype == torch.int64
        assert set(part.targets.tolist()) == set(range(10))


def test_every_drawing_is_there_once_with_its_label() -> None:
    drawings = sklearn_datasets.load_digits()
    parts = load_digits()
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.targets for part in parts])
    brightness = interpolate(images.float().mean(1, keepdim=True), size=(8, 8), mode="area").flatten(1)
    ours = torch.nn.functional.normalize(brightness - brightness.mean(1, keepdim=True))
    originals = torch.from_numpy(drawings.images).float().flatten(1)
    theirs = torch.nn.functional.normalize(originals - originals.mean(1, keepdim=True))
    closest = (ours @ theirs.T).argmax(1)
    assert (torch.from_numpy(drawings.target)[closest] == labels).double().mean() > 0.99
    assert len(closest.unique()) > 0.98 * 1797


def test_the_mean_colour_says_nothing_about_the_class() -> None:
    train, _ = load_digits()
    corner = train.images[:, :, :3, :3].float().mean((2, 3))  # the ground
    means = torch.stack([corner[train.targets == label].mean(0) for label in range(10)])
    assert means.std(0).max() < 0.25 * corner.std(0).min()


def test_the_seed_fixes_split_and_colours() -> None:
    first, again, other = (load_digits(seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.targets, other.targets)


def test_samples_are_pairs_of_image_and_int() -> None:
    data = LabelledImages(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([7, 8]))
    image, label = data[1]
    assert len(data) == 2 and image.shape == (3, 4, 4) and label == 8 and type(label) is int


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"pip install puretransforms\[demo\]"):
        load_digits()

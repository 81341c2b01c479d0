"""Poison on a part of the images of each class."""

import pytest
import torch

from puretransforms.data.samples import LabelledImages
from puretransforms.poisons import ClasswiseNoise
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.scanning.detectors import Kind, Neighbours
from puretransforms.scanning.sample import gather
from puretransforms.scanning.source import open_stream

from ..conftest import make_pictures


def sample_of(data):
    stream = open_stream(data, None, 0, 1)
    return gather(stream.items, stream.classes, stream.total, stream.drawn)


@pytest.fixture(scope="module")
def detector():
    return Neighbours(threshold=0.02)


@pytest.mark.parametrize("side", [32, 96])
def test_a_part_of_the_images_is_found_and_named(detector, side):
    pictures = make_pictures(320, side=side)
    assert not detector(sample_of(pictures)).alarm
    poisoned = PoisonedDataset(pictures, ClasswiseNoise(num_classes=4, seed=0), rate=0.25, seed=0)
    sample = sample_of(poisoned)
    assert sample.tiled == (side > 64)
    found = detector(sample)
    assert found.alarm and detector.kind(found) is Kind.BOUNDED, found
    named = {sample.index[i] for i in found.suspects}
    right = set(poisoned.mask.nonzero()[:, 0].tolist())
    assert len(named & right) > 0.5 * len(right) and len(named - right) <= 0.05 * len(named)


def test_one_class_alone_is_a_trigger(detector, pictures):
    images = pictures.images.clone()
    rows = (pictures.targets == 1).nonzero()[:40, 0]
    pattern = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(3)).sign() * 8
    images[rows] = (images[rows].float() + pattern).clamp(0, 255).to(torch.uint8)
    found = detector(sample_of(LabelledImages(images, pictures.targets)))
    assert found.alarm and found.flagged == ["1"] and detector.kind(found) is Kind.TRIGGERED


@pytest.mark.parametrize(
    ("count", "labels", "why"),
    [(120, 4, "at least 200 images in classes of at least 30"), (400, 1, "two classes"), (400, 400, "two classes")],
)
def test_why_it_cannot_look(detector, pictures, count, labels, why):
    found = detector(sample_of(LabelledImages(pictures.images[:count], torch.arange(count) % labels)))
    assert why in found.untested and not found.alarm and len(found.images) == count


def test_without_weights_it_says_so(pictures):
    found = Neighbours(unet="no-such-weights")(sample_of(pictures))
    assert found.untested.startswith("no weights:") and not found.alarm

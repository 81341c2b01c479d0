"""Scan, then purify as advised."""

import copy
import json

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from puretransforms.auto import AutoPurify
from puretransforms.cleaning.clean import clean
from puretransforms.data.open_source import open_source
from puretransforms.data.samples import LabelledImages
from puretransforms.errors import InsufficientScanWarning, NotFittedError
from puretransforms.poisons import CUDA
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.transforms.coin import COINInterpolate

from .scanning.conftest import make_pictures


@pytest.fixture(scope="module")
def pictures():
    return make_pictures(400)


@pytest.fixture(scope="module")
def convolved(pictures):
    return PoisonedDataset(pictures, CUDA(num_classes=4, seed=0), seed=0)


def test_it_becomes_what_the_scan_advises(pictures, convolved):
    auto = AutoPurify(seed=1).fit(convolved, progress=False)
    assert auto.chain == [{"name": "coin", "alpha": 2.0}] and auto.result.verdict.kind == "convolution-based"
    x = convolved[0][0]
    assert torch.equal(auto(x), COINInterpolate(2.0, seed=1)(x))
    twin = copy.deepcopy(auto)
    assert twin.result is None and torch.equal(twin(x), auto(x)) and "alpha" in repr(twin)
    left = AutoPurify().fit(pictures, progress=False)
    assert left.chain == [] and torch.equal(left(x), x)
    assert auto.online and not left.online


def test_a_scan_that_says_nothing_is_a_warning_and_changes_nothing(pictures, tmp_path):
    few = LabelledImages(pictures.images[:60], torch.arange(60) % 3, ["a", "b", "c"])
    with pytest.warns(InsufficientScanWarning, match=r"insufficient: 1 of 9.*images stay as they are"):
        auto = AutoPurify().fit(few, progress=False)
    assert auto.chain == [] and auto.fitted and auto.result.insufficient
    assert torch.equal(auto(few.images[:4]), few.images[:4])


@pytest.mark.parametrize("kind", ["source", "folder"])
def test_it_scans_folders_and_sources(convolved, tmp_path, kind):
    folder = tmp_path / "convolved"
    for i in range(240):
        image, label = convolved[i]
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        F.to_pil_image(image).save(folder / str(label) / f"{i}.png")
    auto = AutoPurify().fit(folder if kind == "folder" else open_source(folder), progress=False)
    assert auto.chain == [{"name": "coin", "alpha": 2.0}]


def test_before_the_scan_it_refuses(pictures):
    with pytest.raises(NotFittedError, match="fit"):
        AutoPurify()(pictures.images[0])
    with pytest.raises(ValueError, match="coin"):
        AutoPurify([{"name": "bleach"}])


def test_a_chain_is_applied_in_order(pictures):
    x = pictures.images[:4]
    auto = AutoPurify([{"name": "grayscale"}, {"name": "coin", "alpha": 1.0}], seed=0)(x)
    assert torch.equal(auto[:, 0], auto[:, 1]) and not torch.equal(auto, x)


def test_clean_auto(convolved, tmp_path):
    folder = tmp_path / "convolved"
    for i in range(240):
        image, label = convolved[i]
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        F.to_pil_image(image).save(folder / str(label) / f"{i}.png")
    result = clean(folder, tmp_path / "out", "auto", workers=1, progress=False, report=False)
    assert result.counts == {"purified": 240}
    assert (
        "AutoPurify(chain=[{'name': 'coin', 'alpha': 2.0}]"
        in json.loads((tmp_path / "out/run.json").read_text())["purifier"]["repr"]
    )
    with pytest.raises(ValueError, match=r"among auto, .*, got 'magic'"):
        clean(folder, tmp_path / "other", "magic")

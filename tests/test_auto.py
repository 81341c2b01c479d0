"""Scan, then purify as advised."""

import copy
import json

import pytest
import torch
from torchvision.transforms.v2 import functional as F
from typer.testing import CliRunner

from puretransforms.auto import AutoPurify
from puretransforms.cleaning.clean import clean
from puretransforms.cli.main import app
from puretransforms.data.open_source import open_source
from puretransforms.data.samples import LabelledImages
from puretransforms.errors import InsufficientScanWarning, NotFittedError, UntouchedImageWarning
from puretransforms.poisons import CUDA, OPS, BadNets, ClasswiseNoise
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.registry import create
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
    with pytest.warns(InsufficientScanWarning, match=r"insufficient: 1 of 10.*images stay as they are"):
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


NOISE = ClasswiseNoise(num_classes=4, seed=0)


@pytest.fixture(scope="module")
def triggered(pictures):
    return PoisonedDataset(pictures, BadNets(num_classes=4, target=1, margin=3), rate=0.15, seed=0)


def test_a_trigger_is_set_aside_and_the_rest_left_as_it_is(triggered, tmp_path):
    """As a user does, without a bar: the verdict and what was dropped stand everywhere."""
    for i in range(len(triggered)):
        image, label = triggered[i]
        (tmp_path / "in" / str(label)).mkdir(parents=True, exist_ok=True)
        F.to_pil_image(image).save(tmp_path / "in" / str(label) / f"{i}.png")
    words = [str(tmp_path / "in"), str(tmp_path / "out"), "--with", "auto", "--no-progress", "--workers", "1"]
    with pytest.warns(UntouchedImageWarning, match="carry a trigger"):
        told = CliRunner().invoke(app, ["clean", *words])
    assert told.exit_code == 0, told.output
    dry = CliRunner().invoke(app, ["clean", *words, "--dry-run"])
    assert dry.stdout.splitlines()[0] == told.stdout.splitlines()[0] and "60 images that carry a trigger" in dry.stdout
    assert "\n340 images (" in dry.stdout and "to purify, 60 to put aside\n" in dry.stdout
    carriers = {str(i) for i in triggered.mask.nonzero()[:, 0].tolist()}
    aside = {file.stem for file in (tmp_path / "out.quarantine").rglob("*.png")}
    assert aside == carriers and len(aside) == 60
    lines = told.stdout.splitlines()
    assert lines[0].startswith(
        "scan: triggered suspects (clear). Found in a look at 400 of 400 images (clear): a trigger"
    )
    assert "- patches 0.40" in told.stdout and "60 images that carry a trigger (60 by patches)" in told.stdout
    assert "purifier: none" in lines, "no JPEG on images that carry nothing"
    assert "340 purified, 60 quarantined (340 of the purified unchanged)" in told.stdout
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["scan"]["dropped"]["by"] == {"patches": 60} and "chain=[]" in run["purifier"]["repr"]
    page = (tmp_path / "out/report.html").read_text()
    assert (
        "triggered suspects (clear)" in page
        and "60 suspects put aside" in page
        and "340 images kept as they are" in page
    )


def test_bounded_poison_under_a_trigger_is_purified_and_the_trigger_named(pictures, triggered):
    triggers, noisy = (
        torch.stack([torch.as_tensor(image) for image, _ in data])
        for data in (triggered, PoisonedDataset(LabelledImages(pictures.images, triggered.targets), NOISE, seed=0))
    )
    both = torch.where(triggers != pictures.images, triggers, noisy)
    auto = AutoPurify().fit(LabelledImages(both, triggered.targets), progress=False)
    assert {int(name) for name in auto.dropped} == set(triggered.mask.nonzero()[:, 0].tolist())
    assert auto.chain == [{"name": "jpeg", "quality": 10}]


def test_a_few_that_share_a_pattern_are_dropped_and_the_rest_is_not_smeared(pictures):
    """As a scan says of CUDA on a tenth of the images: a trigger, borderline. JPEG is no cure for that."""
    images = pictures.images.clone()
    rows = (pictures.targets == 2).nonzero()[:6, 0]
    pattern = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(5)).sign() * 48
    images[rows] = (images[rows].float() + pattern).clamp(0, 255).to(torch.uint8)
    auto = AutoPurify().fit(LabelledImages(images, pictures.targets), progress=False)
    assert auto.result.verdict.headline == "triggered suspects (borderline)"
    named = {int(name) for name in auto.dropped}
    assert named <= set(rows.tolist()) and len(named) >= 5 and auto.chain == []


def test_drop_none_keeps_them_and_does_what_a_purifier_can(triggered):
    auto = AutoPurify(drop="none").fit(triggered, progress=False)
    assert auto.dropped == {} and auto.chain == [{"name": "jpeg", "quality": 10}] and auto.result.carriers
    assert create("auto:drop=none", "purifier").drop == "none"
    with pytest.raises(ValueError, match="drop to be one of suspects, none, got 'all'"):
        AutoPurify(drop="all")


def test_a_draw_that_shows_a_trigger_becomes_a_look_at_every_image(triggered):
    auto = AutoPurify().fit(triggered, sample=250, progress=False)
    assert {int(name) for name in auto.dropped} == set(triggered.mask.nonzero()[:, 0].tolist())


def test_what_all_of_a_class_carries_is_purified_not_dropped(pictures):
    auto = AutoPurify().fit(PoisonedDataset(pictures, OPS(num_classes=4), seed=0), progress=False)
    assert auto.dropped == {} and auto.chain == [{"name": "jpeg", "quality": 10}]
    advice = auto.result.verdict.advice.lines
    assert "nearly all of their class" in advice[0] and not any("leave the suspects out" in line for line in advice)
    assert auto.result.flagged and not auto.result.carriers


def test_a_stream_that_can_be_read_once_is_looked_at_whole(triggered):
    auto = AutoPurify().fit(iter([triggered[i] for i in range(len(triggered))]), sample=250, progress=False)
    assert {int(name) for name in auto.dropped} == set(triggered.mask.nonzero()[:, 0].tolist())


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

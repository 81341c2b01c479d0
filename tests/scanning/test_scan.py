"""Scans of pictures, poisoned and not."""

import csv
import json

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from puretransforms.data.samples import LabelledImages
from puretransforms.poisons import CUDA, OPS, BadNets, ClasswiseNoise
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.scanning.scan import scan

from .conftest import make_pictures


def poisoned(pictures, poison, rate=1.0):
    return PoisonedDataset(pictures, poison, rate=rate, seed=0)


def look(source, **options):
    return scan(source, progress=False, **options)


def test_pictures_raise_no_alarm(pictures):
    result = look(pictures)
    assert result.verdict.kind == "none found", result
    assert result.verdict.advice.chain == []
    assert "400 of 400" in result.verdict.words and "no alarm" in str(result)


@pytest.mark.parametrize(
    ("poison", "rate", "kind", "chain"),
    [
        (CUDA(num_classes=4, seed=0), 1.0, "convolution-based", "coin"),
        (ClasswiseNoise(num_classes=4, seed=0), 1.0, "class-wise bounded", "jpeg"),
        (OPS(num_classes=4), 1.0, "triggered suspects", "jpeg"),
        (BadNets(num_classes=4, target=1, margin=3), 0.15, "triggered suspects", "jpeg"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "seed") else str(value),
)
def test_poisons_are_named(pictures, poison, rate, kind, chain):
    data = poisoned(pictures, poison, rate)
    result = look(data)
    assert result.verdict.kind == kind, result
    assert [step["name"] for step in result.verdict.advice.chain] == [chain]
    if isinstance(poison, BadNets):
        named = {int(result.sample.names[i]) for f in result.findings for i in f.suspects}
        right = set(data.mask.nonzero()[:, 0].tolist())
        assert len(named & right) > 0.9 * len(right) and len(named & right) > 0.8 * len(named)


def test_suspects_are_the_carriers_of_a_pattern_in_one_class(pictures):
    """A pattern on 40 of the 100 images of class 2."""
    images = pictures.images.clone()
    rows = (pictures.targets == 2).nonzero()[:40, 0]
    pattern = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(5)).sign() * 24
    images[rows] = (images[rows].float() + pattern).clamp(0, 255).to(torch.uint8)
    result = look(LabelledImages(images, pictures.targets))
    assert result.verdict.kind == "triggered suspects", result
    (found,) = (f for f in result.findings if f.name == "agreement")
    assert found.flagged == ["2"]
    named = {int(result.sample.names[i]) for i in found.suspects}
    assert len(named & set(rows.tolist())) >= 38 and len(named) <= 42


def test_edges_show_at_full_size_in_large_images():
    pictures = make_pictures(80, side=96, classes=2)
    assert look(pictures).verdict.kind == "none found"
    result = look(poisoned(pictures, CUDA(num_classes=2, seed=0)))
    assert result.verdict.kind == "convolution-based" and result.sample.tiled


def test_the_draw_is_bounded_and_repeatable(pictures):
    first, again, other = (look(pictures, sample=150, seed=seed) for seed in (3, 3, 4))
    assert len(first.sample) == 150 and "150 of 400" in first.verdict.words
    assert [f.score for f in first.findings] == [f.score for f in again.findings]
    assert first.sample.names != other.sample.names


def test_few_images_are_said_to_be_few(pictures):
    result = look(LabelledImages(pictures.images[:20], pictures.targets[:20]))
    assert "Not tested: agreement (it needs at least 30" in result.verdict.words
    assert result.verdict.kind == "none found"


def test_a_single_class_can_be_scanned(pictures):
    result = look(LabelledImages(pictures.images[:60], torch.zeros(60, dtype=torch.int64)))
    untested = {f.name for f in result.findings if f.untested}
    assert untested == {"texture shortcut", "pixel shortcut", "levels", "energy", "class pattern"}


def test_bad_arguments_say_so(pictures):
    with pytest.raises(ValueError, match="sample"):
        scan(pictures, sample=0)


def test_the_three_files(pictures, tmp_path):
    data = poisoned(pictures, BadNets(num_classes=4, target=1, margin=3), 0.15)
    folder = tmp_path / "pictures"
    for i in range(len(data)):
        image, label = data[i]
        (folder / f"class <{label}>").mkdir(parents=True, exist_ok=True)
        F.to_pil_image(image).save(folder / f"class <{label}>" / f"{i}.png")
    (folder / "class <0>" / "broken.png").write_bytes(b"")
    result = look(folder)
    report = result.save(tmp_path / "new" / "out")
    page = report.read_text()
    assert "triggered suspects" in page and "data:image/png" in page and "&lt;1&gt;" in page and "<1>" not in page
    assert "<script" not in page and "left out" in page
    rows = list(csv.reader((report.parent / "suspects.csv").read_text().splitlines()))
    assert rows[0] == ["path", "label", "detectors", "score over threshold", "energy rank in class"]
    assert all(0 <= float(row[4]) <= 1 for row in rows[1:])
    assert len(rows) > 40 and all((folder / row[0]).exists() for row in rows[1:])
    assert [float(row[3]) for row in rows[1:]] == sorted((float(row[3]) for row in rows[1:]), reverse=True)
    saved = json.loads((report.parent / "scan.json").read_text())
    assert saved["verdict"] == "triggered suspects" and saved["images"]["left_out"] == {"empty file": 1}
    assert [f["name"] for f in saved["findings"] if f["alarm"]]

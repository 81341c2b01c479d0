"""Scans of pictures, poisoned and not."""

import csv
import json
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F

from puretransforms.data.samples import LabelledImages
from puretransforms.poisons import CUDA, LSP, OPS, BadNets, ClasswiseNoise
from puretransforms.poisons.dataset import PoisonedDataset
from puretransforms.scanning import sample as sample_module
from puretransforms.scanning.detectors import agreement as agreement_module
from puretransforms.scanning.detectors import patches as patches_module
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
    assert "400 of 400" in result.verdict.sentence and "no alarm" in str(result)


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


def test_a_pattern_on_all_of_a_class_names_no_image_of_another(pictures):
    """Nor are the others taken to carry what the mean of all images holds of it."""
    images = pictures.images.clone()
    rows = (pictures.targets == 2).nonzero()[:, 0]
    pattern = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(5)).sign() * 24
    images[rows] = (images[rows].float() + pattern).clamp(0, 255).to(torch.uint8)
    result = look(LabelledImages(images, pictures.targets))
    (found,) = (f for f in result.findings if f.name == "agreement")
    in_class = {i for i in range(400) if result.sample.labels[i] == 2}
    assert found.flagged == ["2"] and set(found.suspects) <= in_class and result.carriers == {}


def test_edges_show_at_full_size_in_large_images():
    pictures = make_pictures(80, side=96, classes=2)
    clean = look(pictures)
    assert clean.insufficient and not clean.verdict.alarms, "80 images are too few for the shortcuts"
    result = look(poisoned(pictures, CUDA(num_classes=2, seed=0)))
    assert result.verdict.kind == "convolution-based" and result.sample.tiled


def test_the_draw_is_bounded_and_repeatable(pictures):
    first, again, other = (look(pictures, sample=150, seed=seed) for seed in (3, 3, 4))
    assert len(first.sample) == 150 and "150 of 400" in first.verdict.sentence
    assert [f.score for f in first.findings] == [f.score for f in again.findings]
    assert first.sample.names != other.sample.names


def stored(data, folder, place=lambda i, label: str(label)):
    """``data`` as PNG files; ``place`` says in which folder below ``folder``."""
    for i in range(len(data)):
        image, label = data[i]
        (folder / place(i, label)).mkdir(parents=True, exist_ok=True)
        F.to_pil_image(image).save(folder / place(i, label) / f"{i:04d}.png")
    return folder


def test_sixty_images_of_three_classes_are_insufficient(pictures):
    result = look(LabelledImages(pictures.images[:60], torch.arange(60) % 3))
    assert result.insufficient and result.verdict.headline == "insufficient: 1 of 10 detectors could look"
    text = str(result)
    assert text.startswith("Verdict: insufficient: 1 of 10") and "none found" not in text and "78 of 78" not in text
    assert "3 of 3 classes hold fewer than 30" in text and "add images" in text
    assert result.verdict.advice.chain == [] and "Advice:\n- none without evidence" in text
    assert "agreement         not tested: it needs at least 30" in text


def test_images_without_labels_are_one_class_and_insufficient(pictures):
    result = look(pictures.images[:100])
    assert result.insufficient and any("there is one class" in reason for reason in result.verdict.reasons)


def test_a_flat_folder_is_insufficient(pictures, tmp_path):
    flat = stored(LabelledImages(pictures.images[:240], pictures.targets[:240]), tmp_path / "flat", lambda i, label: "")
    result = look(flat)
    assert result.insufficient and "4 of 10 detectors" in result.verdict.headline
    (reason,) = result.verdict.reasons
    assert "there is one class" in reason and "one folder for each class" in reason
    untested = {f.name for f in result.findings if f.untested}
    assert untested == {"texture shortcut", "pixel shortcut", "neighbours", "levels", "energy", "class pattern"}


def test_splits_are_not_taken_for_classes(pictures, tmp_path):
    """A wholly poisoned train/ beside test/: whatever the detectors say of these two, it is no verdict."""
    data = [*poisoned(pictures, LSP(num_classes=4, seed=0))]
    data[::5] = [pictures[i] for i in range(0, 400, 5)]  # the test images are left alone
    folder = stored(data, tmp_path / "both", lambda i, label: f"{'train' if i % 5 else 'test'}/{label}")
    result = look(folder)
    assert result.insufficient and "'test' and 'train', which are splits" in result.verdict.reasons[0]
    assert look(folder / "train").sample.classes == ["0", "1", "2", "3"]


def test_a_tenth_of_lsp_is_named_among_the_known_misses(pictures):
    result = look(poisoned(pictures, LSP(num_classes=4, seed=0), 0.1))
    assert result.verdict.kind == "none found", result
    (line,) = (line for line in result.verdict.misses if line.startswith("on a tenth"))
    said = " ".join(str(result).split())
    assert "LSP" in line and line in said and "400 looked at here" in said


def test_the_terminal_shows_a_sentence_and_short_lists(pictures):
    lines = str(look(poisoned(pictures, ClasswiseNoise(num_classes=4, seed=0)))).splitlines()
    assert lines[0].startswith("Verdict: class-wise bounded (") and lines[1].startswith(
        "Found in a look at 400 of 400 images ("
    )
    heads = [line for line in lines if line.endswith(":") and not line.startswith(("-", " "))]
    assert heads == ["Why:", "Known to escape:", "Advice:", "Detectors:"]
    assert lines[lines.index("Why:") + 1].startswith("- ") and max(map(len, lines[:2])) < 160
    listed = [line for line in lines[2 : lines.index("Detectors:")] if line]
    assert all(line in heads or (line.startswith(("- ", "  ")) and len(line) <= 100) for line in listed)


def test_a_notebook_shows_the_text(pictures):
    result = look(pictures.images[:100])
    assert result._repr_html_().startswith("<pre>Verdict: insufficient") and "<dataset" not in result._repr_html_()


def test_the_interval_of_lookalikes_has_a_width(pictures):
    (found,) = (f for f in look(pictures).findings if f.name == "lookalikes")
    assert 0.005 < found.high - found.low < 0.5


def test_scores_suspects_and_the_rest(pictures, tmp_path):
    data = poisoned(pictures, BadNets(num_classes=4, target=1, margin=3), 0.15)
    result = look(data)
    rows = result.scores
    assert [row["index"] for row in rows] == list(range(400))
    assert list(rows[0])[:4] == ["index", "path", "class", "edges"] and list(rows[0])[-1] == "flagged"
    assert [row["class"] for row in rows] == [str(data[i][1]) for i in range(400)]
    flagged = {row["index"] for row in rows if row["flagged"]}
    right = set(data.mask.nonzero()[:, 0].tolist())
    assert len(flagged & right) > 0.9 * len(right) and all(rows[i]["patches"] == 1 for i in flagged & right)
    assert set(result.suspects(data).indices) == flagged
    rest = result.clean_subset(data)
    assert sorted([*rest.indices, *flagged]) == list(range(400)) and len(rest) == 400 - len(flagged)
    with pytest.raises(ValueError, match="400 images, got 399"):
        result.suspects(torch.utils.data.Subset(data, range(399)))
    with pytest.raises(ValueError, match="sample=None"):
        look(data, sample=300).clean_subset(data)
    stream = look(iter([data[i] for i in range(400)]), sample=300)
    assert stream.partial and "300 of 400 images" in str(stream)
    with pytest.raises(ValueError, match="of all 400 images, got one of 300"):
        stream.clean_subset(data)

    folder = ImageFolder(stored(data, tmp_path / "files"))
    of_files = look(folder.root)
    named = {int(Path(folder.samples[i][0]).stem) for i in of_files.suspects(folder).indices}
    assert named == {int(Path(row["path"]).stem) for row in of_files.scores if row["flagged"]}
    assert len(named & right) > 0.9 * len(right)


@pytest.mark.parametrize("trigger", ["patch", "pattern"])
def test_images_beyond_those_that_are_compared_are_named_too(pictures, monkeypatch, trigger):
    """Of a class with more images than are compared with each other, all carriers are found."""
    for module, name in ((sample_module, "PAIRED"), (agreement_module, "PAIRED"), (patches_module, "LOOKED_AT")):
        monkeypatch.setattr(module, name, 80)  # fewer leave too wide an interval
    images = pictures.images.clone()
    rows = (pictures.targets == 2).nonzero()[::2, 0]
    pattern = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(5)).sign() * 24
    if trigger == "patch":
        images[rows, :, 1:4, 1:4] = torch.tensor([[255, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
    else:
        images[rows] = (images[rows].float() + pattern).clamp(0, 255).to(torch.uint8)
    result = look(LabelledImages(images, pictures.targets), ebm=None)
    named = {result.sample.index[i] for i in result.carriers}
    right = set(rows.tolist())
    assert len(named & right) >= 48 and len(named - right) <= 2, (len(named & right), len(named - right))


def test_a_class_that_would_be_emptied_is_left_to_a_purifier(pictures):
    images = pictures.images.clone()
    images[pictures.targets == 2, :, 2, 2] = torch.tensor([255, 0, 255], dtype=torch.uint8)
    result = look(LabelledImages(images, pictures.targets), ebm=None)
    assert result.verdict.kind == "triggered suspects" and len(result.flagged) > 90 and result.carriers == {}


def test_bad_arguments_say_so(pictures):
    with pytest.raises(ValueError, match="sample"):
        scan(pictures, sample=0)


def test_the_four_files(pictures, tmp_path):
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
    assert "<script" not in page and "left out" in page and "patch outlined" in page and 'href="suspects.csv"' in page
    assert page.index("triggered suspects") < page.index("data:image/png") < page.index("<h2>Suspects")
    assert "prefers-color-scheme: dark" in page and "@media print" in page and "on a tenth: TAP" in page
    rows = list(csv.reader((report.parent / "suspects.csv").read_text().splitlines()))
    assert rows[0] == ["path", "label", "detectors", "score over threshold", "energy rank in class"]
    assert all(0 <= float(row[4]) <= 1 for row in rows[1:])
    assert len(rows) > 40 and all((folder / row[0]).exists() for row in rows[1:])
    assert [float(row[3]) for row in rows[1:]] == sorted((float(row[3]) for row in rows[1:]), reverse=True)
    scores = list(csv.DictReader((report.parent / "scores.csv").read_text().splitlines()))
    assert len(scores) == 400 and [row["path"] for row in scores] == [row["path"] for row in result.scores]
    assert {row["flagged"] for row in scores} == {"True", "False"}
    assert all(row[name] for row in scores for name in ("edges", "lookalikes", "patches", "energy"))
    saved = json.loads((report.parent / "scan.json").read_text())
    assert saved["verdict"] == "triggered suspects" and saved["images"]["left_out"] == {"empty file": 1}
    assert [f["name"] for f in saved["findings"] if f["alarm"]] and saved == json.loads(json.dumps(result.to_dict()))
    assert isinstance(saved["reasons"], list) and "patches" in " ".join(saved["reasons"])
    order = [page.index(f"<h2>{name}</h2>") for name in ("Why", "Advice", "Known to escape", "Detectors")]
    assert order == sorted(order) and page.index(saved["sentence"].split(":")[0]) < order[0]

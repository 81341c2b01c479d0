"""The shell on every kind of source: ``clean`` with its list of suspects, ``scan`` and ``poison``."""

import csv
import json
import tarfile

import datasets
import fsspec
import numpy as np
import PIL.Image
import pytest
from torchvision.datasets import MNIST, ImageFolder
from torchvision.transforms.v2 import functional as F
from typer.testing import CliRunner

import puretransforms as pt
from puretransforms.cli.main import app
from puretransforms.data.open_source import named
from puretransforms.errors import SourceError


def shell(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def run(*words: object):
    return shell("clean", *words, "--with", "coin", "--no-progress")


@pytest.fixture
def source(tmp_path, photo):
    for label, name in enumerate("ab"):
        (tmp_path / "source" / name).mkdir(parents=True)
        for i in range(3):
            F.to_pil_image(photo.roll(5 * i + label, 2)).save(tmp_path / "source" / name / f"{i}.png")
    return tmp_path / "source"


@pytest.fixture
def mnist(tmp_path):
    """An image of each digit as torchvision stores MNIST."""
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        header = np.array([0x803, 10, 28, 28], ">i4").tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(np.array([0x801, 10], ">i4").tobytes() + bytes(range(10)))
    return tmp_path / "data"


def test_a_folder_and_its_suspects(source, tmp_path):
    result = run(source, tmp_path / "out", "--suspects", tmp_path / "suspects.csv")
    assert result.exit_code == 0, result.output
    with (tmp_path / "suspects.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    with (tmp_path / "out/manifest.jsonl").open() as lines:
        manifest = {row["path"]: row for row in map(json.loads, lines)}
    assert [row["rank"] for row in rows] == [str(i) for i in range(1, 7)]
    levels = [float(row["mean_abs"]) for row in rows]
    assert levels == sorted((row["mean_abs"] for row in manifest.values()), reverse=True) and levels[0] > levels[-1]
    assert all(float(row["psnr"]) == manifest[row["path"]]["psnr"] for row in rows)


def test_suspects_wait_for_the_last_rank(source, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, done in (("0", False), ("1", True)):
        monkeypatch.setenv("RANK", rank)
        result = run(source, tmp_path / "out", "--unit-size", 3, "--suspects", tmp_path / "suspects.csv")
        assert result.exit_code == 0, result.output
        assert (tmp_path / "suspects.csv").exists() == done
        assert ("other ranks" in result.stderr) == (not done)
    result = run(source, tmp_path / "later", "--dry-run", "--suspects", tmp_path / "s.csv")
    assert result.exit_code == 2 and "dry-run" in result.stderr


def test_shards_and_urls(source, tmp_path):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/a-000.tar", "w") as shard:
        for path in sorted(source.rglob("*.png")):
            shard.add(path, f"{path.parent.name}-{path.stem}.jpg.png")
    result = run(tmp_path / "shards/a-{000..000}.tar", tmp_path / "out", "--image-key", "jpg.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/a-000.tar").exists()
    memory = fsspec.filesystem("memory")
    memory.put(str(source), "/cli/source", recursive=True)
    result = run("memory://cli/source", "memory://cli/out")
    assert result.exit_code == 0, result.output
    assert memory.exists("/cli/out/a/0.png") and memory.exists("/cli/out/report.html")
    memory.rm("/cli", recursive=True)


def test_torchvision_by_name(mnist, tmp_path):
    result = run(f"torchvision:MNIST:{mnist}#test", tmp_path / "out")
    assert result.exit_code == 0, result.output
    purified, original = ImageFolder(tmp_path / "out"), MNIST(mnist, train=False)
    assert purified.targets == original.targets.tolist() and len(purified.classes) == 10
    for i in range(10):
        first = PIL.Image.open(next((tmp_path / "out").rglob(f"{i:08d}.png")))
        assert first.size == (28, 28) and not np.array_equal(first, original[i][0])


def test_hugging_face_by_name(source, tmp_path, monkeypatch):
    stored = datasets.Dataset.from_dict(
        {"image": [str(path) for path in sorted(source.rglob("*.png"))], "note": list("abcdef")},
        features=datasets.Features({"image": datasets.Image(), "note": datasets.Value("string")}),
    )
    stored.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=stored, test=stored.select([1, 3])).save_to_disk(str(tmp_path / "several"))
    for name, notes in (("one", "abcdef"), ("several#test", "bd")):
        out = tmp_path / f"out-{name[:3]}"
        result = run(f"hf:{tmp_path / name}", out)
        assert result.exit_code == 0, result.output
        opened = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path))
        assert "".join(opened["note"]) == notes and opened.features == stored.features


@pytest.fixture
def numbered(source, tmp_path):
    """A dataset of Hugging Face on disk, whose class names do not sort as their numbers do: "ten" is 0, "b" is 1."""
    stored = datasets.Dataset.from_dict(
        {"image": [str(path) for path in sorted(source.rglob("*.png"))], "label": [0, 0, 0, 1, 1, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ten", "b"])}),
    )
    datasets.DatasetDict(train=stored, test=stored.select([1, 3])).save_to_disk(str(tmp_path / "numbered"))
    return tmp_path / "numbered"


def test_scan_takes_names_and_shards(numbered, mnist, source, tmp_path):
    with tarfile.open(tmp_path / "a-000.tar", "w") as shard:
        for path in sorted(source.rglob("*.png")):
            shard.add(path, f"{path.parent.name}-{path.stem}.png")
            (tmp_path / "cls").write_text(str(ord(path.parent.name) - ord("a")))
            shard.add(tmp_path / "cls", f"{path.parent.name}-{path.stem}.cls")
    for name, count in ((f"hf:{numbered}", 6), (f"torchvision:MNIST:{mnist}#test", 10), (tmp_path / "a-000.tar", 6)):
        result = shell("scan", name, "--no-progress")
        assert result.exit_code == 0, result.output
        assert f"in {count} of {count} images" in result.stdout


def test_poison_takes_names_and_keeps_their_numbers(numbered, mnist, tmp_path):
    result = shell("poison", f"hf:{numbered}", tmp_path / "hf", "--with", "classwise", "--no-progress")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "hf" / "poison.json").read_text())
    assert record["classes"] == ["0-ten", "1-b"] and record["poison"]["arguments"]["num_classes"] == 2
    assert [row["original_label"] for row in record["files"].values()] == [0, 0, 0, 1, 1, 1]
    result = shell("poison", f"torchvision:MNIST:{mnist}#test", tmp_path / "mnist", "--with", "badnets", "--rate", 0.5)
    assert result.exit_code == 0, result.output
    assert "5 of 10 images poisoned" in result.stdout
    assert len(list((tmp_path / "mnist").rglob("*.png"))) == 10


def test_a_purifier_that_is_fitted_first(numbered, tmp_path):
    """The labels are the dataset's own numbers, and the fitted purifier is kept."""
    spec = 'vae:weights=null:width=4:latent=8:schedule={"epochs":1,"batch_size":4,"magnitude_from":0}'
    result = shell("clean", f"hf:{numbered}", tmp_path / "out", "--with", spec, "--no-progress")
    assert result.exit_code == 0, result.output
    fitted = pt.VAEPurify.from_pretrained(tmp_path / "out.purifier")
    assert fitted.classes == ["ten", "b"] and fitted.num_classes == 2
    clean = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path))
    again = shell("scan", f"hf:{numbered}", "--vae", tmp_path / "out.purifier", "--no-progress")
    assert again.exit_code == 0 and len(clean) == 6, again.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchvision:CIFAR10", "torchvision:CLASS:ROOT#SPLIT, got 'CIFAR10'"),
        ("torchvision:Nothing:data", "torchvision:CLASS:ROOT#SPLIT, got 'Nothing:data'"),
        ("torchvision:CIFAR10:{tmp}", "expected CIFAR10 to be in .*nothing is downloaded here"),
        ("torchvision:MNIST:{tmp}#valid", "expected the split train or test of MNIST, got 'valid'"),
        ("torchvision:ImageFolder:{tmp}#test", "expected no split of ImageFolder"),
        ("hf:{tmp}/nowhere", "expected a dataset of Hugging Face as hf:NAME#SPLIT"),
    ],
)
def test_refuses_names_that_are_none(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        named(text.format(tmp=tmp_path))


@pytest.mark.parametrize(
    ("text", "asked"), [("hf:a/b@v2#test", ("a/b", "test", "v2")), ("hf:a/b", ("a/b", "train", None))]
)
def test_a_data_set_of_the_hub_is_pinned_by_its_revision(monkeypatch, text, asked):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, revision: (name, split, revision))
    assert named(text) == asked


def test_anything_else_is_a_place():
    assert [named(text) for text in ("data", "s3://a/b", "hf://datasets/a")] == ["data", "s3://a/b", "hf://datasets/a"]


def test_refuses_another_engine_in_one_line(source, tmp_path):
    result = run(source, tmp_path / "out", "--engine", "spark")
    assert result.exit_code in (1, 2) and "Traceback" not in result.output

"""``puretransforms clean`` on every kind of source, with its engines and its list of suspects."""

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

from puretransforms.cli.main import app
from puretransforms.data.named import named
from puretransforms.errors import SourceError


def run(*words: object):
    return CliRunner().invoke(app, ["clean", *(str(word) for word in words), "--with", "coin", "--no-progress"])


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchvision:CIFAR10", "torchvision:CLASS:ROOT#SPLIT, got 'CIFAR10'"),
        ("torchvision:Nothing:data", "torchvision:CLASS:ROOT#SPLIT, got 'Nothing:data'"),
        ("torchvision:CIFAR10:{tmp}", "expected CIFAR10 to be in .*nothing is downloaded here"),
        ("torchvision:MNIST:{tmp}#valid", "expected the split train or test of MNIST, got 'valid'"),
        ("torchvision:ImageFolder:{tmp}#test", "expected no split of ImageFolder"),
        ("hf:{tmp}/nowhere", "expected a data set of Hugging Face as hf:NAME#SPLIT"),
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

"""Sources by name; and the number that each kind of source gives its classes."""

import io
import tarfile

import datasets
import pytest
import torch
from torchvision.datasets import ImageFolder

from puretransforms.cleaning.clean import clean
from puretransforms.data.open_source import named, open_source
from puretransforms.data.samples import LabelledImages, gather
from puretransforms.data.sources.folder import Listing
from puretransforms.data.sources.huggingface import HuggingFaceDataset
from puretransforms.data.sources.map_style import ImageDataset
from puretransforms.errors import SourceError


@pytest.fixture
def folder(tmp_path, picture):
    """Class folders "2" and "10", which ``ImageFolder`` counts by the alphabet: "10" is 0."""
    for number in range(4):
        place = tmp_path / "folder" / ("10" if number % 2 else "2")
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number}.png")
    return tmp_path / "folder"


@pytest.fixture
def table(picture):
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["2", "10"])})
    return datasets.Dataset.from_dict({"img": [picture(i) for i in range(4)], "label": [0, 1, 0, 1]}, features)


def shard(path, picture):
    with tarfile.open(path, "w") as out:
        for number in range(4):
            png = io.BytesIO()
            picture(number).save(png, "PNG")
            for suffix, data in (("png", png.getvalue()), ("cls", b"10" if number % 2 else b"2")):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return path


def test_a_saved_hugging_face_dataset_by_name(tmp_path, table):
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table.select([0]), test=table).save_to_disk(tmp_path / "splits")
    for name, length in ((f"hf:{tmp_path}/one", 4), (f"hf:{tmp_path}/splits", 1), (f"hf:{tmp_path}/splits#test", 4)):
        source = open_source(name)
        assert isinstance(source, HuggingFaceDataset) and len(source.entries) == length
    assert gather(f"hf:{tmp_path}/one").targets.tolist() == [0, 1, 0, 1]
    result = clean(f"hf:{tmp_path}/one", tmp_path / "out", "jpeg", workers=1, progress=False)
    assert result.counts == {"purified": 4} and result.load().features == table.features
    with pytest.raises(SourceError, match="with split 'nothing'"):
        open_source(f"hf:{tmp_path}/splits#nothing")


def test_a_torchvision_dataset_by_name(folder):
    source = open_source(f"torchvision:ImageFolder:{folder}")
    assert isinstance(source, ImageDataset) and isinstance(source.original, ImageFolder)
    assert source.class_to_idx() == {"10": 0, "2": 1}
    for name, message in (
        ("torchvision:CIFAR10", "torchvision:CLASS:ROOT#SPLIT"),
        (f"torchvision:CIFAR10:{folder}#validation", "the split train or test"),
        (f"torchvision:CIFAR10:{folder}", "nothing is downloaded here"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(name)


def test_what_is_no_name_stays_a_place(folder):
    assert [named(text) for text in ("data", "s3://a/b", "hf://datasets/a")] == ["data", "s3://a/b", "hf://datasets/a"]
    assert isinstance(open_source(str(folder)), Listing)


def test_classes_have_the_numbers_of_the_dataset(tmp_path, folder, table, picture):
    pixels, targets = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    bare = [(image, 7 - label) for image, label in LabelledImages(pixels, targets)]
    assert open_source(folder).class_to_idx() == ImageFolder(folder).class_to_idx == {"10": 0, "2": 1}
    assert open_source(LabelledImages(pixels, targets, ["2", "10"])).class_to_idx() == {"2": 0, "10": 1}
    assert open_source(bare).class_to_idx() == {"6": 6, "7": 7}
    assert open_source(table).class_to_idx() == {"2": 0, "10": 1}
    assert open_source(shard(tmp_path / "a.tar", picture)).class_to_idx() == {"2": 2, "10": 10}

"""Items from files, map-style datasets and streams."""

import io
import tarfile

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset
from torchvision.transforms.v2 import functional as F

from puretransforms.data.codec import decode
from puretransforms.data.sources.map_style import ImageDataset
from puretransforms.errors import LabelError, NoImageError, SourceError
from puretransforms.scanning.source import open_stream


@pytest.fixture
def folder(tmp_path, pictures):
    for i in range(12):
        place = tmp_path / "pictures" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        F.to_pil_image(pictures.images[i]).save(place / f"{i:02d}.png")
    (tmp_path / "pictures" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "pictures" / "readme.txt").write_text("no image")
    return tmp_path / "pictures"


def test_a_folder(folder, pictures):
    stream = open_stream(folder, None, 0, 2)
    found = {item.name: item for item in stream.items}
    assert (stream.drawn, stream.total, stream.classes) == (13, 13, {0: "a", 1: "b"})
    assert found["a/broken.png"].pixels is None and found["a/broken.png"].problem
    for i in range(12):
        item = found[f"{'ab'[i % 2]}/{i:02d}.png"]
        assert item.label == i % 2 and torch.equal(item.pixels, pictures.images[i])


def test_a_draw_is_random_and_keyed_by_the_seed(pictures):
    def names(seed, sample=20):
        return [item.name for item in open_stream(pictures, sample, seed, 1).items]

    assert names(0) == names(0) != names(1)
    assert len(set(names(0))) == 20
    assert sorted(map(int, names(0, None))) == list(range(400))


def test_a_stream_of_unknown_length(pictures):
    def pairs():
        return ((pictures.images[i], int(pictures.targets[i])) for i in range(100))

    stream = open_stream(pairs(), 30, 0, 1)
    kept = [int(item.name) for item in stream.items]
    assert (stream.drawn, stream.total) == (30, 100)
    assert len(set(kept)) == 30 and max(kept) > 30
    assert sorted(int(item.name) for item in open_stream(pairs(), None, 0, 1).items) == list(range(100))

    few = [(pictures.images[0, :, :16, :16], i) for i in range(10)]
    share = np.mean([9 in {item.label for item in open_stream(iter(few), 3, seed, 1).items} for seed in range(60)])
    assert 0.1 < share < 0.5  # 0.3, give or take three deviations


def test_grey_pil_and_float_images_come_as_three_channels(pictures):
    grey = PIL.Image.fromarray(pictures.images[0, 0].numpy())
    for image in (grey, pictures.images[0, :1], pictures.images[0, :1].float() / 255):
        (item,) = open_stream([(image, 0)], None, 0, 1).items
        assert torch.equal(item.pixels, pictures.images[0, :1].expand(3, -1, -1))


@pytest.mark.parametrize(
    ("source", "error", "fix"),
    [
        ([(torch.zeros(3, 32, 32), 0.5)], LabelError, "class indices"),
        ([(torch.zeros(3, 32, 32), -1)], LabelError, "class indices"),
        ([(torch.zeros(3, 32, 32), "cat")], LabelError, "class indices"),
        ([torch.zeros(3, 32, 32)], LabelError, "pairs"),
        ([(torch.zeros(2, 3, 32, 32), 0)], NoImageError, "unbatch"),
        ([(torch.zeros(2, 32, 32), 0)], NoImageError, "channels"),
        (3, LabelError, "iterated"),
        ("no/such/folder", SourceError, "folder"),
    ],
)
def test_what_cannot_be_scanned_says_why(source, error, fix):
    with pytest.raises(error, match=fix):
        list(open_stream(source, None, 0, 1).items)


class Stored(torch.utils.data.Dataset):
    """Two grey levels for two classes; its own transform paints everything white."""

    def __init__(self):
        self.transform = lambda image: torch.full((3, 8, 8), 255, dtype=torch.uint8)
        self.target_transform = lambda target: 1 - target
        self.targets = [0, 1, 0, 1]

    def __len__(self):
        return 4

    def __getitem__(self, i):
        image, target = torch.full((3, 8, 8), 10 + 40 * self.targets[i], dtype=torch.uint8), self.targets[i]
        image = image if self.transform is None else self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: Subset(x, range(4)),
        lambda x: ConcatDataset([Subset(x, [0, 1]), Subset(x, [2, 3])]),
    ],
    ids=["whole", "subset", "parts"],
)
def test_scan_and_clean_see_the_stored_images_without_the_datasets_own_transforms(wrap):
    dataset = wrap(Stored())
    scanned = {int(item.name): (item.label, int(item.pixels.max())) for item in open_stream(dataset, None, 0, 1).items}
    assert scanned == {0: (0, 10), 1: (1, 50), 2: (0, 10), 3: (1, 50)}
    source = ImageDataset(dataset)
    cleaned = [decode(source.read(entry)).pixels[0] for entry in source.entries]
    assert cleaned == [10, 50, 10, 50] and source.targets == [0, 1, 0, 1]
    assert dataset[0][0].max() == 255  # the user's own is left as it was


class Named(torch.utils.data.Dataset):
    """Raw images of two classes whose names sort otherwise than their numbers."""

    classes = ["2", "10"]
    targets = [0, 1, 1]

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return torch.full((3, 16, 16), 100 * self.targets[i], dtype=torch.uint8), self.targets[i]


def test_every_kind_of_source_keeps_its_own_numbers(tmp_path):
    """A dataset, the same as a Source, a Hugging Face dataset by name, and a pair of tensors."""
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["2", "10"])
    rows = {"image": [F.to_pil_image(Named()[i][0]) for i in range(3)], "label": Named.targets}
    features = datasets.Features({"image": datasets.Image(), "label": names})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "stored")
    pair = torch.stack([Named()[i][0] for i in range(3)]), torch.tensor(Named.targets)
    for source in (Named(), ImageDataset(Named()), f"hf:{tmp_path / 'stored'}", pair):
        stream = open_stream(source, None, 0, 1)
        items = {item.index: item for item in stream.items}
        assert [items[i].label for i in range(3)] == [0, 1, 1]
        assert [int(items[i].pixels[0, 0, 0]) for i in range(3)] == [0, 100, 100]
        assert stream.classes == ({} if source is pair else {0: "2", 1: "10"})


def test_shards_with_numbers_for_classes_keep_them(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, number in enumerate((2, 10, 2)):
            png = io.BytesIO()
            F.to_pil_image(torch.full((3, 16, 16), number, dtype=torch.uint8)).save(png, "PNG")
            for suffix, data in (("png", png.getvalue()), ("cls", str(number).encode())):
                member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    for source in (tmp_path / "a.tar", str(tmp_path / "*.tar"), [str(tmp_path / "a.tar")]):
        stream = open_stream(source, None, 0, 1)
        assert {(item.label, int(item.pixels[0, 0, 0])) for item in stream.items} == {(2, 2), (10, 10)}


def test_a_torchvision_dataset_by_name(tmp_path):
    with pytest.raises(SourceError, match="torchvision"):
        open_stream(f"torchvision:CIFAR10:{tmp_path}#train", None, 0, 1)
    (tmp_path / "a").mkdir()
    F.to_pil_image(torch.full((3, 16, 16), 7, dtype=torch.uint8)).save(tmp_path / "a" / "0.png")
    (item,) = open_stream(f"torchvision:ImageFolder:{tmp_path}", None, 0, 1).items
    assert item.label == 0 and int(item.pixels.max()) == 7

"""The same images through every kind of source: the same purified pixels, the same rows but for names and places."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch.utils.data import Subset
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder, VisionDataset
from torchvision.transforms import v2
from webdataset.tariterators import group_by_keys, tar_file_expander

from puretransforms.cleaning.clean import clean, clean_in_memory
from puretransforms.errors import ManifestMismatchError, NoImageError, SourceError, UntouchedImageWarning

CLASSES = ["ant", "bee", "cow"]
COUNT = 14
WHEREABOUTS = ("path", "out", "member")


@pytest.fixture
def images(picture):
    """``COUNT`` images, their targets and their PNG files; sorted by class, as a folder lists them."""
    targets = sorted(i % 3 for i in range(COUNT))
    pictures = [picture(i, channels=3) for i in range(COUNT)]
    files = []
    for image in pictures:
        out = io.BytesIO()
        image.save(out, "PNG", compress_level=1)
        files.append(out.getvalue())
    return pictures, targets, files


class InMemory(VisionDataset):
    """As torchvision's CIFAR10: pixels in ``data``, labels in ``targets``."""

    def __init__(self, pictures, targets, **transforms):
        super().__init__("nowhere", **transforms)
        self.data = np.stack([np.asarray(picture) for picture in pictures])
        self.targets = list(targets)
        self.classes = CLASSES

    def __getitem__(self, i):
        image, target = Image.fromarray(self.data[i]), self.targets[i]
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def __len__(self):
        return len(self.data)


def as_folder(root, images):
    for i, (target, file) in enumerate(zip(*images[1:], strict=True)):
        path = root / CLASSES[target] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file)
    return root


def as_hugging_face(images):
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES), "note": datasets.Value("string")}
    )
    rows = {
        "img": [{"bytes": file, "path": f"{i}.jpg"} for i, file in enumerate(images[2])],
        "label": images[1],
        "note": [f"note {i}" for i in range(COUNT)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def as_shards(root, images, size=5, name="train-{:03d}.tar"):
    root.mkdir()
    for number, start in enumerate(range(0, COUNT, size)):
        with tarfile.open(root / name.format(number), "w") as shard:
            for i in range(start, min(start + size, COUNT)):
                note = json.dumps({"i": i}).encode()
                label = CLASSES[images[1][i]].encode()
                for suffix, data in (("json", note), ("png", images[2][i]), ("cls", label)):
                    info = tarfile.TarInfo(f"part/{i:04d}.{suffix}")
                    info.size, info.mtime, info.uname = len(data), 1_700_000_000 + i, "someone"
                    shard.addfile(info, io.BytesIO(data))
    return root


def rows_of(result):
    with result.manifest.open() as lines:
        return [json.loads(line) for line in lines]


def quietly(source, out, purifier, **options):
    return clean(source, out, purifier, progress=False, **{"workers": 1, "unit_size": 5, **options})


def in_memory(dataset, purifier):
    return clean_in_memory(dataset, purifier, progress=False, workers=1)


def pixels(image):
    return np.asarray(image.convert("RGB")).tobytes()


def test_four_sources_give_the_same_pixels_and_the_same_manifest(tmp_path, images, purifier):
    folder = quietly(as_folder(tmp_path / "folder", images), tmp_path / "a", purifier)
    tensors = quietly(InMemory(*images[:2]), tmp_path / "b", purifier)
    table = quietly(as_hugging_face(images), tmp_path / "c", purifier)
    shards = quietly(str(as_shards(tmp_path / "shards", images) / "train-{000..002}.tar"), tmp_path / "d", purifier)
    results = (folder, tensors, table, shards)

    manifests = [
        [{k: v for k, v in row.items() if k not in WHEREABOUTS} for row in rows_of(r) if row["status"] != "packed"]
        for r in results
    ]
    assert len(manifests[0]) == COUNT and {row["status"] for row in manifests[0]} == {"purified"}
    assert all(manifest == manifests[0] for manifest in manifests[1:])
    assert len({row["psnr"] for row in manifests[0]}) > COUNT // 2

    loaded = [result.load() for result in results]
    samples = []
    for path in loaded[3]:
        with open(path, "rb") as shard:  # noqa: PTH123
            samples += group_by_keys(tar_file_expander([{"url": path, "stream": shard}]))
    purified = [
        [pixels(image) for image, _ in loaded[0]],
        [pixels(image) for image, _ in loaded[1]],
        [pixels(image) for image in loaded[2]["img"]],
        [pixels(Image.open(io.BytesIO(sample["png"]))) for sample in samples],
    ]
    assert purified[0] != [pixels(image) for image in images[0]]
    assert all(some == purified[0] for some in purified[1:])
    for result in results:
        assert result.verify().rows == COUNT
        assert quietly_again(result, purifier)


def quietly_again(result, purifier):
    """A second call with the same source finds everything done."""
    again = clean(result.source, result.out, purifier, progress=False, workers=1, unit_size=5)
    return again.complete and again.images_per_second == 0


def test_ranks_split_every_source(tmp_path, images, purifier, snapshot, monkeypatch):
    """As under torchrun and SLURM, by the environment; whichever process comes last finishes."""
    shards = str(as_shards(tmp_path / "shards", images) / "*.tar")
    sources = (as_folder(tmp_path / "folder", images), InMemory(*images[:2]), as_hugging_face(images), shards)
    for number, source in enumerate(sources):
        whole, split = tmp_path / f"whole{number}", tmp_path / f"split{number}"
        quietly(source, whole, purifier)
        complete = []
        for rank in (1, 2, 0):
            with monkeypatch.context() as environment:
                environment.setenv("RANK", str(rank))
                environment.setenv("WORLD_SIZE", "3")
                complete.append(quietly(source, split, purifier).complete)
        assert complete == [False, False, True]
        assert snapshot(split) == snapshot(whole)


def test_a_torchvision_data_set_keeps_order_targets_and_transforms(tmp_path, images, purifier):
    order = [13, 2, 7, 0, 11, 5]  # not sorted by class
    pictures, targets = [images[0][i] for i in order], [images[1][i] for i in order]
    dataset = InMemory(pictures, targets, transform=v2.ToImage(), target_transform=lambda target: target + 10)
    on_disk = quietly(dataset, tmp_path / "out", purifier)
    loaded = on_disk.load()
    kept = in_memory(dataset, purifier)
    assert type(kept) is InMemory and kept.data.dtype == np.uint8 and not np.array_equal(kept.data, dataset.data)
    for i, target in enumerate(targets):
        assert loaded[i][1] == kept[i][1] == dataset[i][1] == target + 10
        assert torch.equal(loaded[i][0], kept[i][0]) and not torch.equal(loaded[i][0], dataset[i][0])
    assert loaded.targets == kept.targets == targets
    assert [row["label"] for row in rows_of(on_disk)] == [CLASSES[target] for target in targets]
    reopened = ImageFolder(tmp_path / "out")
    assert reopened.classes == CLASSES and sorted(reopened.targets) == sorted(targets)


def test_class_folders_keep_the_numbers_of_classes_that_are_not_sorted(tmp_path, images, purifier):
    dataset = InMemory(*images[:2])
    dataset.classes = ["T-shirt/top", "Trouser", "Ankle boot"]
    quietly(dataset, tmp_path / "out", purifier)
    reopened = ImageFolder(tmp_path / "out")
    assert reopened.classes == ["0-T-shirt-top", "1-Trouser", "2-Ankle-boot"]
    assert reopened.targets == images[1]


def test_other_pixels_or_targets_in_memory_are_another_source(tmp_path, images, purifier):
    data = [(torch.full((3, 8, 8), i, dtype=torch.uint8), i % 2) for i in range(4)]
    quietly(data, tmp_path / "out", purifier)
    for changed in ([*data[:3], (data[3][0] + 1, 1)], [*data[:3], (data[3][0], 0)], Subset(data, [0, 1, 3, 2])):
        with pytest.raises(ManifestMismatchError):
            quietly(changed, tmp_path / "out", purifier)
    assert quietly(data, tmp_path / "out", purifier).complete


def test_other_rows_of_hugging_face_are_another_source(tmp_path, images, purifier):
    source = as_hugging_face(images)
    quietly(source, tmp_path / "out", purifier)
    with pytest.raises(ManifestMismatchError):
        quietly(source.map(lambda row: {"note": row["note"] + "!"}), tmp_path / "out", purifier)
    assert quietly(source, tmp_path / "out", purifier).complete


def test_the_transforms_of_a_data_set_inside_a_subset_stay(tmp_path, images, purifier):
    folder = ImageFolder(as_folder(tmp_path / "folder", images), v2.ToImage(), lambda target: target + 10)
    image, target = in_memory(Subset(folder, [4, 2]), purifier)[1]
    assert isinstance(image, tv_tensors.Image) and target == images[1][2] + 10


def test_an_image_folder_object_is_read_file_by_file_and_a_subset_in_its_order(tmp_path, images, purifier):
    folder = ImageFolder(as_folder(tmp_path / "folder", images), v2.RandomRotation(90))
    subset = Subset(folder, [9, 4, 12])
    result = quietly(subset, tmp_path / "out", purifier)
    rows = rows_of(result)
    assert [row["sha256_in"] for row in rows] == [hashlib.sha256(images[2][i]).hexdigest() for i in (9, 4, 12)]
    assert in_memory(subset, purifier).targets == [images[1][i] for i in (9, 4, 12)]
    with pytest.raises(SourceError, match="source and output apart"):
        quietly(folder, tmp_path / "folder/out", purifier)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: [(torch.rand(3, 8, 8), 0)], NoImageError, r"expected raw images .* got torch.float32 \[3, 8, 8\]"),
        (lambda: [torch.zeros(3, 8, 8, dtype=torch.uint8)], SourceError, r"expected samples \(image, target\)"),
        (lambda: torch.utils.data.TensorDataset(torch.zeros(0, 3, 8, 8)), SourceError, "an empty TensorDataset"),
        (lambda: webdataset.WebDataset("x.tar", shardshuffle=False), SourceError, "map-style data set"),
        (lambda: 7, SourceError, "got int"),
    ],
)
def test_refuses_data_sets_without_raw_images(tmp_path, purifier, make, error, message):
    with pytest.raises(error, match=message):
        quietly(make(), tmp_path / "out", purifier)


def test_a_list_of_uint8_tensors_will_do(purifier):
    data = [(torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8), "no class") for _ in range(3)]
    purified = in_memory(data, purifier)
    assert [target for _, target in purified] == ["no class"] * 3 and purified[0][0].mode == "L"


def test_hugging_face_features_rows_and_parquet(tmp_path, images, purifier):
    source = as_hugging_face(images)
    result = quietly(source, tmp_path / "out", purifier)
    assert sorted(path.name for path in (tmp_path / "out/data").iterdir()) == [
        f"train-{i:05d}-of-00003.parquet" for i in range(3)
    ]
    opened = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    for loaded in (opened, result.load(), in_memory(source, purifier)):
        assert loaded.features == source.features
        assert loaded["label"] == source["label"] and loaded["note"] == source["note"]
        stored = loaded.cast_column("img", datasets.Image(decode=False))[3]["img"]
        assert stored["path"] == "3.png" and stored["bytes"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "disguise",
    [
        lambda ds: ds.with_format("torch"),
        lambda ds: ds.with_format("numpy"),
        lambda ds: ds.with_transform(lambda rows: {"img": [1] * len(rows["img"])}),
    ],
)
def test_formats_and_transforms_of_hugging_face_do_not_hide_the_images(images, purifier, disguise):
    source = as_hugging_face(images)
    plain, disguised = in_memory(source, purifier), in_memory(disguise(source), purifier)
    assert [pixels(image) for image in disguised["img"]] == [pixels(image) for image in plain["img"]]


def test_hugging_face_indices_are_followed(images, purifier):
    source = as_hugging_face(images)
    whole = in_memory(source, purifier)
    some = in_memory(source.shuffle(seed=1).select(range(4)), purifier)
    names = [int(note.split()[1]) for note in some["note"]]
    assert names != sorted(names)
    assert [pixels(image) for image in some["img"]] == [pixels(whole[i]["img"]) for i in names]


def test_a_damaged_or_missing_image_keeps_its_row(tmp_path, images, purifier):
    rows = as_hugging_face(images).cast_column("img", datasets.Image(decode=False)).to_list()
    rows[1]["img"] = None
    rows[2]["img"]["bytes"] = b"damaged"
    source = datasets.Dataset.from_list(rows, features=as_hugging_face(images).features)
    with pytest.warns(UntouchedImageWarning, match="1 damaged image"):
        result = quietly(source, tmp_path / "out", purifier)
    loaded = result.load()
    assert [i for i, image in enumerate(loaded["img"]) if image is None] == [1, 2]
    assert loaded["note"] == source["note"]
    assert (tmp_path / "out.quarantine/00000002").read_bytes() == b"damaged"
    assert [row["status"] for row in rows_of(result)][:3] == ["purified", "copied", "quarantined"]
    result.verify()


def two_images(dataset):
    return datasets.concatenate_datasets(
        [dataset, dataset.rename_column("img", "second").select_columns("second")], axis=1
    )


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda ds: datasets.DatasetDict(train=ds), {}, r"clean\(ds\['train'\]"),
        (lambda ds: ds.to_iterable_dataset(), {}, "without streaming"),
        (lambda ds: ds.remove_columns("img"), {}, "expected one column with the feature Image, got none"),
        (lambda ds: two_images(ds), {}, "got img, second"),
        (lambda ds: ds, {"image_key": "note"}, "expected image_key to name one of img, got 'note'"),
    ],
)
def test_refuses_hugging_face_data_sets_that_are_not_clear(tmp_path, images, purifier, change, options, message):
    with pytest.raises(SourceError, match=message):
        quietly(change(as_hugging_face(images)), tmp_path / "out", purifier, **options)


def members(path: Path):
    with tarfile.open(path) as shard:
        return [(m, shard.extractfile(m).read()) for m in shard]


def test_only_the_image_member_of_a_shard_is_new(tmp_path, images, purifier, snapshot):
    source = as_shards(tmp_path / "shards", images)
    quietly(str(source / "*.tar"), tmp_path / "out", purifier)
    assert {p for p in snapshot(tmp_path / "out") if p.endswith(".tar")} == set(snapshot(source))
    for path in sorted(source.iterdir()):
        before, after = members(path), members(tmp_path / "out" / path.name)
        assert [m.name for m, _ in before] == [m.name for m, _ in after]
        for (old, data), (new, purified) in zip(before, after, strict=True):
            assert (old.mtime, old.uname, old.mode) == (new.mtime, new.uname, new.mode)
            assert (data == purified) == (not old.name.endswith("png"))


def test_a_shard_with_odd_members(tmp_path, images, purifier):
    """Long names (PAX), a member outside every sample, two kinds of image, a damaged image, a sample without one."""
    jpeg = io.BytesIO()
    images[0][0].save(jpeg, "JPEG")
    long = "a" * 150 + "ü"
    stored = {
        "README": b"hello",
        f"{long}.jpg": jpeg.getvalue(),
        f"{long}.seg.png": images[2][1],
        "b.jpg": jpeg.getvalue(),
        "b.png": images[2][2],
        "c.jpg": b"damaged",
        "c.cls": b"7",
        "d.txt": b"no image",
    }
    with tarfile.open(tmp_path / "odd.tar", "w", format=tarfile.PAX_FORMAT) as shard:
        for name, data in stored.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    with pytest.raises(SourceError, match=r"expected one image in the sample 'b' .* b.jpg, b.png: name it"):
        quietly(tmp_path / "odd.tar", tmp_path / "out/here", purifier)
    with pytest.raises(SourceError, match="source and output apart"):
        quietly(tmp_path / "odd.tar", tmp_path / "out", purifier, image_key="jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "odd.tar").rename(tmp_path / "in/odd.tar")
    with pytest.warns(UntouchedImageWarning, match="1 damaged"):
        result = quietly(tmp_path / "in/odd.tar", tmp_path / "out", purifier, image_key="jpg")
    after = {member.name: data for member, data in members(tmp_path / "out/odd.tar")}
    assert list(after) == ["README", f"{long}.png", f"{long}.seg.png", "b.jpg.png", "b.png", "d.txt"]
    untouched = ("README", f"{long}.seg.png", "b.png", "d.txt")
    assert all(after[name] == stored[name] for name in untouched)
    assert (tmp_path / "out.quarantine/odd.tar/c.jpg").read_bytes() == b"damaged"
    assert [(r["status"], r["label"]) for r in rows_of(result)] == [
        ("copied", ""),
        ("purified", ""),
        ("purified", ""),
        ("quarantined", "7"),
        ("copied", ""),
        ("packed", ""),
    ]
    result.verify()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere-{000..002}.tar", "got no file .*nowhere-000.tar"),
        ("*.none.tar", "expected tar shards"),
        ("bad.tar", "whole tar file"),
    ],
)
def test_refuses_shards_that_are_not_there_or_no_tar(tmp_path, purifier, name, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(SourceError, match=message):
        quietly(str(tmp_path / "in" / name), tmp_path / "out", purifier)


def test_a_member_cannot_leave_the_output(tmp_path, images, purifier):
    with tarfile.open(tmp_path / "evil.tar", "w") as shard:
        info = tarfile.TarInfo("../../evil.jpg")
        info.size = 7
        shard.addfile(info, io.BytesIO(b"damaged"))
    with pytest.raises(SourceError, match="names inside the shard"):
        quietly(tmp_path / "evil.tar", tmp_path / "out/deep", purifier)


def test_in_memory_needs_a_data_set(tmp_path, images, purifier):
    with pytest.raises(SourceError, match="expected a dataset to clean in memory, got files or shards"):
        in_memory(as_folder(tmp_path / "folder", images), purifier)

"""Data from folders and archives; parts of it; what is neither is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from puretransforms.benchmark.sources import fingerprint, load_data, part_of
from puretransforms.data.samples import LabelledImages
from puretransforms.errors import SourceError


def arrays(n: int = 6) -> dict[str, np.ndarray]:
    stream = np.random.default_rng(0)
    return {
        "x_train": stream.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(n, dtype=np.int32) % 2,
        "x_test": stream.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(2),
    }


def test_an_archive(tmp_path: Path) -> None:
    parts = arrays()
    np.savez(tmp_path / "a.npz", **parts)
    train, test = load_data(tmp_path / "a.npz")
    assert train.images.shape == (6, 3, 8, 8) and train.targets.dtype == torch.int64 and len(test) == 2
    assert np.array_equal(train.images[3].permute(1, 2, 0), parts["x_train"][3])


def test_a_folder_with_train_and_test(tmp_path: Path) -> None:
    images, _ = load_train()
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            F.to_pil_image(images[0]).save(tmp_path / part / label / "0.png")
    train, test = load_data(tmp_path)
    assert train.targets.tolist() == [0, 1] and torch.equal(test.images[1], images[0])
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    with pytest.raises(SourceError, match="the same classes"):
        load_data(tmp_path)


@pytest.mark.parametrize("odd", ["empty", "stray.png", "linked"])
def test_what_would_shift_the_classes_of_a_folder_is_refused(tmp_path: Path, odd: str) -> None:
    picture = F.to_pil_image(load_train()[0][0])
    for part in ("train", "test"):
        (tmp_path / part / "fish").mkdir(parents=True)
        picture.save(tmp_path / part / "fish" / "0.png")
        strange = tmp_path / part / odd
        if odd == "empty":
            strange.mkdir()
        elif odd == "linked":
            (tmp_path / f"outside-{part}").mkdir()
            picture.save(tmp_path / f"outside-{part}" / "0.png")
            strange.symlink_to(tmp_path / f"outside-{part}")
        else:
            picture.save(strange)
    with pytest.raises(SourceError, match=f"a folder of images for each class in .*train, got {odd}"):
        load_data(tmp_path)


def load_train() -> tuple[torch.Tensor, torch.Tensor]:
    parts = arrays()
    return torch.from_numpy(parts["x_train"]).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(parts["y_train"])


@pytest.mark.parametrize(
    "change",
    [
        {"x_train": np.zeros((6, 3, 8, 8), np.uint8)},
        {"x_train": np.zeros((6, 8, 8, 3), np.float32)},
        {"y_train": np.zeros(5, np.int64)},
        {"y_train": np.zeros(6, np.float64)},
        {"y_test": None},
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, change: dict) -> None:
    parts = {name: value for name, value in (arrays() | change).items() if value is not None}
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(SourceError, match=r"expected .*a\.npz"):
        load_data(tmp_path / "a.npz")


def test_neither_folder_nor_archive(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    for path in (tmp_path / "text.npz", tmp_path / "nowhere"):
        with pytest.raises(SourceError, match=r"a folder with train and test in it, or an \.npz"):
            load_data(path)


def test_a_part_is_always_the_same_and_in_order() -> None:
    data = LabelledImages(torch.zeros(200, 3, 2, 2, dtype=torch.uint8), torch.arange(200))
    part = part_of(data, 50)
    assert torch.equal(part.targets, part_of(data, 50).targets) and len(part.targets.unique()) == 50
    assert torch.equal(part.targets, part.targets.sort().values) and int(part.targets[-1]) > 150
    assert part_of(data, None) is data and part_of(data, 200) is data
    with pytest.raises(SourceError, match="expected at least 201 images, got 200"):
        part_of(data, 201)


def test_the_fingerprint_is_of_images_and_labels() -> None:
    images, labels = load_train()
    one = LabelledImages(images, labels.long())
    assert fingerprint(one) == fingerprint(LabelledImages(images.clone(), labels.long()))
    other, swapped = images.clone(), labels.long().flip(0)
    other[0, 0, 0, 0] ^= 1
    variants = [LabelledImages(other, labels.long()), LabelledImages(images, swapped)]
    assert len({fingerprint(variant) for variant in [one, *variants]}) == 3


def test_a_dataset_of_torchvision_by_name(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 3)):
        prefix = tmp_path / "MNIST" / "raw" / ("train" if split == "train" else "t10k")
        prefix.parent.mkdir(parents=True, exist_ok=True)
        images = stream.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        Path(f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8)
        Path(f"{prefix}-labels-idx1-ubyte").write_bytes(
            np.array([0x801, count], dtype=">i4").tobytes() + labels.tobytes()
        )
    train, test = load_data(f"torchvision:MNIST:{tmp_path}")
    assert train.images.shape == (5, 3, 28, 28) and train.targets.tolist() == [0, 1, 2, 3, 4] and len(test) == 3
    with pytest.raises(SourceError, match="a name without a split"):
        load_data(f"torchvision:MNIST:{tmp_path}#test")


def test_a_dataset_of_hugging_face_by_name(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images, _ = load_train()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["10", "2"])})
    rows = {"image": [F.to_pil_image(image) for image in images], "label": [0, 1, 0, 1, 0, 1]}
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": split, "test": split.select([1])}).save_to_disk(str(tmp_path / "saved"))
    train, test = load_data(f"hf:{tmp_path / 'saved'}")
    assert torch.equal(train.images, images) and train.targets.tolist() == rows["label"]
    assert test.targets.tolist() == [1], "numbered by the dataset"

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

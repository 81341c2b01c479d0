"""Images in memory: a folder equals what torchvision's ImageFolder gives, image by image."""

from pathlib import Path

import PIL.Image
import pytest
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F

from puretransforms.data.samples import gather
from puretransforms.errors import LeftOutWarning, NoImageError, SourceError


def tree(root: Path, sizes: list[tuple[int, int]]) -> Path:
    generator = torch.Generator().manual_seed(0)
    for i, size in enumerate(sizes):
        folder = root / "cab"[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        F.to_pil_image(torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)).save(folder / f"{i}.png")
    return root


def test_equals_image_folder(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", [(6, 5)] * 40)
    (root / "a" / "notes.txt").write_text("no image")
    loaded = gather(root)
    expected = ImageFolder(str(root))
    assert len(loaded) == len(expected) == 40 and loaded.classes == ["a", "b", "c"]
    for i, (image, label) in enumerate(expected):
        assert torch.equal(loaded[i][0], F.pil_to_tensor(image)) and loaded[i][1] == label


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    PIL.Image.new("L", (4, 4), 77).save(tmp_path / "x" / "0.png")
    assert (gather(tmp_path).images == 77).all()


def test_images_of_different_sizes_are_refused_by_name(tmp_path: Path) -> None:
    sizes = [(6, 5)] * 40
    sizes[19] = (7, 5)
    with pytest.raises(NoImageError, match=r"one size, got \[3, 7, 5\] after \[3, 6, 5\] in a/19\.png"):
        gather(tree(tmp_path / "data", sizes))
    images = [torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)]
    with pytest.raises(NoImageError, match=r"got \[3, 4, 5\] after \[3, 4, 4\] in sample 1:"):
        gather([(image, 0) for image in images])


def test_a_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        gather(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="at least one image"):
        gather(tmp_path)


def test_files_that_cannot_be_decoded_are_left_out_with_a_warning(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    (tmp_path / "b" / "1.png").write_bytes(b"no picture")
    with pytest.warns(LeftOutWarning, match=r"1 file\(s\) cannot be read or decoded and are left out, first b/1.png"):
        data = gather(str(tmp_path))
    assert data.targets.tolist() == [0, 1]

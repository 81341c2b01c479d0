"""An ImageFolder tree read into memory, so that training does not decode its files again in every epoch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F

from ..data.samples import LabelledImages
from ..errors import SourceError
from ..functional.shapes import Tensor, UInt8


def load_image_folder(root: str | Path, *, workers: int = 2) -> LabelledImages:
    """All images of a tree ``root/class/name.png``, in the order of ``torchvision.datasets.ImageFolder``.

    Args:
        root: class folders, numbered by sorted name; every image has the same size.
        workers: threads that decode.

    Raises:
        SourceError: no such folder, no image in it, or images of different sizes.
    """
    try:
        dataset = ImageFolder(str(root))
    except FileNotFoundError as error:
        raise SourceError(f"expected a folder with one folder of images per class, got {root}: {error}.") from error
    step = -(-len(dataset) // (8 * workers))
    portions = [range(i, min(i + step, len(dataset))) for i in range(0, len(dataset), step)]

    def read(indices: Sequence[int]) -> UInt8[Tensor, "n c h w"]:
        pictures = [F.pil_to_tensor(dataset[i][0]) for i in indices]
        odd = next((k for k, picture in enumerate(pictures) if picture.shape != pictures[0].shape), None)
        if odd is not None:
            raise _of_other_size(dataset, indices[odd], pictures[odd], pictures[0])
        return torch.stack(pictures)

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(read, portions))
    for part, indices in zip(parts, portions, strict=True):
        if part.shape[1:] != parts[0].shape[1:]:
            raise _of_other_size(dataset, indices[0], part[0], parts[0][0])
    return LabelledImages(torch.cat(parts), torch.tensor(dataset.targets), dataset.classes)


def _of_other_size(dataset: ImageFolder, index: int, picture: Tensor, first: Tensor) -> SourceError:
    return SourceError(
        f"expected images of one size, got {list(picture.shape)} after {list(first.shape)} in "
        f"{dataset.samples[index][0]}: resize them first."
    )

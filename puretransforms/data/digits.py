"""Handwritten digits as small colour images: data for a demonstration that needs no download."""

import torch
from torch.nn.functional import interpolate

from ..errors import MissingExtraError
from .images import round_to_uint8
from .samples import LabelledImages

TRAIN_SIZE = 1297  # of 1797; the other 500 are for testing
GRAIN = 0.1


def load_digits(seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """The 1,797 digits that come with scikit-learn (UCI, Alpaydin & Kaynak 1998) as ``(train, test)``, 1,297 and 500.

    Each 8x8 drawing is enlarged bilinearly to 32x32 and painted in a random bright colour on a random dark ground, so
    that colour says nothing about the class. Grain (normal noise, deviation 0.1) stands for the texture of photographs:
    the drawings alone are so smooth that a blur leaves hardly a trace. ``seed`` fixes split, colours and grain.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtraError(
            "expected scikit-learn, which brings the digits, but it is not installed: pip install puretransforms[demo]"
        ) from error
    digits = datasets.load_digits()
    generator = torch.Generator().manual_seed(seed)
    strokes = torch.from_numpy(digits.images).to(torch.float32)[:, None] / 16
    strokes = interpolate(strokes, size=(32, 32), mode="bilinear", align_corners=False)
    ground = 0.3 * torch.rand(len(strokes), 3, 1, 1, generator=generator)
    ink = 0.6 + 0.4 * torch.rand(len(strokes), 3, 1, 1, generator=generator)
    grain = GRAIN * torch.randn(len(strokes), 3, 32, 32, generator=generator)
    images = round_to_uint8(ground + (ink - ground) * strokes + grain)
    order = torch.randperm(len(images), generator=generator)
    images, labels = images[order], torch.from_numpy(digits.target).to(torch.int64)[order]
    train, test = (slice(None, TRAIN_SIZE), slice(TRAIN_SIZE, None))
    return LabelledImages(images[train], labels[train]), LabelledImages(images[test], labels[test])

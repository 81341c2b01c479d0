"""The baselines against other implementations, and against known numbers on a published poison."""

import io

import numpy as np
import PIL.Image
import pytest
import torch
from scipy import ndimage
from torchvision.transforms.v2 import functional as F

from puretransforms import BitDepthReduce, GaussianBlur, Grayscale, JPEGCompress, MedianBlur
from puretransforms.transforms.baselines import _CHROMA, _LUMA, _scaled


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 24, 18), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("quality", [10, 75])
def test_jpeg_is_pillows(images, quality):
    for ours, image in zip(JPEGCompress(quality)(images), images, strict=True):
        buffer = io.BytesIO()
        F.to_pil_image(image).save(buffer, "JPEG", quality=quality)
        assert np.array_equal(ours.permute(1, 2, 0), PIL.Image.open(buffer))


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 75, 100])
def test_equal_qualities_give_pillows_own_tables_and_pixels(images, quality):
    buffer = io.BytesIO()
    F.to_pil_image(images[0]).save(buffer, "JPEG", quality=quality)
    pillows = PIL.Image.open(buffer).quantization
    assert [_scaled(_LUMA, quality), _scaled(_CHROMA, quality)] == [list(pillows[0]), list(pillows[1])]
    assert torch.equal(JPEGCompress(quality, chroma_quality=quality)(images), JPEGCompress(quality)(images))


def test_the_chroma_quality_leaves_grey_images_alone_and_coarsens_colour(images):
    grey = images[:, :1]
    assert torch.equal(JPEGCompress(30, chroma_quality=10)(grey), JPEGCompress(30)(grey))
    smooth = F.gaussian_blur(images, [9, 9], [4.0, 4.0])

    def error(*qualities: int) -> float:
        return float((JPEGCompress(*qualities)(smooth).double() - smooth).square().mean())

    assert error(30, 30) < error(30, 10) < error(10, 10)


def test_grey_is_pillows_luma(images):
    grey = Grayscale()(images)
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    for ours, image in zip(grey, images, strict=True):
        luma = np.asarray(F.to_pil_image(image).convert("L")).astype(int)
        assert np.abs(ours[0].numpy().astype(int) - luma).max() <= 1  # Pillow rounds in fixed point


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_bit_depth_keeps_the_top_bits(images, bits):
    mask = (0xFF << (8 - bits)) & 0xFF
    assert torch.equal(BitDepthReduce(bits)(images), images & mask)
    floats = BitDepthReduce(bits)(images.double() / 255)
    assert torch.equal((floats * 255).round().to(torch.uint8), images & mask), "floats on the 8-bit grid agree"


def test_median_is_scipys(images):
    want = ndimage.median_filter(images.numpy(), size=(1, 1, 3, 3), mode="nearest")
    assert np.array_equal(MedianBlur(3)(images), want)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_gaussian_is_scipys_with_a_mirrored_border(images, sigma):
    x = images.double() / 255
    kernel = np.exp(-0.5 * (np.arange(-1, 2) / sigma) ** 2)
    want = x.numpy()
    for axis in (2, 3):
        want = ndimage.correlate1d(want, kernel / kernel.sum(), axis, mode="mirror")
    assert np.abs(GaussianBlur(3, sigma)(x).numpy() - want).max() < 1e-6


def test_a_narrow_gaussian_is_the_identity(images):
    assert torch.equal(GaussianBlur(3, 0.1)(images), images)


@pytest.mark.parametrize(
    "make",
    [
        lambda: JPEGCompress(0),
        lambda: JPEGCompress(101),
        lambda: JPEGCompress(30, chroma_quality=0),
        lambda: JPEGCompress(30, chroma_quality=101),
        lambda: BitDepthReduce(0),
        lambda: BitDepthReduce(9),
        lambda: GaussianBlur(2),
        lambda: GaussianBlur(3, 0.0),
        lambda: MedianBlur(4),
    ],
)
def test_bad_options_raise(make):
    with pytest.raises(ValueError, match="expected"):
        make()


GOLDEN_GAIN = [
    (JPEGCompress(10), 0.117, 23.30),
    (JPEGCompress(30), 0.226, 26.76),
    (JPEGCompress(75), 0.436, 30.42),
    (GaussianBlur(3, 1e4), 0.267, 25.69),  # equal weights: the mean
    (GaussianBlur(3, 1.0), 0.355, 27.16),
    (MedianBlur(3), 0.392, 27.50),
    (Grayscale(), 0.542, None),
    (BitDepthReduce(2), 0.861, 16.80),
]


@pytest.mark.parametrize(("purifier", "gain", "psnr"), GOLDEN_GAIN, ids=lambda v: type(v).__name__)
def test_what_is_left_of_the_published_tap_poison(real_data, purifier, gain, psnr):
    """Projected gain ``<P(x + d) - P(x), d> / <d, d>``: 1 means that the poison survives whole."""
    stored = np.load(real_data / "cifar10_lossless_6k.npz")["x_train"]
    x = torch.from_numpy(stored).permute(0, 3, 1, 2)[::5]  # those that the golden numbers were measured on
    d = torch.from_numpy(np.load(real_data / "tap_5k.npz")["x"]).permute(0, 3, 1, 2)[::5].double() - x.double()
    clean, poisoned = purifier(x).double(), purifier((x + d).to(torch.uint8)).double()
    assert abs(((poisoned - clean) * d).sum() / (d * d).sum() - gain) < 0.001
    if psnr is not None:
        ours = -10 * torch.log10(((clean - x) / 255).square().mean((1, 2, 3))).mean()
        assert abs(ours - psnr) < 0.01

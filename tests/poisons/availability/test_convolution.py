import pytest
import torch
from torch.nn.functional import conv2d

from puretransforms.poisons.availability.convolution import CUDA, HUDA, VUDA, correlate


@pytest.fixture
def images():
    return torch.randint(0, 256, (40, 3, 17, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_kernels_of_seed_0_are_the_published_ones():
    kernels = CUDA(seed=0, kernel_size=3, p_b=0.3).kernels()
    first = [[0.164644, 0.214557, 1], [0.163465, 0.127096, 0.193768], [0.131276, 0.267532, 0.289099]]
    torch.testing.assert_close(kernels[0], torch.tensor(first, dtype=torch.float64), atol=1e-6, rtol=0)
    ones = [tuple(position.tolist()) for kernel in kernels for position in (kernel == 1).nonzero()]
    assert ones == [(0, 2), (0, 0), (0, 1), (0, 2), (2, 0), (0, 2), (2, 2), (0, 0), (1, 0), (1, 1)]
    sums = torch.tensor([2.55, 2.18, 1.64, 2.24, 2.71, 2.47, 1.93, 2.73, 2.04, 2.23], dtype=torch.float64)
    torch.testing.assert_close(kernels.sum((1, 2)), sums, atol=0.006, rtol=0)


def test_the_224_pixel_setting():
    kernels = CUDA(kernel_size=9, p_b=0.06, num_classes=100).kernels()
    assert kernels.shape == (100, 9, 9)
    assert (kernels == 1).sum((1, 2)).eq(1).all()
    rest = kernels[kernels < 1]
    assert rest.min() >= 0 and 0.0599 < rest.max() <= 0.06
    x = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    assert CUDA(kernel_size=9, p_b=0.06)(x, torch.tensor([1, 2]))[0].shape == x.shape


@pytest.mark.parametrize("shape", [(3, 3), (5, 1), (1, 5), (1, 1), (9, 9)])
def test_correlation_equals_a_convolution_layer_for_each_image(images, shape):
    x = images.double() / 255
    kernels = torch.rand(len(x), *shape, dtype=torch.float64)
    padding = shape[0] // 2, shape[1] // 2
    weights = kernels[:, None, None].expand(-1, 3, 1, -1, -1)
    expected = torch.cat([conv2d(x[i : i + 1], weights[i], padding=padding, groups=3) for i in range(len(x))])
    torch.testing.assert_close(correlate(x, kernels), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("poison", [CUDA(), VUDA(), HUDA(), CUDA(kernel_size=5)])
def test_a_batch_of_mixed_classes_equals_the_equation_image_by_image(images, poison):
    labels = torch.arange(len(images)) % 10
    poisoned, _ = poison(images, labels)
    kernels = poison.kernels().float()
    padding = kernels.shape[1] // 2, kernels.shape[2] // 2
    different = 0
    for image, label, out in zip(images, labels, poisoned, strict=True):
        weight = kernels[label].expand(3, 1, -1, -1)
        z = conv2d(image[None] / 255, weight, padding=padding, groups=3)[0]
        expected = (255 * z / z.max()).clamp(0, 255).to(torch.uint8)
        levels = (out.int() - expected.int()).abs()
        assert levels.max() <= 1 and out.max() == 255
        different += levels.sum()
    assert different <= 1e-3 * images.numel()  # where the last bit decides a truncation


def test_vertical_and_horizontal_filters_blur_along_one_axis():
    x = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 4] = 255
    rows = VUDA()(x, torch.tensor([3]))[0][0].sum(0)
    assert rows.any(0).nonzero().flatten().tolist() == [4] and rows.any(1).sum() == 3
    columns = HUDA()(x, torch.tensor([3]))[0][0].sum(0)
    assert columns.any(1).nonzero().flatten().tolist() == [4] and columns.any(0).sum() == 3


def test_black_stays_black_and_nothing_becomes_nan():
    x = torch.zeros(2, 3, 8, 8)
    x[1] += 0.5
    out, _ = CUDA()(x, torch.tensor([0, 1]))
    assert not out[0].any() and out.isfinite().all() and out[1].max() == 1


def test_saturated_regions_stay_level():
    """Equal neighbourhoods give equal pixels, so a white area does not turn into two levels by truncation."""
    out, _ = CUDA()(torch.full((10, 3, 64, 37), 255, dtype=torch.uint8), torch.arange(10))
    assert out[:, :, 1:-1, 1:-1].eq(255).all()
    assert (out[:, :, 0] < 255).any()


def test_refusals():
    with pytest.raises(ValueError, match="kernel_size as an odd"):
        CUDA(kernel_size=4)
    with pytest.raises(ValueError, match="p_b"):
        CUDA(p_b=-0.1)

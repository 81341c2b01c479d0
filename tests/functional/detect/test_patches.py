"""Repeated patches, by hand."""

import pytest
import torch

from puretransforms.data.images import round_to_uint8
from puretransforms.functional.detect.levels import level_occupancy
from puretransforms.functional.detect.patches import holds, repeated_patch


@pytest.fixture
def photos():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(60, 3, 8, 8, generator=generator), size=(24, 24), mode="bicubic")
    return round_to_uint8(x.clamp(0, 1) * 0.7 + 0.1)


@pytest.mark.parametrize("size", [1, 3])
def test_a_patch_on_a_third_is_found_with_its_carriers(photos, size):
    photos[:20, :, 5 : 5 + size, 9 : 9 + size] = torch.tensor([255, 0, 255], dtype=torch.uint8)[:, None, None]
    found = repeated_patch(photos, size)
    assert found.share == pytest.approx(20 / 60, abs=0.02)
    assert found.usual < 0.1
    assert found.carriers[:20].all() and found.carriers[20:].sum() <= 1
    assert abs(found.row - 5) <= 1 and abs(found.column - 9) <= 1


def test_photographs_hold_none(photos):
    found = repeated_patch(photos, 3)
    assert found.share < 0.1
    assert found.carriers.sum() == round(found.share * 60)


def test_flat_images_hold_none():
    found = repeated_patch(torch.full((40, 3, 16, 16), 200, dtype=torch.uint8), 3)
    assert found.share == 0 and not found.carriers.any()


def test_levels(photos):
    few = (photos.float().div(36.43).round() * 36.43).to(torch.uint8)
    assert (level_occupancy(photos) > 0.5).all()
    assert (level_occupancy(few) < 0.1).all()
    assert (level_occupancy(torch.full((2, 3, 8, 8), 7, dtype=torch.uint8)) == 1).all()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 11), (4, 7), (13, 13)])
@pytest.mark.parametrize("size", [1, 3])
def test_other_images_hold_the_patch_by_the_same_rule(size, row, column):
    """At the border too, where the surroundings are padded."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(90, 140, (60, 3, 16, 16), dtype=torch.uint8, generator=generator)
    patch = torch.randint(2, (3, size, size), generator=generator).to(torch.uint8) * 255
    pixels[::3, :, row : row + size, column : column + size] = patch
    found = repeated_patch(pixels[:30], size)
    assert (found.row, found.column) == (row, column) and found.carriers.tolist() == [i % 3 == 0 for i in range(30)]
    assert holds(pixels, found).tolist() == [i % 3 == 0 for i in range(60)]

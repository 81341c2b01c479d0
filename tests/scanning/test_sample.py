"""What a scan keeps of images, small and large."""

import pytest
import torch

from puretransforms.errors import SourceError
from puretransforms.scanning.sample import Views, corners, from_tiles, gather, to_tiles
from puretransforms.scanning.source import Item


def items(sizes, label=lambda i: i % 2):
    generator = torch.Generator().manual_seed(0)
    for i, (h, w) in enumerate(sizes):
        yield Item(str(i), label(i), torch.randint(256, (3, h, w), dtype=torch.uint8, generator=generator))


def test_small_images_are_kept_whole():
    given = list(items([(32, 40)] * 5))
    sample = gather(given, {0: "a", 1: "b"}, 5)
    assert not sample.tiled and len(sample) == 5
    assert torch.equal(sample.pixels, torch.stack([item.pixels for item in given]))
    assert sample.classes == ["a", "b"] and sample.members(1).tolist() == [1, 3]


def test_of_large_images_the_corners_are_kept_at_full_resolution():
    (given,) = items([(90, 200)])
    sample = gather([given], {}, 1)
    assert sample.tiled and sample.pixels.shape == (1, 3, 64, 64) and sample.sizes == ((90, 200), (90, 200))
    tiles = to_tiles(sample.pixels.float())
    x = given.pixels
    four = [x[:, :32, :32], x[:, :32, -32:], x[:, -32:, :32], x[:, -32:, -32:]]
    assert torch.equal(tiles, torch.stack(four).float())
    assert torch.equal(from_tiles(tiles, 1), sample.pixels.float())


def test_mixed_sizes_share_the_corners_of_the_smallest():
    sample = gather(items([(32, 32), (90, 70), (20, 64)]), {}, 3)
    assert sample.tiled and sample.pixels.shape == (3, 3, 20, 20)
    whole = gather(items([(90, 70)] * 2), {}, 2)
    rows = torch.arange(2)
    assert torch.equal(whole.residuals(rows)[:1], gather(items([(90, 70)]), {}, 1).residuals(rows[:1]))


def test_labels_without_gaps_and_reasons_for_what_is_left_out():
    given = [*items([(16, 16)] * 3, label=lambda i: 7 - i), *items([(8, 30)]), Item("x", 0, None, "cut short")]
    sample = gather(given, {}, None)
    assert sample.classes == ["5", "6", "7"] and sample.labels.tolist() == [2, 1, 0]
    assert sample.left_out == {"smaller than 16 pixels": 1, "cut short": 1}


def test_nothing_to_look_at_is_an_error_that_says_why():
    with pytest.raises(SourceError, match="1 cut short"):
        gather([Item("x", 0, None, "cut short")], {}, None)
    with pytest.raises(SourceError, match="empty"):
        gather([], {}, None)


def test_of_a_single_class_only_the_grid_of_jpeg_counts_as_shared():
    sample = gather(items([(32, 32)] * 20, label=lambda i: 0), {}, 20)
    assert torch.equal(sample.shared[:, :8, :8], sample.shared[:, 8:16, 24:])
    several = gather(items([(32, 32)] * 20), {}, 20)
    assert not torch.equal(several.shared[:, :8, :8], several.shared[:, 8:16, 24:])


# --- the buffers ------------------------------------------------------------------------------------------------------


def images(number, height, width):
    generator = torch.Generator().manual_seed(number)
    return torch.randint(256, (number, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("expected", [None, 3, 2000])
def test_views_come_back_in_order_whatever_was_expected(expected):
    views, given = Views(expected), images(1500, 2, 3)
    for image in given:
        views.add(image)
    assert torch.equal(views.whole(), given)


def test_a_view_is_a_copy_and_the_buffer_is_not():
    views, image = Views(4), images(1, 16, 16)[0]
    views.add(image)
    kept = image.clone()
    image.zero_()
    assert torch.equal(views.whole()[0], kept)
    first, second = views.whole(), views.whole()
    assert first.data_ptr() == second.data_ptr()


def test_shapes_may_come_in_any_order():
    views = Views()
    small, large, flat = images(2, 32, 32), images(2, 200, 90), images(1, 20, 300)
    for image in (small[0], large[0], flat[0], small[1], large[1]):
        views.add(image)
    found = views.cornered()
    wanted = [corners(image, 10) for image in (small[0], large[0], flat[0], small[1], large[1])]
    assert torch.equal(found, torch.stack(wanted))


def test_only_the_first_shape_is_given_room_for_all():
    views = Views(100_000)
    for size in (8, 9, 10):
        views.add(images(1, size, size)[0])
    assert [len(buffer) for buffer in views._buffers.values()] == [100_000, 1024, 1024]


def test_corners_of_large_images_alone_are_not_copied_again():
    views = Views(2)
    for image in images(2, 90, 200):
        views.add(image)
    buffer = views.whole()
    assert buffer.shape == (2, 3, 64, 64) and views.cornered().data_ptr() == buffer.data_ptr()


def test_a_part_of_a_sample_is_a_sample():
    sample = gather(items([(32, 32)] * 8), {0: "a", 1: "b"}, 8)
    rest = sample.without([1, 6])
    assert rest.names == ["0", "2", "3", "4", "5", "7"] and len(rest.index) == 6 and rest.total == 8
    assert torch.equal(rest.pixels, sample.pixels[[0, 2, 3, 4, 5, 7]]) and rest.ratios.shape == (6, 12)
    assert not torch.equal(rest.shared, sample.shared), "what was measured on all images is measured again"
    assert len(sample.without([])) == 8

"""The buffers of a scan."""

import pytest
import torch

from puretransforms.scanning.views import Views, corners


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

"""What is no image: one sentence each that says so and how to mend it."""

import pytest
import torch
from torchvision import tv_tensors

from puretransforms import COINInterpolate, Grayscale, JPEGCompress
from puretransforms.data.images import to_batch
from puretransforms.errors import NoImageError, RangeError
from puretransforms.poisons import SIG


@pytest.mark.parametrize("wrap", [lambda x: x, tv_tensors.Image], ids=["plain", "typed"])
@pytest.mark.parametrize("transform", [COINInterpolate(), Grayscale(), JPEGCompress()], ids=lambda t: type(t).__name__)
def test_purifiers_say_what_is_wrong_with_an_image(transform, wrap):
    with pytest.raises(NoImageError, match=r"got an empty tensor of shape \[0, 3, 32, 32\]: skip it"):
        transform(wrap(torch.rand(0, 3, 32, 32)))
    with pytest.raises(NoImageError, match=r"got shape \[32, 20, 3\], which ends with the channels: .*movedim"):
        transform(wrap(torch.rand(32, 20, 3)))
    with pytest.raises(NoImageError, match=r"shape \[5, 32, 20, 3\], which ends with the channels"):
        transform(wrap(torch.zeros(5, 32, 20, 3, dtype=torch.uint8)))
    for bad in (torch.nan, -torch.nan):
        x = torch.rand(2, 3, 8, 8)
        x[1, 2, 3, 4] = bad
        with pytest.raises(RangeError, match=r"in \[0, 1\], got NaN: mend the step before"):
            transform(wrap(x))
    with pytest.raises(RangeError, match="got values from 0 to inf"):
        transform(wrap(torch.tensor([0.0, torch.inf]).expand(3, 2, 2)))


def test_so_do_poisons():
    with pytest.raises(NoImageError, match="an empty tensor"):
        SIG()(torch.rand(0, 3, 32, 32), torch.empty(0, dtype=torch.int64))
    with pytest.raises(NoImageError, match="ends with the channels"):
        SIG()(torch.rand(32, 20, 3), 0)
    with pytest.raises(RangeError, match="got NaN"):
        SIG()(torch.full((3, 8, 8), torch.nan), 0)


@pytest.mark.parametrize("shape", [(1, 8, 3), (3, 8, 3), (4, 8, 3), (3, 3, 3), (2, 3, 5, 3)])
def test_narrow_images_are_images(shape):
    assert to_batch(torch.rand(shape))[0].shape[-3:] == shape[-3:]

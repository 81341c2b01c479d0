"""Images extended to sides that a network can halve."""

import torch

from puretransforms.functional.padding import whole


def test_the_last_row_and_column_are_repeated():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    out = whole(x, 4)
    assert out.shape == (1, 1, 4, 4)
    assert torch.equal(out[0, 0, :2, :3], x[0, 0]) and (out[0, 0, 2:] == out[0, 0, 1]).all()
    assert torch.equal(out[..., 3], out[..., 2])


def test_sides_that_fit_stay_as_they_are():
    x = torch.rand(2, 3, 8, 4)
    assert whole(x, 4) is x

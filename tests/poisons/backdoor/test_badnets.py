import pytest
import torch

from puretransforms.errors import NoImageError
from puretransforms.poisons.backdoor.badnets import BadNets


@pytest.fixture
def grey():
    return torch.full((2, 3, 8, 10), 100, dtype=torch.uint8)


def test_a_white_patch_in_the_bottom_right_corner(grey):
    out = BadNets().trigger(grey)
    assert (out != grey).any(1).nonzero()[:, 1:].unique(dim=0).tolist() == [
        [i, j] for i in (5, 6, 7) for j in (7, 8, 9)
    ]
    assert out[..., 5:, 7:].eq(255).all()


def test_a_checkerboard_with_a_margin(grey):
    out = BadNets(patch_size=3, pattern="checkerboard", margin=2).trigger(grey)
    assert out[0, 1, 3:6, 5:8].tolist() == [[255, 1, 255], [1, 255, 1], [255, 1, 255]]
    assert (out != grey).any(1).sum() == 2 * 9


def test_refusals(grey):
    with pytest.raises(NoImageError, match="at least 9 x 9 pixels"):
        BadNets(patch_size=5, margin=4).trigger(grey)
    for bad in ({"patch_size": 0}, {"margin": -1}, {"pattern": "cat"}):
        with pytest.raises(ValueError, match="expected"):
            BadNets(**bad)

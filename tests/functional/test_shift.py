import pytest
import torch

from puretransforms.functional.shift import random_shift_flip


def test_it_moves_the_centre_of_mass_by_a_uniform_shift_and_flips_half():
    x = torch.zeros(400, 1, 32, 32)
    x[:, :, 14:18, 18:22] = 1  # right of the centre, far from the borders
    out = random_shift_flip(x, torch.Generator().manual_seed(0), max_shift=4.0)
    torch.testing.assert_close(out.sum((1, 2, 3)), x.sum((1, 2, 3)))  # a shift keeps the mass
    places = torch.arange(32.0)
    column = (out.sum((1, 2)) * places).sum(1) / 16 - 15.5
    row = (out.sum((1, 3)) * places).sum(1) / 16 - 15.5
    assert row.abs().max() < 4.001 and row.abs().max() > 3.5 and row.mean().abs() < 0.4
    assert (row.std() - 4 / 3**0.5).abs() < 0.2  # uniform on (-4, 4)
    flipped = column < 0
    assert 0.4 < flipped.double().mean() < 0.6
    assert (column.abs() - 4).abs().max() < 4.001


def test_no_shift_and_no_flip_is_the_identity_and_it_can_be_differentiated():
    x = torch.rand(6, 3, 7, 9, requires_grad=True)
    out = random_shift_flip(x, torch.Generator().manual_seed(0), max_shift=0.0)
    same = [(a - b).abs().max() < 1e-5 or (a - b.flip(2)).abs().max() < 1e-5 for a, b in zip(out, x, strict=True)]
    assert all(same)
    out.sum().backward()
    assert torch.allclose(x.grad, torch.ones_like(x), atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 32), (16, 96)])
def test_by_default_it_shifts_up_to_an_eighth_of_the_side(height, width):
    x = torch.zeros(400, 1, height, width)
    x[:, :, height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = 1
    out = random_shift_flip(x, torch.Generator().manual_seed(0))
    for axis, side in ((2, height), (3, width)):
        centre = (out.sum((1, 5 - axis)) * torch.arange(float(side))).sum(1) / 16 - (side - 1) / 2
        assert 0.95 * side / 8 < centre.abs().max() <= side / 8 + 1e-3
        assert (centre.std() - side / 8 / 3**0.5).abs() < 0.05 * side / 8  # uniform


@pytest.mark.parametrize("max_shift", [2.0, 8.0, None])
def test_the_same_generator_gives_the_same_views(max_shift):
    x = torch.rand(5, 3, 16, 16)
    a, b = (random_shift_flip(x, torch.Generator().manual_seed(3), max_shift) for _ in range(2))
    assert a.equal(b) and not a.equal(x)

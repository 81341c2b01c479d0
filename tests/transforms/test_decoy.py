"""Decoys: fresh patterns of a told size, of every kind, each with its own key."""

import pytest
import torch

from puretransforms import DecoyNoise
from puretransforms.functional.corruption import FIELDS
from puretransforms.functional.opponent import to_opponent

GREY = 0.5 + 0.02 * torch.randn(256, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # no two draw the same


def test_the_root_mean_square_is_sigma_and_luma_to_chroma_is_drawn():
    added = DecoyNoise(sigma=6.0, seed=0)(GREY) - GREY
    assert float(added.square().mean().sqrt()) * 255 == pytest.approx(6, rel=0.05)
    luma = to_opponent(added).square().mean((2, 3))[:, 0] / added.square().mean((2, 3)).sum(1)
    assert float(luma.min()) < 0.1 and float(luma.max()) > 0.9


@pytest.mark.parametrize("family", FIELDS)
def test_one_family_alone(family):
    out = DecoyNoise(sigma=6.0, families=[family], seed=0)(GREY[:64])
    assert float((out - GREY[:64]).square().mean().sqrt()) * 255 == pytest.approx(6, rel=0.15)
    assert len({image.numpy().tobytes() for image in out - GREY[:64]}) == 64, "each image has its own key"


def test_all_families_are_drawn():
    """An image of one family has the same draw as if it were the only family."""
    mixed = DecoyNoise(sigma=6.0, seed=0)(GREY)
    for name in FIELDS:
        alone = DecoyNoise(sigma=6.0, families=[name], seed=0)(GREY)
        same = sum(torch.allclose(a, b, atol=1e-4) for a, b in zip(mixed, alone, strict=True))
        assert 15 < same < 70, (name, same)  # of 256, a seventh on average


def test_it_draws_anew_at_every_access():
    decoy = DecoyNoise()
    assert not torch.equal(decoy(GREY[:4]), decoy(GREY[:4]))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"sigma": -1.0}, ValueError, "sigma"),
        ({"sigma": "much"}, TypeError, "sigma"),
        ({"families": ["mosaic"]}, ValueError, "families"),
        ({"families": []}, ValueError, "families"),
    ],
)
def test_what_is_refused(options, kind, words):
    with pytest.raises(kind, match=words):
        DecoyNoise(**options)

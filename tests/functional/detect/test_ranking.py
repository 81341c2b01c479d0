"""Ranks by any value."""

import torch

from puretransforms.functional.detect.ranking import higher_than_rest, outranked, ranks_within


def test_ties_count_half():
    found = outranked(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 2.0, 2.0, 3.0]))
    assert found.tolist() == [0.125, 0.5, 1.0]


def test_ranks_are_those_within_a_class():
    values, labels = torch.tensor([1.0, 10.0, 3.0, 40.0, 2.0]), torch.tensor([0, 1, 0, 1, 0])
    found = ranks_within(values, labels)
    assert torch.allclose(found, torch.tensor([1 / 6, 1 / 4, 5 / 6, 3 / 4, 3 / 6]))
    assert torch.equal(ranks_within(values * 2 + 7, labels), found)


def test_the_area_under_the_roc_counts_all_pairs():
    generator = torch.Generator().manual_seed(0)
    values, chosen = torch.randn(60, generator=generator), torch.arange(60) % 3 == 0
    values += chosen.float()
    pairs = values[chosen][:, None] - values[~chosen][None]
    assert abs(higher_than_rest(values, chosen) - float((pairs > 0).float().mean())) < 1e-6
    assert higher_than_rest(-values, chosen) < 0.5 < higher_than_rest(values, chosen)

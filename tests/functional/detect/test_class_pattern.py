"""The pattern that the label predicts."""

import torch

from puretransforms.functional.detect.class_pattern import class_patterns, magnitudes


def test_what_a_class_shares_is_found_and_what_all_share_is_not():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    patterns = torch.randn(3, 3, 8, 8, generator=generator).sign() * torch.tensor([0.0, 2.0, 6.0])[:, None, None, None]
    common = torch.randn(3, 8, 8, generator=generator) * 50
    found = class_patterns(patterns[labels] + common + torch.randn(300, 3, 8, 8, generator=generator), labels)
    assert torch.allclose(found, patterns - patterns.mean(0), atol=0.5)  # five deviations of a mean of 100
    assert torch.allclose(found.sum(0), torch.zeros(3, 8, 8), atol=1e-4)


def test_the_magnitude_is_the_root_mean_square():
    found = magnitudes(torch.stack([torch.full((3, 4, 4), -2.0), torch.zeros(3, 4, 4)]))
    assert found.tolist() == [2.0, 0.0]

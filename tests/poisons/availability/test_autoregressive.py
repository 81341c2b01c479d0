import json

import pytest
import torch
from torch.nn.functional import conv2d

from puretransforms.errors import NoImageError
from puretransforms.functional.perturbation import magnitude
from puretransforms.poisons.availability.autoregressive import (
    AR,
    CROP,
    SHIPPED,
    frame_size,
    generate,
    responses,
    search,
)


@pytest.fixture(scope="module")
def shipped():
    return torch.tensor(json.loads(SHIPPED.read_text()), dtype=torch.float64)


def fields(coefficients, height=32, width=32, seed=0):
    n, channels = coefficients.shape[:2]
    frame = torch.randn(n, channels, frame_size(height, width), generator=torch.Generator().manual_seed(seed)).double()
    return generate(coefficients, frame, height, width)


def test_generation_equals_the_recursion_value_by_value(shipped):
    height, width, channels = 5, 7, 3
    coefficients = shipped[:2]
    rows, columns = height + CROP, width + CROP
    frame = torch.randn(2, channels, frame_size(height, width), dtype=torch.float64)
    out = generate(coefficients, frame, height, width)
    for b in range(2):
        for c in range(channels):
            s = torch.zeros(rows, columns, dtype=torch.float64)
            s[:2] = frame[b, c, : 2 * columns].view(2, columns)
            s[2:, :2] = frame[b, c, 2 * columns :].view(-1, 2)
            for i in range(rows - 2):
                for j in range(columns - 2):
                    s[i + 2, j + 2] = (coefficients[b, c] * s[i : i + 3, j : j + 3]).sum()
            torch.testing.assert_close(out[b, c], s[CROP:, CROP:])


def test_the_matching_filter_is_silent_on_its_own_class_and_answers_to_others(shipped):
    matching = shipped.clone()
    matching[..., 2, 2] = -1
    own = fields(shipped)
    own = own / magnitude(own, "l2")[:, None, None, None]
    answers = torch.stack([responses(shipped, field) for field in own])
    assert answers.diagonal().max() < 1e-5
    assert (answers + 99 * torch.eye(10)).min() > 2
    for k in range(10):
        torch.testing.assert_close(answers[3, k], conv2d(own[3][None], matching[k][None]).relu().sum())


def test_shipped_coefficients_are_normalised_and_stable(shipped):
    assert shipped.shape == (10, 3, 3, 3)
    assert not shipped[..., 2, 2].any()
    torch.testing.assert_close(shipped.sum((2, 3)), torch.ones(10, 3, dtype=torch.float64), atol=1e-6, rtol=0)
    for seed in range(3):
        assert magnitude(fields(shipped, seed=seed), "l2").max() < 80  # 50 on average over draws


def test_a_search_finds_stable_distinct_coefficients_for_more_classes_and_larger_images():
    found = search(14, 32, 32, seed=1)
    assert found.shape == (14, 3, 3, 3) and found.equal(search.__wrapped__(14, 32, 32, seed=1))
    assert not found[:2].equal(search(2, 32, 32, seed=2, min_response=1.0))
    own = fields(found)
    assert magnitude(own, "rms").max() < 2 and not found[..., 2, 2].any()
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(14, 3, dtype=torch.float64))
    own = own / magnitude(own, "l2")[:, None, None, None]
    answers = torch.stack([responses(found, field) for field in own])
    below = torch.tril(answers, -1)[torch.tril(torch.ones(14, 14), -1) > 0]
    assert (below > 2).all()  # each was kept for answering to all before it, on another draw
    assert magnitude(fields(search(2, 40, 24, min_response=1.0), 40, 24), "rms").max() < 2


def test_the_poison_has_unit_length_and_is_the_scaled_field():
    x, labels = torch.full((40, 3, 32, 32), 0.5), torch.arange(40) % 10
    delta = AR(quantize=None)(x, labels, torch.arange(40))[0] - 0.5
    torch.testing.assert_close(magnitude(delta, "l2"), torch.ones(40, dtype=torch.float64), rtol=1e-4, atol=0)
    coefficients = AR().class_coefficients(3, 32, 32).float()
    for k in (0, 7):
        own = torch.stack([responses(coefficients, field) for field in delta[labels == k]])
        assert own[:, k].max() < 1e-2 and own[:, [i for i in range(10) if i != k]].min() > 1


def test_which_coefficients_are_used(shipped):
    assert AR(num_classes=4).class_coefficients(3, 32, 32).equal(shipped[:4])
    assert AR(num_classes=1).class_coefficients(3, 40, 32).equal(search(1, 40, 32))
    own = shipped[:2].tolist()
    assert AR(num_classes=2, coefficients=own).class_coefficients(3, 99, 99).equal(shipped[:2])


def test_refusals(shipped):
    with pytest.raises(NoImageError, match="images of 3 channels"):
        AR()(torch.rand(1, 32, 32), 0)
    with pytest.raises(ValueError, match=r"shape \[10, C, 3, 3\], got \[2, 3, 3, 3\]"):
        AR(coefficients=shipped[:2].tolist())
    with pytest.raises(ValueError, match="epsilon as a finite number above 0"):
        AR(epsilon=0.0)

"""Alarms, flagged classes, suspects and intervals, by hand."""

import pytest
import torch

from puretransforms.scanning.finding import Finding, wilson


def test_an_alarm_needs_the_lower_end_above_the_threshold():
    found = Finding("f", "?", score=0.30, error=0.09, threshold=0.1)
    assert (found.low, found.high) == pytest.approx((0.12, 0.48))
    assert found.alarm
    found.error = 0.11
    assert not found.alarm
    found.error, found.untested = 0.0, "too few images"
    assert not found.alarm


def test_flagged_classes_and_suspects_come_worst_first():
    found = Finding("f", "?", score=1.0, threshold=0.1, classes={"a": 0.2, "b": 0.05, "c": 0.9})
    assert found.flagged == ["c", "a"]
    assert found.suspects == []
    found.images, found.image_threshold = torch.tensor([0.3, float("nan"), 0.9, 0.1, 0.5]), 0.2
    assert found.suspects == [2, 4, 0]
    found.threshold = 2.0
    assert found.suspects == []


def test_wilson_by_the_textbook():
    """Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, at 95 %."""
    assert wilson(81, 263, 1.959964) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148, 1.959964) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20, 1.959964) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)

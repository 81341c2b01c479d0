"""Alarms, flagged classes, suspects and intervals, by hand."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from puretransforms.scanning.detectors.agreement import Lookalikes
from puretransforms.scanning.detectors.base import Finding, wilson
from puretransforms.scanning.detectors.levels import Levels
from puretransforms.scanning.detectors.shortcut import PixelShortcut

NAN = float("nan")


def test_an_alarm_needs_the_lower_end_above_the_threshold():
    detector = PixelShortcut(threshold=0.1)
    found = Finding(detector, score=0.30, error=0.09)
    assert (found.low, found.high) == pytest.approx((0.12, 0.48))
    assert found.alarm and not Finding(detector, score=0.30, error=0.11).alarm
    assert not Finding(detector, score=0.30, untested="too few images").alarm
    assert not Finding(PixelShortcut(), score=9.0).alarm and Finding(PixelShortcut()).silent


def test_an_extreme_value_is_compared_itself():
    found = Finding(Lookalikes(threshold=0.5), score=0.52, error=0.03)
    assert found.low < 0.5 < found.compared and found.alarm


def test_flagged_classes_and_suspects_come_worst_first():
    classes = {"a": 0.2, "b": 0.05, "c": 0.9}
    found = Finding(PixelShortcut(threshold=0.1), score=1.0, classes=classes)
    assert found.flagged == ["c", "a"] and found.widespread
    assert found.suspects == []
    images = torch.tensor([0.3, NAN, 0.9, 0.1, 0.5])
    assert Finding(PixelShortcut(threshold=0.2), score=1.0, images=images).suspects == [2, 4, 0]
    assert Finding(PixelShortcut(threshold=2.0), score=1.0, images=images).suspects == []
    quiet = torch.tensor([False, False, True, False, False])
    assert Finding(PixelShortcut(threshold=0.2), score=1.0, images=images, acquitted=quiet).suspects == [4, 0]
    assert Finding(Levels(threshold=0.2), score=1.0, images=images).suspects == [2], "its own level for images"


def test_a_finding_and_a_detector_never_change():
    found = Finding(PixelShortcut(threshold=0.1), score=1.0)
    with pytest.raises(FrozenInstanceError):
        found.score = 0.0
    with pytest.raises(FrozenInstanceError):
        found.detector.threshold = 0.0


def test_wilson_by_the_textbook():
    """Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, at 95 %."""
    assert wilson(81, 263, 1.959964) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148, 1.959964) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20, 1.959964) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)

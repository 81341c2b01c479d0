"""The thresholds that are shipped, and how they are fitted."""

import pytest

from puretransforms.scanning.calibration import calibration, fit_threshold
from puretransforms.scanning.detectors import DETECTORS


def test_every_detector_has_a_threshold():
    assert set(calibration()["thresholds"]) == set(DETECTORS)
    assert all(threshold > 0 for threshold in calibration()["thresholds"].values())


def test_a_threshold_lies_in_the_gap_nearer_to_the_clean_side():
    clean = [0.030, 0.032, 0.034, 0.036]
    gap = fit_threshold(clean, [0.05, 0.25, 0.9])
    assert 0.051 < gap < (0.051 + 0.25) / 2  # 0.033 and eight deviations of 0.0022; 0.05 does not stand out
    assert fit_threshold(clean, [0.05]) == pytest.approx(0.0509, abs=1e-3)
    assert fit_threshold([-0.3, -0.3], [0.0001]) == 3e-3
    assert fit_threshold([0.0, 0.0, 0.0, 0.1], [0.11]) == pytest.approx(0.025 + 8 * 0.0433, abs=1e-3)

"""Thresholds of the detectors, and what was measured with them: ``calibration.json`` beside this file.

The file says which command wrote it, on which data.
"""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from statistics import fmean, pstdev
from typing import Any

_LEAST = 3e-3  # of any threshold
_DEVIATIONS = 8  # of clean scores above their mean: clean data of other kinds vary more than those of the fit


@cache
def calibration() -> dict[str, Any]:
    """The content of ``calibration.json``."""
    return json.loads(files(__package__).joinpath("calibration.json").read_text())


def fit_threshold(clean: Sequence[float], poisoned: Sequence[float], weight: float = 1 / 3) -> float:
    """A threshold in the gap between clean and poisoned scores (lower ends of their intervals).

    At least the highest clean score, and eight standard deviations above the mean of the clean ones. The gap runs from
    there to the lowest of the poisoned scores that the detector answers to, which are those above twice as much. The
    threshold stands a third of the way up, on a scale of the square root, so nearer to the clean side: what is to be
    found at low rates lies there too. Where no poisoned score stands out, it is what the clean scores alone say.
    """
    quiet = max(_LEAST, *clean, fmean(clean) + _DEVIATIONS * pstdev(clean))
    answered = [score for score in poisoned if score > 2 * quiet]
    if not answered:
        return quiet
    return ((1 - weight) * quiet**0.5 + weight * min(answered) ** 0.5) ** 2

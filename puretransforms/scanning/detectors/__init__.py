"""The detectors of a scan, in the order in which they run: each takes a sample and gives a finding.

After those of :data:`DETECTORS` come two that ask a trained network: :func:`.energy.energy` and
:func:`.predictable.class_pattern`.
"""

from collections.abc import Callable

from ..finding import Finding
from ..sample import Sample
from .agreement import agreement, lookalikes
from .edges import edges
from .energy import energy
from .levels import levels
from .patches import patches
from .predictable import class_pattern
from .shortcut import pixel_shortcut, texture_shortcut

DETECTORS: dict[str, Callable[[Sample], Finding]] = {
    "edges": edges,
    "agreement": agreement,
    "lookalikes": lookalikes,
    "texture shortcut": texture_shortcut,
    "pixel shortcut": pixel_shortcut,
    "patches": patches,
    "levels": levels,
}

__all__ = ["DETECTORS", "class_pattern", "energy"]

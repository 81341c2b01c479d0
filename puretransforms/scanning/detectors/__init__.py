"""The detectors of a scan, in the order in which they run: objects that take a sample and give a finding."""

from .agreement import Agreement, Lookalikes
from .base import Detector, Finding, Kind
from .edges import Edges
from .levels import Levels
from .neighbours import Neighbours
from .patches import Patches
from .shortcut import PixelShortcut, TextureShortcut
from .trained import ClassPattern, Energy

DETECTORS: dict[str, type[Detector]] = {
    kind.name: kind
    for kind in (Edges, Agreement, Lookalikes, TextureShortcut, PixelShortcut, Neighbours, Patches, Levels)
}
TRAINED: dict[str, type[Detector]] = {kind.name: kind for kind in (Energy, ClassPattern)}

__all__ = ["DETECTORS", "TRAINED", "ClassPattern", "Detector", "Energy", "Finding", "Kind", "Neighbours"]

"""What a detector is, and what it has to say: a name, a threshold, and a finding that never changes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from typing import Any, ClassVar

import torch

from ...functional.shapes import Bool, Float, Tensor
from ..sample import Sample

ENOUGH = 30  # images of a class, below which nothing is said about it
SURE = 2.0  # standard errors below the score that must still be above the threshold


class Kind(StrEnum):
    """What a scan can conclude."""

    NONE = "none found"
    INSUFFICIENT = "insufficient"
    BOUNDED = "class-wise bounded"
    CONVOLVED = "convolution-based"
    TRIGGERED = "triggered suspects"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Detector(ABC):
    """One question about a dataset.

    Args:
        threshold: a score above this, at the lower end of its interval, raises an alarm; infinite: evidence only.

    Attributes:
        name: in reports and in ``calibration.json``.
        question: what it asks, in plain words.
        weight: of its evidence on the kind of poison; of several alarms the one of the lowest number decides.
        cautious: compare the lower end of the interval with the threshold, not the score itself. Not so where the
            score is an extreme value, whose spread the threshold already allows for.
        gap: how far up the gap between clean scores and those of wholly poisoned sets the threshold was fitted, 0 to 1.
        image_level: images that score above this are suspects; ``None``: the threshold.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    weight: ClassVar[int] = 9
    cautious: ClassVar[bool] = True
    gap: ClassVar[float] = 1 / 3
    image_level: ClassVar[float | None] = None
    threshold: float = inf

    @abstractmethod
    def look(self, sample: Sample) -> "Finding":
        """Answer the question for ``sample``."""

    def kind(self, finding: "Finding") -> Kind | None:
        """What an alarm of this detector means, if that alone can say it."""
        return None

    def place(self, finding: "Finding", name: str) -> tuple[int, int, int] | None:
        """``(row, column, side)`` of what was found in the images of class ``name``, if it stands at one place."""
        return None

    def __call__(self, sample: Sample) -> "Finding":
        """Answer the question; no image of a tested class that is not above the threshold is a suspect."""
        found = self.look(sample)
        if found.images is None or found.silent:
            return found
        flagged = set(found.flagged)
        quiet = [name in found.classes and name not in flagged for name in sample.classes]
        return replace(found, acquitted=torch.tensor(quiet)[sample.labels])

    def untested(self, reason: str, **known: Any) -> "Finding":
        """The finding of a detector that could not look."""
        return Finding(self, untested=reason, **known)


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """The answer of one detector.

    Attributes:
        detector: who asked.
        score: of the dataset; 0 means nothing unusual, higher is more suspicious.
        error: standard error of the score, from sampling.
        classes: score of each class name that could be tested.
        images: ``[N]`` scores of the images of the sample (NaN: not tested), or ``None``.
        acquitted: ``[N]``, images of a tested class that is not above the threshold, which are never suspects.
        evidence: figures for the report.
        untested: why the detector could not answer, else ``""``.
    """

    detector: Detector
    score: float = 0.0
    error: float = 0.0
    classes: Mapping[str, float] = field(default_factory=dict)
    images: Float[Tensor, " n"] | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    untested: str = ""
    acquitted: Bool[Tensor, " n"] | None = None

    @property
    def name(self) -> str:
        """Of the detector."""
        return self.detector.name

    @property
    def question(self) -> str:
        """Of the detector."""
        return self.detector.question

    @property
    def threshold(self) -> float:
        """Of the detector."""
        return self.detector.threshold

    @property
    def image_threshold(self) -> float:
        """Images above this are suspects, if the detector raises an alarm."""
        level = self.detector.image_level
        return self.threshold if level is None else level

    @property
    def low(self) -> float:
        """Lower end of the 95 % confidence interval of the score."""
        return self.score - SURE * self.error

    @property
    def high(self) -> float:
        """Upper end of the 95 % confidence interval of the score."""
        return self.score + SURE * self.error

    @property
    def compared(self) -> float:
        """What is compared with the threshold: the lower end of the interval, or the score of an extreme value."""
        return self.low if self.detector.cautious else self.score

    @property
    def silent(self) -> bool:
        """Is there no threshold, so that it is evidence only?"""
        return self.threshold == inf

    @property
    def alarm(self) -> bool:
        """Is the score above the threshold, even at the lower end of its interval?"""
        return not self.untested and self.compared > self.threshold

    @property
    def flagged(self) -> list[str]:
        """The classes above the threshold, the most suspicious first."""
        over = [(score, name) for name, score in self.classes.items() if score > self.threshold]
        return [name for _, name in sorted(over, key=lambda pair: (-pair[0], pair[1]))]

    @property
    def widespread(self) -> bool:
        """Are at least half of the tested classes above the threshold?"""
        return 2 * len(self.flagged) >= len(self.classes)

    @property
    def suspects(self) -> list[int]:
        """Places in the sample of the suspicious images, the most suspicious first; none without an alarm."""
        if not self.alarm or self.images is None:
            return []
        scores = self.images.nan_to_num(nan=-torch.inf)
        if self.acquitted is not None:
            scores = scores.masked_fill(self.acquitted, -torch.inf)
        order = scores.argsort(descending=True)
        return order[scores[order] > self.image_threshold].tolist()


def wilson(hits: float | int, n: int, z: float = SURE) -> tuple[float, float]:
    """The Wilson interval of a share: ``hits`` of ``n``."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def too_few(most: int) -> str:
    """Why a detector that looks at one class at a time could not look."""
    return f"it needs at least {ENOUGH} images of a class, and the largest class of the sample has {most}"


def too_few_classes(found: int) -> str:
    """Why a detector that compares classes could not look."""
    return f"it needs two classes with at least {ENOUGH} images, and the sample has {found}"

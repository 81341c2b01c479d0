"""What one detector has to say."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..functional.shapes import Float, Tensor

ENOUGH = 30  # images of a class, below which nothing is said about it
SURE = 2.0  # standard errors below the score that must still be above the threshold


@dataclass(slots=True)
class Finding:
    """The answer of one detector.

    Attributes:
        name: of the detector.
        question: what it asks, in plain words.
        score: of the data set; 0 means nothing unusual, higher is more suspicious.
        error: standard error of the score, from sampling.
        threshold: alarm where ``score - 2 error`` is above this.
        classes: score of each class name that could be tested.
        images: ``[N]`` scores of the images of the sample (NaN: not tested), or ``None``.
        image_threshold: images above this are suspects, if the detector raises an alarm.
        evidence: figures for the report.
        untested: why the detector could not answer, else ``""``.
    """

    name: str
    question: str
    score: float = 0.0
    error: float = 0.0
    threshold: float = float("inf")
    classes: dict[str, float] = field(default_factory=dict)
    images: Float[Tensor, " n"] | None = None
    image_threshold: float = float("inf")
    evidence: dict[str, Any] = field(default_factory=dict)
    untested: str = ""

    @property
    def low(self) -> float:
        """Lower end of the 95 % confidence interval of the score."""
        return self.score - SURE * self.error

    @property
    def high(self) -> float:
        """Upper end of the 95 % confidence interval of the score."""
        return self.score + SURE * self.error

    @property
    def silent(self) -> bool:
        """Is there no threshold, so that it is evidence only?"""
        return self.threshold == float("inf")

    @property
    def alarm(self) -> bool:
        """Is the score above the threshold even at the lower end of its interval?"""
        return not self.untested and self.low > self.threshold

    @property
    def flagged(self) -> list[str]:
        """The classes above the threshold, the most suspicious first."""
        over = [(score, name) for name, score in self.classes.items() if score > self.threshold]
        return [name for _, name in sorted(over, key=lambda pair: (-pair[0], pair[1]))]

    @property
    def suspects(self) -> list[int]:
        """Indices of the suspicious images, the most suspicious first; none without an alarm."""
        if not self.alarm or self.images is None:
            return []
        scores = self.images.nan_to_num(nan=-torch.inf)
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

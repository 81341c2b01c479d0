"""From findings to a verdict in plain words. It never says "clean": it says what was looked for, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .detectors.shortcut import FLAT
from .finding import Finding

KINDS = {
    "none found": "nothing that these detectors look for was found",
    "class-wise bounded": "a small perturbation that tells the class (an availability poison within a norm bound)",
    "convolution-based": "class-wise convolution (CUDA and its kin)",
    "triggered suspects": "a trigger: the same pattern on some images, or on those of few classes",
    "unknown": "something that tells the class and is no picture content, of a kind that the detectors cannot name",
}
_FILLED = 1.25  # levels of 255: above, flat places carry noise; photographs come to about 1, convolved ones to 1.15
_BLIND = (
    "warps (WaNet), feature-space and gradient-matched poisons of single targets, triggers blurred by lossy coding, "
    "and perturbations on a small share of the images that no two images share"
)


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do: a chain of purifiers by name with their settings, and why."""

    chain: list[dict[str, Any]] = field(default_factory=list)
    words: str = ""


ADVICE = {
    "none found": Advice([], "no purifier: each costs accuracy, and nothing was found that it would take away"),
    "class-wise bounded": Advice(
        [{"name": "jpeg", "quality": 10}],
        "JPEG of quality 10, which removes bounded noise whatever its shape, at the price of fine detail",
    ),
    "convolution-based": Advice(
        [{"name": "coin", "alpha": 2.0}],
        "COIN with alpha 2, best applied anew at every access (in the training pipeline)",
    ),
    "triggered suspects": Advice(
        [{"name": "jpeg", "quality": 10}],
        "leave the suspects out of training or look at each; JPEG of quality 10 blurs faint patterns and single pixels "
        "but leaves a high-contrast patch in place",
    ),
    "unknown": Advice(
        [{"name": "jpeg", "quality": 10}],
        "JPEG of quality 10 as the purifier that helps against most kinds; look at the evidence first",
    ),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a scan concludes.

    Attributes:
        kind: one of :data:`KINDS`.
        confidence: ``"clear"`` (three times the threshold, at the lower end of the interval), ``"borderline"``, or
            ``"nothing found"``.
        alarms: names of the detectors that raised one, the strongest first.
        words: the verdict as a short paragraph.
        advice: the recommended chain and why.
    """

    kind: str
    confidence: str
    alarms: list[str]
    words: str
    advice: Advice


def judge(findings: Sequence[Finding], *, looked_at: int, total: int | None, measured: dict[str, Any]) -> Verdict:
    """Weigh the findings (thresholds set) of ``looked_at`` images out of ``total``."""
    alarms = sorted((f for f in findings if f.alarm), key=lambda f: -f.low / f.threshold)
    kind = _kind({f.name: f for f in findings}, alarms)
    strength = alarms[0].low / alarms[0].threshold if alarms else 0.0
    confidence = "clear" if strength >= 3 else "borderline" if alarms else "nothing found"
    words = _words(kind, confidence, alarms, findings, looked_at, total, measured)
    return Verdict(kind, confidence, [f.name for f in alarms], words, ADVICE[kind])


def _kind(found: dict[str, Finding], alarms: list[Finding]) -> str:
    names = {f.name for f in alarms}
    if not names:
        return "none found"
    if "edges" in names and _widespread(found["edges"]):
        return "convolution-based"
    if names & {"patches", "levels"}:
        return "triggered suspects"
    if "agreement" in names:
        return "class-wise bounded" if _widespread(found["agreement"]) else "triggered suspects"
    if "pixel shortcut" in names:
        return "class-wise bounded"
    if "texture shortcut" in names:
        level = found["texture shortcut"].evidence.get(FLAT, 0.0)
        return "class-wise bounded" if level > _FILLED else "convolution-based"
    if "lookalikes" in names:
        return "class-wise bounded" if _widespread(found["lookalikes"]) else "triggered suspects"
    return "unknown"


def _widespread(finding: Finding) -> bool:
    """Are at least half of the tested classes above the threshold?"""
    return 2 * len(finding.flagged) >= len(finding.classes)


def _words(
    kind: str,
    confidence: str,
    alarms: list[Finding],
    findings: Sequence[Finding],
    looked_at: int,
    total: int | None,
    measured: dict[str, Any],
) -> str:
    out = [f"Looked at {looked_at} of {total} images." if total else f"Looked at {looked_at} images."]
    if alarms:
        names = ", ".join(f.name for f in alarms)
        out.append(f"Found ({confidence}): {KINDS[kind]}. Raised by: {names}.")
    else:
        out.append(f"No alarm: {KINDS[kind]}. That does not make the data clean.")
    untested = [f"{f.name} ({f.untested})" for f in findings if f.untested]
    if untested:
        out.append(f"Not tested: {'; '.join(untested)}.")
    if measured:
        out.append(measured["words"])
    if not alarms:
        out.append(f"Known to escape: {_BLIND}.")
    return " ".join(out)

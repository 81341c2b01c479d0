"""From findings to a verdict in plain words. It never says "clean": it says what was looked for, and how sure it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .detectors.base import ENOUGH, Finding, Kind
from .detectors.shortcut import LEAST

KINDS = {
    Kind.NONE: "nothing that these detectors look for was found",
    Kind.INSUFFICIENT: "too few detectors could look, or the classes are no classes, so that nothing can be said",
    Kind.BOUNDED: "a small perturbation that tells the class (an availability poison within a norm bound)",
    Kind.CONVOLVED: "class-wise convolution (CUDA and its kin)",
    Kind.TRIGGERED: "a trigger: the same pattern on some images, or on those of few classes",
    Kind.UNKNOWN: "something that tells the class and is no picture content, of a kind that the detectors cannot name",
}
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"})
_SHARE = 3 / 4  # of the detectors that can raise an alarm must have looked
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
    Kind.NONE: Advice([], "no purifier: each costs accuracy, and nothing was found that it would take away"),
    Kind.INSUFFICIENT: Advice([], "none without evidence: scan again as said above"),
    Kind.BOUNDED: Advice(
        [{"name": "jpeg", "quality": 10}],
        "JPEG of quality 10, which removes bounded noise whatever its shape, at the price of fine detail",
    ),
    Kind.CONVOLVED: Advice(
        [{"name": "coin", "alpha": 2.0}],
        "COIN with alpha 2, best applied anew at every access (in the training pipeline)",
    ),
    Kind.TRIGGERED: Advice(
        [{"name": "jpeg", "quality": 10}],
        "leave the suspects out of training or look at each; JPEG of quality 10 blurs faint patterns and single pixels "
        "but leaves a high-contrast patch in place",
    ),
    Kind.UNKNOWN: Advice(
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
        headline: the verdict in one line.
        alarms: names of the detectors that raised one, the strongest first.
        reasons: why the scan could not look at all or at some of the data, each with the fix; may be empty.
        misses: poisons that are known to escape a scan of this kind, by the share of the images that carry them.
        words: the verdict as a short paragraph.
        advice: the recommended chain and why.
    """

    kind: Kind
    confidence: str
    headline: str
    alarms: list[str]
    reasons: list[str]
    misses: list[str]
    words: str
    advice: Advice


def judge(
    findings: Sequence[Finding],
    *,
    looked_at: int,
    total: int | None,
    measured: Mapping[str, Any],
    classes: Mapping[str, int] | None = None,
) -> Verdict:
    """Weigh the findings.

    Args:
        findings: one of each detector.
        looked_at: images that were drawn and could be read.
        total: images in the source, if known.
        measured: from ``calibration.json``: what was found, and missed, on datasets that were known.
        classes: how many images of each class were looked at, if known.
    """
    alarms = sorted((f for f in findings if f.alarm), key=lambda f: -f.compared / f.threshold)
    reasons = _reasons(classes or {})
    kind = _kind(alarms) if alarms else Kind.NONE
    if not alarms and (_too_few_looked(findings) or _no_classes(classes or {})):
        kind = Kind.INSUFFICIENT
    strength = alarms[0].compared / alarms[0].threshold if alarms else 0.0
    confidence = "clear" if strength >= 3 else "borderline" if alarms else "nothing found"
    looked = f"{sum(not f.untested for f in findings)} of {len(findings)} detectors could look"
    headline = f"{kind}: {looked}" if kind is Kind.INSUFFICIENT else f"{kind} ({confidence})" if alarms else str(kind)
    misses = _misses(measured, looked_at)
    words = _words(kind, confidence, headline, alarms, findings, reasons, misses, looked_at, total, measured)
    return Verdict(
        kind=kind,
        confidence=confidence,
        headline=headline,
        alarms=[f.name for f in alarms],
        reasons=reasons,
        misses=misses,
        words=" ".join(words),
        advice=ADVICE[kind],
    )


def _kind(alarms: Sequence[Finding]) -> Kind:
    """What the alarm that tells most about the kind says."""
    for finding in sorted(alarms, key=lambda f: f.detector.weight):
        kind = finding.detector.kind(finding)
        if kind is not None:
            return kind
    return Kind.UNKNOWN


def _too_few_looked(findings: Sequence[Finding]) -> bool:
    able = [f for f in findings if not f.silent]
    return sum(not f.untested for f in able) < _SHARE * len(able)


def _splits(classes: Mapping[str, int]) -> bool:
    return bool(classes) and all(name.lower() in SPLITS for name in classes)


def _no_classes(classes: Mapping[str, int]) -> bool:
    """Are the classes splits, or do most images lie in classes too small to be tested?"""
    tested = sum(n for n in classes.values() if n >= ENOUGH)
    return _splits(classes) or 2 * tested < sum(classes.values())


def _reasons(classes: Mapping[str, int]) -> list[str]:
    """What is wrong with the classes, each with the fix."""
    out = []
    small = {name: n for name, n in classes.items() if n < ENOUGH}
    if _splits(classes):
        names = " and ".join(repr(name) for name in sorted(classes))
        out.append(f"the classes are named {names}, which are splits: scan the folder below, one split at a time")
    if len(classes) == 1:
        out.append("there is one class, and most detectors compare classes: give one folder for each class, or labels")
    if small:
        least = min(small, key=lambda name: small[name])
        out.append(
            f"{len(small)} of {len(classes)} classes hold fewer than {ENOUGH} of the images looked at (the smallest, "
            f"{least!r}, holds {small[least]}): look at all images (sample=None, --sample 0), or merge rare classes"
        )
    number = sum(classes.values())
    if 0 < number < LEAST:
        out.append(f"there are {number} images, and the shortcut detectors need {LEAST}: look at more")
    return out


_RATES = {1.0: "all images", 0.5: "half of the images", 0.1: "a tenth", 0.01: "a hundredth"}


def _misses(measured: Mapping[str, Any], looked_at: int) -> list[str]:
    """``"on a tenth: LSP, AR"``, from the table of known sets."""
    out = []
    for rate, names in measured.get("misses", {}).items():
        out.append(f"on {_RATES.get(float(rate), f'a share of {float(rate):g}')}: {', '.join(names)}")
    size = measured.get("images", 0)
    if out and looked_at < size:
        out.append(f"measured on {size:,} images: of the {looked_at:,} looked at here more will escape")
    return out


def _words(
    kind: Kind,
    confidence: str,
    headline: str,
    alarms: Sequence[Finding],
    findings: Sequence[Finding],
    reasons: Sequence[str],
    misses: Sequence[str],
    looked_at: int,
    total: int | None,
    measured: Mapping[str, Any],
) -> list[str]:
    out = [f"Looked at {looked_at} of {total} images." if total else f"Looked at {looked_at} images."]
    if alarms:
        names = ", ".join(f.name for f in alarms)
        out.append(f"Found ({confidence}): {KINDS[kind]}. Raised by: {names}.")
    elif kind is Kind.INSUFFICIENT:
        out.append(f"{headline[0].upper()}{headline[1:]}, so that nothing can be said about these data.")
    else:
        out.append(f"No alarm: {KINDS[kind]}. That does not make the data clean.")
    if reasons:
        out.append(f"Why not all could be tested: {'; '.join(reasons)}.")
    untested = [f"{f.name} ({f.untested})" for f in findings if f.untested]
    if untested:
        out.append(f"Not tested: {'; '.join(untested)}.")
    if measured and kind is not Kind.INSUFFICIENT:
        out.append(measured["words"])
    if kind is Kind.NONE:
        out.append(f"Known to escape: {_BLIND}.")
        if misses:
            out.append(f"Known misses of this scan, at least in part: {'; '.join(misses)}.")
    return out

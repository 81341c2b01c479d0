"""From findings to a verdict in plain words. It never says "clean": it says what was looked for, and how sure it is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..functional.shapes import Int, Tensor
from ..registry import parse
from .detectors.base import ENOUGH, Finding, Kind
from .detectors.shortcut import LEAST

KINDS = {
    Kind.NONE: "nothing that these detectors look for was found",
    Kind.INSUFFICIENT: "too few detectors could look, or the classes are no classes, so that nothing can be said",
    Kind.BOUNDED: "a small perturbation that tells the class (an availability poison within a norm bound)",
    Kind.CONVOLVED: "class-wise convolution (CUDA and its kin)",
    Kind.TRIGGERED: "a trigger, the same pattern on some images or on those of few classes",
    Kind.UNKNOWN: "something that tells the class and is no picture content, of a kind that the detectors cannot name",
}
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"})
_LEFT = 0.2  # of a class that must stay when carriers of a trigger go
_SHARE = 3 / 4  # of the detectors that can raise an alarm: more must have looked
BLIND = (
    "at any share: warps (WaNet), feature-space and gradient-matched poisons of single targets, triggers blurred by "
    "lossy coding, perturbations on a small share of the images that no two images share"
)

# What `auto` applies, and what a report recommends: a purifier by name and options, as `create` takes it. A kind that
# is not here gets none. Which one is best against each kind is for the leaderboard to say.
PURIFIERS: dict[Kind, str] = {
    Kind.BOUNDED: "jpeg:quality=10",
    Kind.CONVOLVED: "coin:alpha=2.0",
    Kind.TRIGGERED: "jpeg:quality=10",
    Kind.UNKNOWN: "jpeg:quality=10",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do: a chain of purifiers by name with their settings, and why, in a few lines."""

    chain: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


_WHY = {
    Kind.NONE: ["no purifier: each costs accuracy, and nothing was found that it would take away"],
    Kind.INSUFFICIENT: ["none without evidence: mend what is named above and scan again, or choose a purifier by hand"],
    Kind.BOUNDED: ["{purifier}, which removes bounded noise whatever its shape, at the price of fine detail"],
    Kind.CONVOLVED: ["{purifier}, best applied anew at every access (in the training pipeline)"],
    Kind.TRIGGERED: [
        "leave the suspects out of training, or look at each (clean with auto puts them aside)",
        "{purifier} against faint patterns and single pixels; a patch of high contrast may stay in place",
    ],
    Kind.UNKNOWN: ["look at the evidence first", "{purifier}, which takes away faint patterns of any shape"],
}
_WHOLE_CLASS = "leave no image out for it: those that carry it are nearly all of their class, or cannot be named"


def advice(kind: Kind, droppable: bool = True) -> Advice:
    """The purifier of :data:`PURIFIERS`, and why.

    Args:
        kind: of the poison.
        droppable: of a trigger: are there images to leave out?
    """
    purifier, lines = PURIFIERS.get(kind), list(_WHY[kind])
    if kind is Kind.TRIGGERED and not droppable:
        lines[0] = _WHOLE_CLASS
    if purifier is None:
        return Advice([], lines)
    name, settings = parse(purifier)
    return Advice([{"name": name, **settings}], [line.format(purifier=purifier) for line in lines])


def carriers(findings: Sequence[Finding], labels: Int[Tensor, " n"]) -> dict[int, list[str]]:
    """The images that carry a trigger: place in the sample, and the detectors that name it.

    Suspects of the detectors whose alarm means a trigger. A class that would keep less than a fifth of its images keeps
    all of them: what nearly all of a class carries tells the class, which is for a purifier to remove.

    Args:
        findings: one of each detector.
        labels: class of each image of the sample.
    """
    found: dict[int, list[str]] = {}
    for finding in findings:
        means_trigger = finding.alarm and finding.detector.kind(finding) is Kind.TRIGGERED
        for i in finding.suspects if means_trigger else ():
            found.setdefault(i, []).append(finding.name)
    named = torch.tensor(sorted(found), dtype=torch.int64)
    held = labels.bincount()
    spared = held - labels[named].bincount(minlength=len(held)) < _LEFT * held
    return {i: found[i] for i in named[~spared[labels[named]]].tolist()}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a scan concludes.

    Attributes:
        kind: one of :data:`KINDS`.
        confidence: ``"clear"`` (three times the threshold, at the lower end of the interval), ``"borderline"``, or
            ``"nothing found"``.
        headline: kind and confidence, in a few words.
        sentence: the verdict in one sentence.
        alarms: names of the detectors that raised one, the strongest first.
        reasons: what raised the alarms, then why the scan could not look at all or at some of the data, each with the
            fix; may be empty.
        misses: poisons that are known to escape a scan of this kind, by the share of the images that carry them; none
            where it was insufficient.
        measured: how often such scans were right on datasets that were known, in one sentence; may be empty.
        advice: the recommended chain and why.
    """

    kind: Kind
    confidence: str
    headline: str
    sentence: str
    alarms: list[str]
    reasons: list[str]
    misses: list[str]
    measured: str
    advice: Advice


def judge(
    findings: Sequence[Finding],
    *,
    looked_at: int,
    total: int | None,
    left_out: int = 0,
    measured: Mapping[str, Any],
    classes: Mapping[str, int] | None = None,
    labels: Int[Tensor, " n"] | None = None,
) -> Verdict:
    """Weigh the findings.

    Args:
        findings: one of each detector.
        looked_at: images that were drawn and could be read.
        total: images in the source, if known.
        left_out: images that were drawn and could not be read.
        measured: from ``calibration.json``: what was found, and missed, on datasets that were known.
        classes: how many images of each class were looked at, if known.
        labels: class of each image that was looked at, if known.
    """
    alarms = sorted((f for f in findings if f.alarm), key=lambda f: -f.compared / f.threshold)
    kind = _kind(alarms) if alarms else Kind.NONE
    if not alarms and (_too_few_looked(findings) or _no_classes(classes or {})):
        kind = Kind.INSUFFICIENT
    strength = alarms[0].compared / alarms[0].threshold if alarms else 0.0
    confidence = "clear" if strength >= 3 else "borderline" if alarms else "nothing found"
    looked = f"{sum(not f.untested for f in findings)} of {len(findings)} detectors could look"
    if _splits(classes or {}):
        looked = f"the classes are splits, {_splits_named(classes or {})}"
    everything = total is not None and looked_at + left_out >= total
    images = f"{looked_at} of {total} images" if total else f"{looked_at} images"
    if kind is Kind.INSUFFICIENT:
        headline, sentence = f"{kind}: {looked}", f"Too little to go by in {images}: {looked}."
    elif alarms:
        headline = f"{kind} ({confidence})"
        suspects = len({i for finding in alarms for i in finding.suspects})
        count = f"; {suspects} suspects" if suspects else ""
        sentence = f"Found in a look at {images} ({confidence}): {KINDS[kind]}{count}."
    else:
        headline = str(kind)
        sentence = f"No alarm in {images}: {KINDS[kind]}, which does not make the data clean."
    known = kind is not Kind.INSUFFICIENT
    return Verdict(
        kind=kind,
        confidence=confidence,
        headline=headline,
        sentence=sentence,
        alarms=[f.name for f in alarms],
        reasons=[*map(_raised, alarms), *_reasons(classes or {}, everything)],
        misses=_misses(measured, looked_at) if known else [],
        measured=measured.get("words", "") if known else "",
        advice=advice(kind, labels is None or bool(carriers(findings, labels))),
    )


def _raised(finding: Finding) -> str:
    """``"patches 0.41, alarm above 0.09 (class '3')"``."""
    flagged, most = finding.flagged, 3
    names = ", ".join(repr(name) for name in flagged[:most]) + ", ..." * (len(flagged) > most)
    where = f" ({'class' if len(flagged) == 1 else f'{len(flagged)} classes:'} {names})" if flagged else ""
    part = ""
    if finding.images is not None and (seen := int((~finding.images.isnan()).sum())) < len(finding.images):
        part = f"; looked at {seen} of {len(finding.images)} images"
    return f"{finding.name} {finding.score:.4f}, alarm above {finding.threshold:.4f}{where}{part}"


def _kind(alarms: Sequence[Finding]) -> Kind:
    """What the alarm that tells most about the kind says."""
    for finding in sorted(alarms, key=lambda f: f.detector.weight):
        kind = finding.detector.kind(finding)
        if kind is not None:
            return kind
    return Kind.UNKNOWN


def _too_few_looked(findings: Sequence[Finding]) -> bool:
    able = [f for f in findings if not f.silent]
    return sum(not f.untested for f in able) <= _SHARE * len(able)


def _splits(classes: Mapping[str, int]) -> bool:
    return bool(classes) and all(name.lower() in SPLITS for name in classes)


def _no_classes(classes: Mapping[str, int]) -> bool:
    """Are the classes splits, or do most images lie in classes too small to be tested?"""
    tested = sum(n for n in classes.values() if n >= ENOUGH)
    return _splits(classes) or 2 * tested < sum(classes.values())


def _splits_named(classes: Mapping[str, int]) -> str:
    return " and ".join(repr(name) for name in sorted(classes))


def _reasons(classes: Mapping[str, int], everything: bool) -> list[str]:
    """What is wrong with the classes, each with the fix; ``everything``: were all images looked at?"""
    out = []
    more = "add images" if everything else "look at all images (sample=None, --sample 0)"
    small = {name: n for name, n in classes.items() if n < ENOUGH}
    if _splits(classes):
        names = _splits_named(classes)
        out.append(f"the classes are named {names}, which are splits: scan the folder below, one split at a time")
    if len(classes) == 1:
        out.append("there is one class, and most detectors compare classes: give one folder for each class, or labels")
    if small:
        least = min(small, key=lambda name: small[name])
        out.append(
            f"{len(small)} of {len(classes)} classes hold fewer than {ENOUGH} of the images looked at (the smallest, "
            f"{least!r}, holds {small[least]}): {more}, or merge rare classes"
        )
    number = sum(classes.values())
    if 0 < number < LEAST:
        out.append(f"there are {number} images, and the shortcut detectors need {LEAST}: {more}")
    return out


_RATES = {1.0: "all images", 0.5: "half of the images", 0.1: "a tenth", 0.01: "a hundredth"}


def _misses(measured: Mapping[str, Any], looked_at: int) -> list[str]:
    """``"on a tenth: LSP, AR"``, from the table of known sets; first what no scan of this kind can see."""
    out = [BLIND]
    for rate, names in measured.get("misses", {}).items():
        listed = ", ".join(re.sub(r", (\w+)", r" (\1)", name) for name in names)  # "CUDA, reflected" is one of them
        out.append(f"on {_RATES.get(float(rate), f'a share of {float(rate):g}')}: {listed}")
    size = measured.get("images", 0)
    if "apart" in measured:
        out.append(measured["apart"])
    if measured.get("misses") and looked_at < size:
        out.append(f"measured on {size:,} images: of the {looked_at:,} looked at here more will escape")
    return out

"""From findings to words."""

import re
from dataclasses import replace

import pytest
import torch

from puretransforms.registry import create
from puretransforms.scanning.detectors import DETECTORS, Finding, Kind
from puretransforms.scanning.detectors.shortcut import FLAT
from puretransforms.scanning.verdict import BLIND, KINDS, PURIFIERS, advice, judge

TEN = {str(i): 40 for i in range(10)}


def findings(level=1.0, untested=(), **scores):
    """``name=(score of each of four classes)``; the others find nothing."""
    out = []
    for name, kind in DETECTORS.items():
        classes = dict(zip("abcd", scores.get(name.split()[0], (0.0,) * 4), strict=True))
        reason = "too few images" if name in untested else ""
        evidence = {FLAT: level}
        out.append(Finding(kind(threshold=0.1), max(classes.values()), 0.0, classes, None, evidence, reason))
    return out


def verdict(found, **options):
    return judge(found, **{"looked_at": 100, "total": 200, "measured": {}} | options)


ALL, ONE = (0.9,) * 4, (0.9, 0, 0, 0)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (findings(), "none found"),
        (findings(edges=ALL), "convolution-based"),
        (findings(edges=ONE), "unknown"),
        (findings(edges=ALL, texture=ALL, agreement=ALL), "convolution-based"),
        (findings(texture=ALL, level=4.0), "class-wise bounded"),
        (findings(texture=ALL, level=1.0), "convolution-based"),
        (findings(pixel=ALL, agreement=ALL, lookalikes=ALL), "class-wise bounded"),
        (findings(agreement=ONE, lookalikes=ONE), "triggered suspects"),
        (findings(lookalikes=ONE), "triggered suspects"),
        (findings(patches=ONE), "triggered suspects"),
        (findings(levels=ONE), "triggered suspects"),
    ],
)
def test_the_kind(found, kind):
    assert verdict(found).kind == kind


def test_it_never_says_clean():
    given = verdict(findings())
    assert "100 of 200" in given.sentence and "does not make the data clean" in given.sentence
    assert given.misses == [BLIND] and "WaNet" in BLIND
    assert given.advice.chain == [] and given.reasons == []
    assert not any("clean" in words.split() for words in KINDS.values())


def test_uncertainty_is_said():
    strong = findings(edges=ALL)
    assert verdict(strong).confidence == "clear" and verdict(strong).headline == "convolution-based (clear)"
    weak = [replace(strong[0], score=0.4, error=0.12), *strong[1:]]
    assert verdict(weak).confidence == "borderline" and "borderline" in verdict(weak).sentence
    assert verdict(findings()).confidence == "nothing found" and verdict(findings()).headline == "none found"
    told = verdict(findings(), measured={"words": "Of 100 clean sets 1 raised an alarm."})
    assert told.measured == "Of 100 clean sets 1 raised an alarm."


def test_the_verdict_is_one_sentence_and_each_alarm_a_reason():
    given = verdict(findings(edges=ONE, agreement=ALL))
    assert given.sentence.startswith("Found in a look at 100 of 200 images (clear): ")
    for one in (given, verdict(findings()), verdict(findings(untested=DETECTORS))):
        assert one.sentence.endswith(".") and ". " not in one.sentence and len(one.sentence.split()) < 40
    assert given.reasons == [
        "edges 0.9000, alarm above 0.1000 (class 'a')",
        "agreement 0.9000, alarm above 0.1000 (4 classes: 'a', 'b', 'c', ...)",
    ]


def test_too_few_detectors_are_insufficient_and_never_none_found():
    one = verdict(findings(untested=[*DETECTORS][1:]), measured={"words": "78 of 78 found."}, classes=TEN)
    assert one.kind is Kind.INSUFFICIENT and one.headline == "insufficient: 1 of 8 detectors could look"
    assert "none found" not in one.sentence and one.measured == "" and one.misses == []
    assert one.advice.chain == [] and "evidence" in one.advice.lines[0]
    assert verdict(findings(untested=["patches"]), classes=TEN).kind is Kind.NONE
    assert verdict(findings(untested=["patches", "levels"]), classes=TEN).kind is Kind.INSUFFICIENT
    alarm = findings(untested=[*DETECTORS][1:], edges=ALL)
    assert verdict(alarm, classes=TEN).kind is Kind.CONVOLVED, "what was found was found"


def test_no_one_is_told_to_look_at_all_images_who_has():
    rare = TEN | {"rare": 3}
    (some,) = verdict(findings(), classes=rare).reasons
    (every,) = verdict(findings(), classes=rare, looked_at=100, total=100).reasons
    (unread,) = verdict(findings(), classes=rare, looked_at=98, total=100, left_out=2).reasons
    assert "look at all images" in some and "look at all" not in every and "add images" in every and unread == every


def test_splits_stand_in_the_headline():
    given = verdict(findings(), classes={"train": 400, "test": 400})
    assert given.headline == "insufficient: the classes are splits, 'test' and 'train'"
    assert "detectors could look" not in given.sentence


def test_the_sentence_counts_the_suspects():
    found = findings(patches=ONE)
    at = [f.name for f in found].index("patches")
    found[at] = replace(found[at], images=torch.tensor([0.9, 0.9, 0.0, 0.9]))
    assert verdict(found).sentence.endswith("; 3 suspects.")
    assert "suspects" not in verdict(findings(edges=ALL)).sentence


@pytest.mark.parametrize(
    ("classes", "kind", "reason"),
    [
        ({"train": 400, "test": 400}, Kind.INSUFFICIENT, "'test' and 'train', which are splits: scan the folder below"),
        ({"Train": 400, "Val": 90, "test": 90}, Kind.INSUFFICIENT, "splits"),
        ({"only": 400}, Kind.NONE, "there is one class"),
        (TEN | {"rare": 3}, Kind.NONE, "1 of 11 classes hold fewer than 30 .* 'rare', holds 3.*sample=None"),
        ({"a": 40, **{str(i): 20 for i in range(9)}}, Kind.INSUFFICIENT, "9 of 10 classes"),
        ({"a": 50, "b": 50}, Kind.NONE, "100 images, and the shortcut detectors need 200"),
        (TEN, Kind.NONE, None),
        ({"test": 200, "cat": 200}, Kind.NONE, None),
    ],
)
def test_the_classes_are_named_as_the_reason_with_the_fix(classes, kind, reason):
    given = verdict(findings(), classes=classes)
    assert given.kind is kind
    if reason is None:
        assert given.reasons == []
    else:
        (found,) = given.reasons
        assert re.search(reason, found)


def test_known_misses_are_said_for_the_rate_and_the_size():
    measured = {"words": "", "images": 2000, "misses": {"0.5": ["TAP"], "0.1": ["LSP", "OPS (found in 1 of 2)"]}}
    measured["misses"]["0.01"] = ["CUDA", "CUDA, reflected (found in 1 of 2)", "BadNets, checkerboard"]
    small = verdict(findings(), measured=measured)
    assert small.misses[:3] == [BLIND, "on half of the images: TAP", "on a tenth: LSP, OPS (found in 1 of 2)"]
    assert small.misses[3] == "on a hundredth: CUDA, CUDA (reflected) (found in 1 of 2), BadNets (checkerboard)"
    assert "2,000" in small.misses[4]
    assert len(verdict(findings(), measured=measured, looked_at=2000).misses) == 4


def test_every_kind_has_advice_and_every_purifier_in_it_can_be_made():
    assert set(KINDS) == set(Kind) and set(PURIFIERS) == set(Kind) - {Kind.NONE, Kind.INSUFFICIENT}
    for kind in Kind:
        given = advice(kind)
        assert given.lines and bool(given.chain) == (kind in PURIFIERS)
        assert not any("{" in line for line in given.lines)
        if kind in PURIFIERS:
            assert any(PURIFIERS[kind] in line for line in given.lines)
            (step,) = given.chain
            assert (
                create(PURIFIERS[kind], "purifier")._config().items()
                >= {k: v for k, v in step.items() if k != "name"}.items()
            )

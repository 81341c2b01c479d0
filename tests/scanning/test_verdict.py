"""From findings to words."""

import pytest

from puretransforms.scanning.detectors.shortcut import FLAT
from puretransforms.scanning.finding import Finding
from puretransforms.scanning.verdict import ADVICE, KINDS, judge

NAMES = ("edges", "agreement", "lookalikes", "texture shortcut", "pixel shortcut", "patches", "levels")


def findings(level=1.0, **scores):
    """``name=(score of each of four classes)``; the others find nothing."""
    out = []
    for name in NAMES:
        classes = dict(zip("abcd", scores.get(name.split()[0], (0.0,) * 4), strict=True))
        out.append(Finding(name, "?", max(classes.values()), threshold=0.1, classes=classes))
    out[3].evidence[FLAT] = level
    return out


def verdict(found, **options):
    return judge(found, **{"looked_at": 100, "total": 200, "measured": {}} | options)


ALL, ONE = (0.9,) * 4, (0.9, 0, 0, 0)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (findings(), "none found"),
        (findings(edges=ALL), "convolution-based"),
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
    words = verdict(findings()).words
    assert "100 of 200" in words and "does not make the data clean" in words and "WaNet" in words
    assert verdict(findings()).advice.chain == []
    assert not any("clean" in words.split() for words in KINDS.values())


def test_uncertainty_is_said():
    strong, weak = findings(edges=ALL), findings(edges=ALL)
    assert verdict(strong).confidence == "clear"
    weak[0].score, weak[0].error = 0.4, 0.12
    assert verdict(weak).confidence == "borderline" and "borderline" in verdict(weak).words
    assert verdict(findings()).confidence == "nothing found"
    told = verdict(findings(), measured={"words": "Of 100 clean sets 1 raised an alarm."}).words
    assert "Of 100 clean sets" in told


def test_what_was_not_tested_is_said():
    found = findings()
    found[5].untested = "drawings"
    assert "patches (drawings)" in verdict(found, total=None).words


def test_every_kind_has_advice():
    assert set(ADVICE) == set(KINDS)

"""Figures of papers for the rows and columns that the benchmark has too, beside ours."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..reporting.tables import markdown

CIFAR10 = "088db17c50ddf8b6"
"""Fingerprint of CIFAR-10, all images in the official order: the published figures are of no other data."""

APART = 5.0
"""Points of accuracy from which on a difference needs a reason."""


@dataclass(frozen=True)
class Comparison:
    """One cell of ours and of a paper: test accuracy in percent, ResNet-18 of width 64 on CIFAR-10 in the paper.

    Attributes:
        poison, purifier: as in the results.
        ours, published: the two figures; ``source`` is the paper.
        note: empty up to :data:`APART` points of difference; else the reason, or ``"unexplained"``.
    """

    poison: str
    purifier: str
    ours: float
    published: float
    source: str
    note: str

    @property
    def difference(self) -> float:
        """Ours less the published."""
        return self.ours - self.published


@cache
def _stored() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def sources() -> dict[str, str]:
    """What the name of each paper stands for."""
    return _stored()["sources"]


def undefended(poison: str) -> tuple[float, str] | None:
    """What a poison does to a ResNet-18 on CIFAR-10, in percent, and its source; ``None`` where no figure is known.

    Test accuracy of availability poisons, success of the others. Of the poison as registered (a budget that is not its
    default is named): with options or at another rate it is another one, and unknown. So are BadNets, Blend, SIG and
    BPP, for which no figure could be checked against its source.
    """
    found = _stored()["undefended"].get(poison)
    if isinstance(found, str):
        return _stored()["figures"][found]["none"][poison], found
    return found and tuple(found)


def rivals() -> list[dict[str, str]]:
    """Methods that this project does not run: ``name``, ``figures`` as published and what each ``needs``."""
    return [
        {"name": one["name"], "figures": one.get("figures") or _listed(*one["of"]), "needs": one["needs"]}
        for one in _stored()["rivals"]
    ]


def _listed(source: str, purifier: str) -> str:
    return ", ".join(f"{poison} {value}" for poison, value in _stored()["figures"][source][purifier].items())


def comparisons(ours: Callable[[str, str], float | None]) -> list[Comparison]:
    """Every published cell of which ``ours(poison, purifier)`` knows an accuracy in percent, by poison and purifier."""
    found = [
        _comparison(poison, purifier, value, published, source)
        for source, columns in _stored()["figures"].items()
        for purifier, rows in columns.items()
        for poison, published in rows.items()
        if (value := ours(poison, purifier)) is not None
    ]
    return sorted(found, key=lambda one: (one.poison != "clean", one.poison, one.purifier != "none", one.purifier))


def _comparison(poison: str, purifier: str, ours: float, published: float, source: str) -> Comparison:
    reasons = _stored()["reasons"]
    keys = (f"{poison} / {purifier}", f"{poison} / * ({source})", f"* / {purifier}")
    note = next((reasons[key] for key in keys if key in reasons), "unexplained")
    return Comparison(poison, purifier, ours, published, source, note if abs(ours - published) > APART else "")


def comparison_markdown(cells: list[Comparison]) -> str:
    """The table, with its sources under it; empty for no cell."""
    if not cells:
        return ""
    rows = [
        [c.poison, c.purifier, f"{c.ours:.1f}", f"{c.published:.1f} ({c.source})", f"{c.difference:+.1f}", c.note]
        for c in cells
    ]
    named = "; ".join(f"{name}: {text}" for name, text in sources().items() if any(c.source == name for c in cells))
    table = markdown(["trained on", "purifier", "ours", "published", "difference", f"over {APART:.0f} points"], rows)
    return f"**Beside published figures** (ResNet-18 of width 64 there)\n\n{table}\n\n{named}."

"""The gate: a mean over poisons counts those that bite on the victim at hand, and no other.

A poison that a short training never learns looks cured under every purifier. So each poison is named with the accuracy
(or success) that it reaches undefended on *this* victim beside its published one, and is strong here only if that
accuracy is below 40 %, or that success above 70 % of the published one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from .published import undefended
from .run import Result

STRONG_ACCURACY = 40.0
STRONG_SHARE = 0.7


@dataclass(frozen=True)
class Strength:
    """What a poison does to an undefended victim, in percent: test accuracy, or success of an aimed attack.

    ``reached`` is ``None`` where the undefended case has not been run, ``published`` where no figure is known here.
    """

    poison: str
    setting: str
    kind: str
    reached: float | None
    published: float | None
    source: str
    verdict: Literal["strong", "weak on this victim", "not run undefended"]

    @property
    def strong(self) -> bool:
        """Does this poison count in means?"""
        return self.verdict == "strong"


@dataclass(frozen=True)
class Summary:
    """One purifier on one victim over the poisons that are strong there, in percent.

    Attributes:
        mean, worst: test accuracy over strong availability poisons, and the lowest of them (of ``worst_poison``).
        success: mean success of strong aimed attacks.
        clean, cost: accuracy on clean data, and the points lost against no purifier.
        counted, of: strong poisons with a result here, and all strong ones; means over fewer are not comparable.
    """

    purifier: str
    setting: str
    mean: float | None
    worst: float | None
    worst_poison: str | None
    success: float | None
    clean: float | None
    cost: float | None
    counted: int
    of: int


def row_of(poison: str) -> str:
    """The poison without the number of its setup: the setups of a targeted attack are runs of one row."""
    name, *options = poison.split(":")
    return ":".join([name, *(option for option in options if not option.startswith("setup="))])


def strengths(results: Iterable[Result]) -> list[Strength]:
    """Of every poison on every victim, in the order of first appearance; clean data is none."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.poison != "clean":
            groups.setdefault((row_of(result.poison), result.setting), []).append(result)
    return [_strength(poison, setting, group) for (poison, setting), group in groups.items()]


def _strength(poison: str, setting: str, group: Sequence[Result]) -> Strength:
    kind = group[0].kind
    bare = [_value(result) for result in group if result.purifier == "none"]
    published, source = undefended(poison) or (None, "")
    if not bare:
        return Strength(poison, setting, kind, None, published, source, "not run undefended")
    reached = mean(bare)
    if kind == "availability":
        strong = reached < STRONG_ACCURACY
    else:
        strong = reached > STRONG_SHARE * (100.0 if published is None else published)
    return Strength(poison, setting, kind, reached, published, source, "strong" if strong else "weak on this victim")


def _value(result: Result) -> float:
    """Test accuracy after the last epoch, or success of an aimed attack, in percent."""
    return 100 * (result.test[-1] if result.kind == "availability" else result.success[-1])


def summaries(results: Iterable[Result]) -> list[Summary]:
    """One for each purifier and victim, in the order of first appearance."""
    results = list(results)
    strong = {(one.poison, one.setting): one.kind for one in strengths(results) if one.strong}
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for result in results:
        column = cells.setdefault((result.purifier, result.setting), {})
        column.setdefault(row_of(result.poison), []).append(_value(result))
    return [_summary(purifier, setting, cells, strong) for purifier, setting in cells]


def _summary(
    purifier: str,
    setting: str,
    cells: dict[tuple[str, str], dict[str, list[float]]],
    strong: dict[tuple[str, str], str],
) -> Summary:
    column = {poison: mean(values) for poison, values in cells[purifier, setting].items()}
    kinds = {poison: kind for (poison, victim), kind in strong.items() if victim == setting}
    accuracy = {poison: column[poison] for poison, kind in kinds.items() if kind == "availability" and poison in column}
    success = [column[poison] for poison, kind in kinds.items() if kind != "availability" and poison in column]
    worst = min(accuracy, key=lambda poison: accuracy[poison]) if accuracy else None
    clean = column.get("clean")
    bare = cells.get(("none", setting), {}).get("clean")
    return Summary(
        purifier,
        setting,
        mean(accuracy.values()) if accuracy else None,
        None if worst is None else accuracy[worst],
        worst,
        mean(success) if success else None,
        clean,
        None if clean is None or bare is None else mean(bare) - clean,
        len(accuracy) + len(success),
        len(kinds),
    )


def gate_markdown(results: Iterable[Result]) -> str:
    """Both tables: which poisons bite on this victim, and what purifiers reach over those."""
    results = list(results)
    poisons, columns = strengths(results), summaries(results)
    lines = [
        "**Which poisons bite on this victim** (undefended; only strong ones count in means)",
        "",
        "| poison | victim | measure | here | published | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for one in poisons:
        measure = "test accuracy" if one.kind == "availability" else "success"
        published = "unknown" if one.published is None else f"{one.published:.1f} ({one.source})"
        lines.append(
            f"| {one.poison} | {one.setting} | {measure} | {_number(one.reached)} | {published} | {one.verdict} |"
        )
    lines += [
        "",
        "**Over the strong poisons**",
        "",
        "| purifier | victim | mean accuracy | worst | mean success | clean | clean cost | strong poisons |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for column in columns:
        worst = "" if column.worst is None else f"{column.worst:.1f} ({column.worst_poison})"
        lines.append(
            f"| {column.purifier} | {column.setting} | {_number(column.mean)} | {worst} | {_number(column.success)} | "
            f"{_number(column.clean)} | {_number(column.cost)} | {column.counted} of {column.of} |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"

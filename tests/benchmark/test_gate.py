"""The gate: which poisons count, and what the means are over."""

import pytest

from puretransforms.benchmark.gate import gate_markdown, row_of, strengths, summaries
from puretransforms.benchmark.run import Result


def result(
    poison: str, purifier: str, accuracy: float, success: float | None = None, seed: int = 0, **changes
) -> Result:
    kind = "availability" if success is None else "backdoor"
    values = {
        "poison": poison,
        "purifier": purifier,
        "setting": "v",
        "seed": seed,
        "kind": kind,
        "test": [0.1, accuracy],
        "train": 1.0,
        "success": [] if success is None else [0.0, success],
        "success_by_class": {},
        "seconds": 1.0,
    }
    return Result(**(values | changes))


GRID = [
    result("clean", "none", 0.90),
    result("clean", "jpeg", 0.80),
    result("lsp", "none", 0.20),
    result("lsp", "none", 0.30, seed=1),
    result("lsp", "jpeg", 0.70),
    result("cuda", "none", 0.3999),
    result("cuda", "jpeg", 0.50),
    result("ar", "none", 0.40),
    result("ar", "jpeg", 0.10),
    result("badnets", "none", 0.9, 0.71),
    result("badnets", "jpeg", 0.8, 0.05),
    result("sig", "none", 0.9, 0.60),
    result("sig", "jpeg", 0.8, 0.50),
    result("ops", "jpeg", 0.01),
]


def test_who_is_strong() -> None:
    found = {one.poison: one for one in strengths(GRID)}
    assert list(found) == ["lsp", "cuda", "ar", "badnets", "sig", "ops"], "clean data is no poison"
    assert [name for name, one in found.items() if one.strong] == ["lsp", "cuda", "badnets"]
    assert found["lsp"].reached == pytest.approx(25) and found["lsp"].published == 13.06
    assert found["ar"].verdict == "weak on this victim", "40 % is not below 40 %"
    assert found["sig"].verdict == "weak on this victim", "60 is less than 70 %, and no published success is known"
    assert found["ops"].verdict == "not run undefended" and found["ops"].reached is None


def test_without_a_published_success_seventy_percent_is_asked_for() -> None:
    cases = [result("mine:Trigger", "none", 0.9, success) for success in (0.69, 0.71)]
    assert [strengths([one])[0].strong for one in cases] == [False, True]
    assert strengths(cases[:1])[0].published is None
    assert "| mine:Trigger | v | success | 69.0 | unknown | weak on this victim |" in gate_markdown(cases[:1])


def test_a_published_figure_is_of_the_poison_as_it_is_registered() -> None:
    found = strengths([result("lsp", "none", 0.2), result("lsp:rate=0.5", "none", 0.8)])
    assert [one.published for one in found] == [13.06, None]


def test_a_weak_poison_counts_in_no_mean() -> None:
    none, jpeg = summaries(GRID)
    assert jpeg.mean == pytest.approx((70 + 50) / 2), "not AR, on which JPEG is worst, nor OPS"
    assert (jpeg.worst, jpeg.worst_poison) == (pytest.approx(50), "cuda")
    assert jpeg.success == pytest.approx(5) and jpeg.clean == pytest.approx(80) and jpeg.cost == pytest.approx(10)
    assert (jpeg.counted, jpeg.of) == (3, 3)
    assert none.mean == pytest.approx((25 + 39.99) / 2) and none.cost == 0


def test_what_is_missing_is_said() -> None:
    short = [one for one in GRID if (one.poison, one.purifier) != ("lsp", "jpeg")]
    jpeg = summaries(short)[1]
    assert (jpeg.counted, jpeg.of, jpeg.mean) == (2, 3, pytest.approx(50))
    assert "| jpeg | v | 50.0 | 50.0 (cuda) | 5.0 | 80.0 | 10.0 | 2 of 3 |" in gate_markdown(short)


def test_victims_are_kept_apart() -> None:
    other = [result("lsp", "none", 0.9, setting="w"), result("lsp", "jpeg", 0.9, setting="w")]
    by_victim = {(one.poison, one.setting): one.strong for one in strengths([*GRID, *other])}
    assert by_victim["lsp", "v"] and not by_victim["lsp", "w"]
    assert [(one.of, one.mean) for one in summaries([*GRID, *other]) if one.setting == "w"] == [(0, None), (0, None)]


def test_setups_are_runs_of_one_row() -> None:
    assert row_of("gradient_matching:epsilon=0.06:setup=3") == "gradient_matching:epsilon=0.06"
    runs = [
        result(f"gradient_matching:setup={number}", "none", 0.9, hit, kind="targeted")
        for number, hit in enumerate((1.0, 0.0, 0.0))
    ]
    (found,) = strengths(runs)
    assert found.reached == pytest.approx(100 / 3) and found.strong, "above 70 % of the published 44 %"

"""Published figures beside ours: each has a source, a row and a column that exist, and what differs is named."""

from itertools import pairwise

import pytest

from puretransforms.benchmark import published
from puretransforms.benchmark.attacks import CLEAN, find_attack
from puretransforms.benchmark.defences import canonical
from puretransforms.benchmark.published import comparison_markdown, comparisons, rivals, sources, undefended
from puretransforms.registry import list_poisons


def test_every_figure_is_of_a_row_and_a_column_that_the_benchmark_knows_by_that_name() -> None:
    cells = comparisons(lambda poison, purifier: 50.0)
    assert len(cells) > 80
    for cell in cells:
        assert find_attack(cell.poison).kind == "availability" and canonical(cell.purifier) == cell.purifier
        assert 0 < cell.published < 100 and sources()[cell.source]
    assert [cell.poison for cell in cells[:3]] == [CLEAN] * 3
    assert all(a.poison <= b.poison for a, b in pairwise(cells) if a.poison != CLEAN)


def test_a_difference_over_five_points_is_named_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {("lsp", "none"): 18.0, ("ar", "none"): 18.6}
    cells = comparisons(lambda *cell: ours.get(cell))
    assert {(c.poison, c.source, c.note) for c in cells} == {
        ("ar", "APBench", "unexplained"),
        ("ar", "BridgePure", "unexplained"),
        ("ar", "ISS", "unexplained"),
        ("lsp", "APBench", ""),
        ("lsp", "BridgePure", ""),
        ("lsp", "ISS", ""),
    }
    stored = published._stored() | {"reasons": {"ar / none": "a short schedule", "* / none": "another"}}
    monkeypatch.setattr(published, "_stored", lambda: stored)
    ours["ops", "none"] = 80.0
    text = comparison_markdown(comparisons(lambda *cell: ours.get(cell)))
    assert "| ops | none | 80.0 | 13.7 (BridgePure) | +66.3 | another |" in text
    assert "| ar | none | 18.6 | 11.7 (APBench) | +6.9 | a short schedule |" in text
    assert "| lsp | none | 18.0 | 19.1 (ISS) | -1.1 |  |" in text
    assert "Image Shortcut Squeezing" in text and "ECLIPSE" not in text, "only the sources that are used"


def test_undefended_figures_are_of_poisons_that_there_are_and_stand_once() -> None:
    known = {name: undefended(name) for name in list_poisons()}
    assert set(published._stored()["undefended"]) <= set(known)
    assert all(0 < one[0] <= 100 and one[1] for one in known.values() if one)
    assert known["lsp"] == (13.06, "APBench") and known["badnets"] is None
    assert undefended("lsp:rate=0.5") is None, "at another rate it is another poison"


def test_rivals_are_named_with_figures_and_what_they_need() -> None:
    assert all(one["name"] and one["needs"] and any(map(str.isdigit, one["figures"])) for one in rivals())
    (jpeg,) = (one for one in rivals() if one["name"].startswith("JPEG"))
    assert "lsp 83.01" in jpeg["figures"]


def test_another_algorithm_of_the_same_name_is_the_reason_for_that_source_alone() -> None:
    cells = comparisons(lambda *cell: 60.0 if cell == ("rem", "none") else None)
    assert {(c.source, c.note.startswith("APBench's REM")) for c in cells} >= {("APBench", True), ("ISS", False)}


def test_without_a_cell_of_ours_there_is_no_table() -> None:
    assert comparison_markdown(comparisons(lambda *cell: None)) == ""

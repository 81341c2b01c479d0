"""The page and the tables hold the numbers of the JSON files, all of them and no others."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean

import pytest

from puretransforms.benchmark.entries import load_entries, save_entry
from puretransforms.benchmark.leaderboard import (
    BEGIN,
    END,
    PAGE,
    Leaderboard,
    build_leaderboard,
    filled,
    verdict,
    write_tables,
)
from puretransforms.benchmark.published import CIFAR10
from puretransforms.errors import SourceError

from .test_entries import entry

ROOT = Path(__file__).parents[2]
GRID = {  # accuracy of each seed
    ("clean", "none"): [0.9, 0.91],
    ("lsp", "none"): [0.2],
    ("cuda", "none"): [0.35],
    ("ar", "none"): [0.7],
    ("clean", "coin"): [0.8],
    ("lsp", "coin"): [0.6, 0.64],
    ("cuda", "coin"): [0.5],
    ("ar", "coin"): [0.05],
    ("clean", "coin@once"): [0.7],
    ("lsp", "coin@once"): [0.9],
}


class Cells(HTMLParser):
    """Every marked cell of the tables: ``{(column, poison or key): number}``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, str], float] = {}
        self.column = self.key = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self.column = given.get("data-column", "")
        if tag in ("td", "span"):
            self.key = (given.get("data-poison") or given.get("data-key") or "") if tag == "td" else ""

    def handle_data(self, data: str) -> None:
        if self.column and self.key and data.strip():
            self.found[self.column, self.key] = float(data)
            self.key = ""


def write(folder: Path) -> None:
    for (poison, purifier), accuracies in GRID.items():
        for seed, accuracy in enumerate(accuracies):
            made = entry(poison, purifier, seed)
            made.result.test[:] = [0.01, accuracy]
            made.about["data"] = CIFAR10
            save_entry(folder, made)


@pytest.fixture
def board(tmp_path: Path) -> Leaderboard:
    write(tmp_path)
    return build_leaderboard(tmp_path)


def numbers(html: bytes) -> dict[tuple[str, str], float]:
    cells = Cells()
    cells.feed(html.decode())
    return cells.found


def test_the_page_equals_the_files(board: Leaderboard) -> None:
    found = numbers(board.html)
    for (poison, purifier), accuracies in GRID.items():
        key = "clean" if poison == "clean" else poison
        assert found[purifier, key] == pytest.approx(100 * mean(accuracies), abs=0.051), (poison, purifier)
    assert found["coin", "mean"] == pytest.approx((62 + 50) / 2), "over LSP and CUDA: AR is weak here"
    assert found["coin", "worst"] == 50 and found["coin", "cost"] == pytest.approx(10.5)
    shown = {key for _, key in found}
    assert shown == {"lsp", "cuda", "ar", "clean", "mean", "worst", "cost", "speed"}
    assert len([key for key in found if key[1] in ("lsp", "cuda", "ar", "clean")]) == len(GRID), "and no cell more"


def test_the_page_begins_with_what_the_numbers_say(board: Leaderboard) -> None:
    html = board.html.decode()
    said = "Best over the 2 poisons that bite: coin (access), 56.0 %, 27.5 % without any."
    assert f"{said} On clean data it costs 10.5 points." in html and html.index(said) < html.index("<table")
    (one,) = board.boards
    first, *others = one.columns
    nothing = replace(one, columns=[replace(first, summary=replace(first.summary, mean=None))])
    assert "No mean to compare" in verdict(nothing)
    assert verdict(replace(one, columns=others)).startswith("No purifier beats none: 27.5 %")


def test_an_incomplete_column_stands_below_the_complete_ones(board: Leaderboard) -> None:
    (one,) = board.boards
    assert [column.name for column in one.columns] == ["coin", "none", "coin@once"], "though its only cell is best"
    assert (one.columns[2].purifier, one.columns[2].summary.counted) == ("coin", 1)


def test_the_tables_equal_the_page(board: Leaderboard) -> None:
    text = board.markdown()
    assert "| coin | access | 56.0 | 50.0 (cuda) | 80.0 | 10.5 | 100 | 50.0 | 62.0 ± 2.8 | 5.0 |" in text
    assert "since weak on this victim or not run undefended: ar (70.0)" in text
    assert "| coin | access | 56.0 | 50.0 (cuda) | 80.0 | 10.5 | 100 | 2 of 2 |" in board.summary()
    assert "bite on this victim: cuda, lsp." in board.summary()


def test_published_figures_stand_beside_ours(board: Leaderboard) -> None:
    assert "| lsp | none | 20.0 | 13.1 (APBench) | +6.9 | unexplained |" in board.markdown()
    html = board.html.decode()
    assert 'data-beside="lsp / none"' in html and 'data-beside="tap / none"' not in html
    assert "+6.9" in html and "unexplained" in html


def test_published_figures_stand_beside_no_other_data(board: Leaderboard) -> None:
    (one,) = board.boards
    assert one.beside and replace(one, data="00ff").beside == []


def test_how_each_number_was_made_stands_on_the_page(board: Leaderboard) -> None:
    html = board.html.decode()
    assert html.count("<code>puretransforms bench</code>") == sum(map(len, GRID.values()))
    assert "ECLIPSE" in html and "<circle" in html


def test_other_data_or_another_schedule_is_another_table(tmp_path: Path) -> None:
    write(tmp_path / "a")
    for number, change in enumerate(({"data": "aa11"}, {"setting": {**entry().about["setting"], "epochs": 2}})):
        made = entry("lsp", "none", 7 + number)
        made.about.update(change)
        save_entry(tmp_path / "b", made)
    assert len(build_leaderboard(tmp_path).boards) == 3


def test_names_are_shown_and_not_run(tmp_path: Path) -> None:
    save_entry(tmp_path, entry("lsp", "none")), save_entry(tmp_path, entry("lsp", "<script>alert(1)</script>"))
    html = build_leaderboard(tmp_path).html
    assert b"<script>alert" not in html and b"&lt;script&gt;alert" in html


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="results of the benchmark"):
        build_leaderboard(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with two texts, one page of an earlier time and no results."""
    for folder in ("leaderboard", "docs"):
        (tmp_path / folder).mkdir()
    for name in ("README.md", "docs/leaderboard.md"):
        (tmp_path / name).write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    (tmp_path / "docs" / PAGE).write_text("old")
    return tmp_path


def test_the_texts_of_a_checkout_are_brought_up_to_date_and_stay(checkout: Path) -> None:
    write_tables(checkout)
    texts = [checkout / "README.md", checkout / "docs" / "leaderboard.md"]
    assert all("Being measured" in text.read_text() and "old" not in text.read_text() for text in texts)
    assert not (checkout / "docs" / PAGE).exists()
    write(checkout / "leaderboard" / "deep")
    for _ in range(2):
        written = write_tables(checkout)
        board = build_leaderboard(checkout / "leaderboard")
        assert written == [*texts, checkout / "docs" / PAGE]
        assert board.summary().strip() in texts[0].read_text() and board.markdown().strip() in texts[1].read_text()
        assert written[2].read_bytes() == board.html
        assert all(text.read_text().startswith("before\n\n<") for text in texts)
        assert all(text.read_text().endswith(">\n\nafter\n") for text in texts)


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, BEGIN + END + BEGIN, BEGIN + END + END])
def test_a_text_without_its_marks_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match="put them back"):
        filled(text, "table")


def test_the_texts_of_this_repository_equal_its_results(tmp_path: Path) -> None:
    """Run ``make leaderboard`` if this fails."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "leaderboard").symlink_to(ROOT / "leaderboard")
    for name in ("README.md", "docs/leaderboard.md"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    written = write_tables(tmp_path)
    for path in written:
        assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes(), path.name
    assert (len(written) == 3) == (ROOT / "docs" / PAGE).exists() == bool(load_entries(ROOT / "leaderboard"))


def test_the_results_of_this_repository_can_be_read() -> None:
    for one in load_entries(ROOT / "leaderboard"):
        assert one.about["command"].startswith("puretransforms bench")
    assert json.loads((ROOT / "leaderboard" / "TEMPLATE.json").read_text())

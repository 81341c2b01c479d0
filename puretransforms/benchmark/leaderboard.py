"""The leaderboard: a page and tables made from the JSON files of results, and from nothing else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from ..errors import SourceError
from ..reporting.pages import page
from ..reporting.tables import markdown
from .defences import PLACES
from .entries import Entry, load_entries
from .gate import Strength, Summary, row_of, strengths, summaries
from .published import CIFAR10, Comparison, comparison_markdown, comparisons, rivals, sources
from .run import spread

BEGIN, END = "<!-- leaderboard -->", "<!-- /leaderboard -->"
PAGE = "leaderboard-table.html"
_NOTHING = "*Being measured: no result at full size stands here yet.*"


@dataclass(frozen=True)
class Score:
    """One cell: accuracy after the last epoch, or success of an aimed attack, in percent over ``runs`` runs."""

    value: float
    deviation: float
    runs: int


@dataclass(frozen=True)
class Column:
    """One purifier in one place.

    Attributes:
        purifier: with its options, without its place; ``place`` is where it acted.
        name: as in the results: what the shell takes.
        summary: over the poisons that are strong on this victim.
        images_per_second: purified, median over poisons; ``None`` if it was never measured.
        psnr: of purified clean images in dB; ``gain`` is the share of the perturbation that passes, mean over strong
            poisons.
    """

    purifier: str
    place: str
    name: str
    summary: Summary
    images_per_second: float | None
    psnr: float | None
    gain: float | None


@dataclass(frozen=True)
class Board:
    """All that is known of one victim on one dataset: rows by poison, columns by purifier and place."""

    setting: str
    data: str
    description: str
    poisons: list[Strength]
    columns: list[Column]
    cells: dict[tuple[str, str], Score]  # (poison, name of the column); clean data is the poison "clean"
    sources: list[dict[str, Any]]  # command, hardware, code, date of every result

    @property
    def beside(self) -> list[Comparison]:
        """Published figures for cells that stand here too."""

        def ours(poison: str, purifier: str) -> float | None:
            score = self.cells.get((poison, purifier))
            return None if score is None else score.value

        return comparisons(ours) if self.data == CIFAR10 else []

    @property
    def rows(self) -> list[str]:
        """Clean data, then the strong poisons, then the others."""
        strong = [one.poison for one in self.poisons if one.strong]
        return ["clean", *strong, *(one.poison for one in self.poisons if not one.strong)]


@dataclass(frozen=True)
class Leaderboard:
    """The page as HTML, and its boards, one for each victim and dataset."""

    html: bytes
    boards: list[Board]

    def markdown(self) -> str:
        """The boards as tables of Markdown, each with the published figures that it can be compared to."""
        parts = [part for board in self.boards for part in (board_markdown(board), comparison_markdown(board.beside))]
        return "\n\n".join(filter(None, parts)) + "\n"

    def summary(self) -> str:
        """The boards as short tables of Markdown, without a column for each poison."""
        return "\n\n".join(_summary(board) for board in self.boards) + "\n"


def build_leaderboard(folder: str | Path, title: str = "Leaderboard") -> Leaderboard:
    """Page and tables of every result below ``folder``; the page is headed ``title``.

    Raises:
        SourceError: no results there.
        ManifestMismatchError: a file that is no result, or two of one case.
    """
    entries = load_entries(folder)
    if not entries:
        raise SourceError(
            f"expected results of the benchmark (JSON files) in {folder}, got none: copy them from the folder results "
            "that puretransforms bench wrote."
        )
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((json.dumps(entry.about["setting"], sort_keys=True), entry.about["data"]), []).append(entry)
    boards = [_board(group) for group in groups.values()]
    others = rivals() if any(board.data == CIFAR10 for board in boards) else []
    tools = {"points": _points, "shade": _shade, "verdict": verdict}
    html = page("leaderboard", title=title, boards=boards, rivals=others, sources=sources(), **tools)
    return Leaderboard(html, boards)


def write_tables(root: str | Path) -> list[Path]:
    """Bring what a checkout says of its results up to date with ``leaderboard/``; the files that were written.

    The page is ``docs/leaderboard-table.html``; README.md and ``docs/leaderboard.md`` hold tables between two marks.
    Without results they say so, and there is no page.
    """
    root = Path(root)
    board = build_leaderboard(root / "leaderboard") if load_entries(root / "leaderboard") else None
    texts = {
        "README.md": None if board is None else board.summary(),
        "docs/leaderboard.md": None if board is None else f"[Sortable, with pictures]({PAGE}).\n\n{board.markdown()}",
    }
    written = []
    for name, text in texts.items():
        path = root / name
        path.write_text(filled(path.read_text(encoding="utf-8"), text or _NOTHING), encoding="utf-8")
        written.append(path)
    html = root / "docs" / PAGE
    if board is None:
        html.unlink(missing_ok=True)
        return written
    html.write_bytes(board.html)
    return [*written, html]


def filled(text: str, table: str) -> str:
    """``text`` with ``table`` between the two marks.

    Raises:
        SourceError: not each of the marks once, in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise SourceError(f"expected {BEGIN} and later {END}, each once, got another text: put them back.")
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


def board_markdown(board: Board) -> str:
    """One board: a row for each purifier, best mean first."""
    rows = []
    for column in board.columns:
        scores = [board.cells.get((poison, column.name)) for poison in board.rows[1:]]
        rows.append([*_means(column), *map(score_text, scores)])
    weak = ", ".join(f"{one.poison} ({_text(one.reached)})" for one in board.poisons if not one.strong)
    note = f"\n\nIn no mean, since weak on this victim or not run undefended: {weak}." if weak else ""
    return f"**{board.description}**\n\n{markdown([*_HEAD, *board.rows[1:]], rows)}{note}"


def _summary(board: Board) -> str:
    """One board in short: which poisons, and the means over them."""
    strong = ", ".join(one.poison for one in board.poisons if one.strong) or "none so far"
    rows = [[*_means(column), f"{column.summary.counted} of {column.summary.of}"] for column in board.columns]
    note = f"Mean and worst are over the poisons that bite on this victim: {strong}."
    return f"**{board.description}**\n\n{markdown([*_HEAD, 'poisons'], rows)}\n\n{note}"


_HEAD = ("purifier", "place", "mean", "worst", "clean", "clean cost", "images/s")


def _means(column: Column) -> list[str]:
    summary = column.summary
    worst = "" if summary.worst is None else f"{summary.worst:.1f} ({summary.worst_poison})"
    speed = "" if column.images_per_second is None else f"{column.images_per_second:,.0f}"
    values = [_text(summary.mean), worst, _text(summary.clean), _text(summary.cost), speed]
    return [column.purifier, column.place, *values]


def _ranked(columns: list[Column]) -> list[Column]:
    """Columns with a result for every strong poison by their mean, then the others."""

    def key(column: Column) -> tuple[bool, float]:
        value = column.summary.mean
        return column.summary.counted < column.summary.of, -(value if value is not None else -1.0)

    return sorted(columns, key=key)


def verdict(board: Board) -> str:
    """What a board says, in a sentence or two: the best purifier on it, and what it costs."""
    none = next((column.summary for column in board.columns if column.name == "none"), None)
    whole = [c for c in board.columns if c.summary.mean is not None and c.summary.counted == c.summary.of]
    if not whole:
        return "No mean to compare: no availability poison bites on this victim undefended, or none was run undefended."
    best, first = whole[0].summary, whole[0]
    number = f"the {best.of} poisons that bite" if best.of > 1 else "the one poison that bites"
    if first.name == "none":
        return f"No purifier beats none: {best.mean:.1f} % without any, over {number}."
    before = "" if none is None or none.mean is None else f", {none.mean:.1f} % without any"
    cost = ""
    if best.cost is not None:
        cost = f" On clean data it {'costs' if best.cost >= 0 else 'gains'} {abs(best.cost):.1f} points."
    return f"Best over {number}: {first.purifier} ({first.place}), {best.mean:.1f} %{before}.{cost}"


def score_text(score: Score | None) -> str:
    """``"84.2 ± 0.3"``, ``"84.2"`` of one run, or nothing."""
    if score is None:
        return ""
    return f"{score.value:.1f} ± {score.deviation:.1f}" if score.runs > 1 else f"{score.value:.1f}"


def _board(entries: Sequence[Entry]) -> Board:
    results = [entry.result for entry in entries]
    about, setting = entries[0].about, entries[0].result.setting
    data = about["data"]
    poisons, sums = strengths(results), {one.purifier: one for one in summaries(results)}
    strong = {one.poison for one in poisons if one.strong}
    values: dict[tuple[str, str], list[float]] = {}
    for result in results:
        value = result.test[-1] if result.kind == "availability" else result.success[-1]
        values.setdefault((row_of(result.poison), result.purifier), []).append(100 * value)
    cells = {key: Score(mean(runs), spread(runs), len(runs)) for key, runs in values.items()}
    names = list(dict.fromkeys(result.purifier for result in results))
    columns = [_column(name, [e for e in entries if e.result.purifier == name], sums[name], strong) for name in names]
    width = about["setting"].get("width", "")
    description = (
        f"{setting}: {about['setting'].get('network', '')} of width {width}, {about['setting'].get('epochs', '')} "
        f"epochs, {about['train_images']:,} training and {about['test_images']:,} test images (data {data})"
    )
    sources = [
        {"case": entry.result.case, "place": entry.result.place, **{key: entry.about[key] for key in _SHOWN}}
        for entry in entries
    ]
    return Board(setting, data, description, poisons, _ranked(columns), cells, sources)


_SHOWN = ("command", "code", "hardware", "threads", "date")


def _column(name: str, entries: Sequence[Entry], summary: Summary, strong: set[str]) -> Column:
    places = list(dict.fromkeys(entry.result.place for entry in entries))
    measured = [entry.fidelity for entry in entries if entry.fidelity is not None]
    speeds = sorted(one.images_per_second for one in measured if one.images_per_second)
    psnr = [one.psnr_clean for one in measured if one.psnr_clean is not None]
    gain = [one.gain for one in measured if one.gain is not None and row_of(one.poison) in strong]
    text, at, place = name.rpartition("@")
    return Column(
        text if at and place in PLACES else name,
        " or ".join(places),
        name,
        summary,
        speeds[len(speeds) // 2] if speeds else None,
        mean(psnr) if psnr else None,
        mean(gain) if gain else None,
    )


def _points(board: Board, width: int, height: int) -> dict[str, Any]:
    """Where the columns stand in a picture of ``width`` times ``height``: PSNR to the right, gain upwards."""
    known = [(c.name, c.psnr, c.gain) for c in board.columns if c.psnr is not None and c.gain is not None]
    if not known:
        return {"points": [], "low": 0.0, "high": 1.0}
    low, high = min(psnr for _, psnr, _ in known) - 1, max(psnr for _, psnr, _ in known) + 1
    points = [
        {
            "name": name,
            "x": width * (psnr - low) / (high - low),
            "y": height * (1 - min(max(gain, 0.0), 1.0)),
            "psnr": psnr,
            "gain": gain,
        }
        for name, psnr, gain in known
    ]
    return {"points": points, "low": low, "high": high}


def _shade(value: float, success: bool) -> str:
    """A colour from white to green, by accuracy, or by how often an aimed attack fails."""
    share = min(max((100 - value if success else value) / 100, 0.0), 1.0)
    return f"rgba(34, 136, 51, {0.75 * share**2:.3f})"


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"

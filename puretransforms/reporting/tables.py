"""Tables as plain text: aligned for a terminal, and in Markdown."""

from collections.abc import Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]], widths: Sequence[int] = ()) -> str:
    """Rows of text, each cell as wide as the widest of its column, or as ``widths`` says; no trailing spaces."""
    rows = [list(row) for row in rows]
    wide = [
        max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(max(map(len, rows), default=0))
    ]
    wide = [*widths, *wide[len(widths) :]]
    return "\n".join(" ".join(f"{cell:{wide[i]}s}" for i, cell in enumerate(row)).rstrip() for row in rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])

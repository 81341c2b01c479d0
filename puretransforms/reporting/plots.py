"""Charts as SVG text, drawn by matplotlib (extra ``report``), which is imported when the first one is drawn.

The same data give the same bytes. Backgrounds of charts for pages are transparent and their text is grey, so that they
can be read on light and dark pages.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, GREY = "#4878a8", "#808080"
_LETTER = 0.09  # inches
_LONGEST = 36  # letters of a name
_COLOURS = ("#47a", "#e67", "#283", "#cb4", "#6ce", "#a37", "#bbb", "#000", "#e86", "#4b9")


def histogram_svg(counts: Mapping[int, int], step: float, x_label: str, y_label: str = "images", bars: int = 40) -> str:
    """Counts of values, in at most ``bars`` bars.

    Args:
        counts: ``counts[i]`` values lie in ``[i step, (i + 1) step)``; at least one.
        step: in the unit of ``x_label``.
        x_label: what the axis across shows.
        y_label: what the axis upwards shows.
        bars: neighbouring counts are added up to stay below this number.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    merged = max(1, -(-(max(counts) + 1) // bars))
    heights = [0] * (max(counts) // merged + 1)
    for value, count in counts.items():
        heights[value // merged] += count
    figure, axes = _figure(7.0, 2.4)
    width = merged * step
    axes.bar([i * width for i in range(len(heights))], heights, width=0.92 * width, align="edge", color=BLUE)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.yaxis.get_major_locator().set_params(integer=True)
    _grey(axes)
    return _svg(figure, transparent=True)


def matrix_svg(values: Mapping[tuple[str, str], float], title: str) -> str:
    """``values[row, column]`` in percent, each in its cell, from white (0) to green (100).

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows, columns = (list(dict.fromkeys(key[axis] for key in values)) for axis in (0, 1))
    wide, tall = (max((len(_plain(name)) for name in names), default=0) for names in (columns, rows))
    figure, axes = _figure(
        1 + _LETTER * tall + max(0.8, _LETTER * (wide + 2)) * len(columns), 1 + 0.35 * max(len(rows), 2)
    )
    grid = [[values.get((row, column), float("nan")) for column in columns] for row in rows]
    if values:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("accuracy", ["#ffffff", "#50af6e"])
        axes.pcolormesh(grid, cmap=colours, vmin=0, vmax=100, edgecolors="white")
        axes.invert_yaxis()
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if (row, column) in values:
                axes.text(j + 0.5, i + 0.5, f"{values[row, column]:.1f}", ha="center", va="center", color="black")
    axes.set_xticks([j + 0.5 for j in range(len(columns))], map(_plain, columns))
    axes.set_yticks([i + 0.5 for i in range(len(rows))], map(_plain, rows))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_title(_plain(title))
    for spine in axes.spines.values():
        spine.set_visible(False)
    return _svg(figure)


def scatter_svg(points: Sequence[tuple[float, float, str, str]], x_label: str, y_label: str) -> str:
    """Points ``(x, y, series, name)``: a colour for each series, the name beside each point; ``y`` in percent.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _figure(8.0, max(4.0, 1 + 0.22 * len({point[2] for point in points})))
    for number, series in enumerate(dict.fromkeys(point[2] for point in points)):
        own = [point for point in points if point[2] == series]
        xs, ys = [point[0] for point in own], [point[1] for point in own]
        marks = axes.scatter(xs, ys, color=_COLOURS[number % len(_COLOURS)], label=_plain(series), alpha=0.8)
        marks.set_gid(f"series {number}")
        for x, y, _, name in own:
            beside = axes.annotate(_plain(name), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
            beside.set_in_layout(False)  # long names shall not take the room of the points
    axes.set_ylim(0, 100)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    if points:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return _svg(figure)


def _figure(width: float, height: float) -> tuple["Figure", Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "expected matplotlib for charts, found none: pip install 'puretransforms[report]'."
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _grey(axes: Any) -> None:
    axes.tick_params(colors=GREY)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(GREY)
    for side, spine in axes.spines.items():
        spine.set_color(GREY)
        spine.set_visible(side in ("left", "bottom"))


def _plain(text: str) -> str:
    """A name as it may stand in a chart: no mathematics in it, and its middle left out where it is long."""
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 + 1 :]}"
    return short.replace("$", r"\$")


def _svg(figure: "Figure", transparent: bool = False) -> str:
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "puretransforms"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=transparent)
    return out.getvalue()

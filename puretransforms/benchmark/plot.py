"""Two plain pictures as SVG text: a matrix of numbers with colours, and points with a legend."""

from collections.abc import Mapping, Sequence
from html import escape

_CELL_W, _CELL_H, _LEFT, _TOP = 74, 30, 130, 56
_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#bbbbbb",
    "#000000",
    "#ee8866",
    "#44bb99",
)
_FONT = 'font-family="sans-serif" font-size="12"'


def matrix_svg(values: Mapping[tuple[str, str], float], title: str) -> str:
    """``values[row, column]`` in percent, each in its cell, from white (0) to green (100)."""
    rows, columns = (list(dict.fromkeys(key[axis] for key in values)) for axis in (0, 1))
    width, height = _LEFT + _CELL_W * len(columns) + 10, _TOP + _CELL_H * len(rows) + 10
    parts = [_text(10, 18, title, weight="bold")]
    for j, column in enumerate(columns):
        parts.append(_text(_LEFT + _CELL_W * (j + 0.5), _TOP - 8, column, anchor="middle"))
    for i, row in enumerate(rows):
        parts.append(_text(_LEFT - 8, _TOP + _CELL_H * i + 20, row, anchor="end"))
        for j, column in enumerate(columns):
            if (row, column) in values:
                value = values[row, column]
                x, y = _LEFT + _CELL_W * j, _TOP + _CELL_H * i
                fill = _shade(value / 100)
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{_CELL_W}" height="{_CELL_H}" fill="{fill}" stroke="#fff"/>'
                )
                parts.append(_text(x + _CELL_W / 2, y + 20, f"{value:.1f}", anchor="middle"))
    return _svg(width, height, parts)


def scatter_svg(points: Sequence[tuple[float, float, str, str]], x_label: str, y_label: str) -> str:
    """Points ``(x, y, series, name)``: a colour for each series, the name on hovering; ``y`` in percent."""
    left, top, width, height = 60, 20, 460, 320
    series = list(dict.fromkeys(point[2] for point in points))
    low, high = _range([point[0] for point in points])
    parts = []
    for percent in range(0, 101, 20):
        y = top + height * (1 - percent / 100)
        parts.append(f'<line x1="{left}" y1="{y}" x2="{left + width}" y2="{y}" stroke="#ddd"/>')
        parts.append(_text(left - 6, y + 4, str(percent), anchor="end"))
    for step in range(6):
        value = low + (high - low) * step / 5
        parts.append(_text(left + width * step / 5, top + height + 18, f"{value:.0f}", anchor="middle"))
    parts.append(_text(left + width / 2, top + height + 38, x_label, anchor="middle"))
    parts.append(_text(left, 14, y_label))
    for x, y, kind, name in points:
        cx, cy = left + width * (x - low) / (high - low), top + height * (1 - y / 100)
        colour = _colour(series.index(kind))
        hover = f"<title>{escape(f'{name}, {kind}: {x:.1f}, {y:.1f}')}</title>"
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="5" fill="{colour}" fill-opacity="0.8">{hover}</circle>')
    for k, kind in enumerate(series):
        y = top + 12 + 18 * k
        parts.append(f'<circle cx="{left + width + 20}" cy="{y}" r="5" fill="{_colour(k)}"/>')
        parts.append(_text(left + width + 32, y + 4, kind))
    return _svg(left + width + 150, max(top + height + 50, top + 18 * len(series) + 20), parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _shade(share: float) -> str:
    red, green, blue = (round(255 + (dark - 255) * min(max(share, 0), 1)) for dark in (80, 175, 110))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _text(x: float | int, y: float | int, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" {_FONT}>{escape(text)}</text>'


def _svg(width: float | int, height: float | int, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )

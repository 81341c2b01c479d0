"""A histogram as SVG text: no script, no font, no library."""

from collections import Counter

from .summary import LEVEL

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _BARS = 640, 200, 46, 34, 40


def histogram(levels: Counter[int]) -> str:
    """Images (upwards) by mean change (to the right), in at most 40 bars; ``levels`` counts steps of :data:`LEVEL`."""
    if not levels:
        return ""
    step = max(1, -(-(max(levels) + 1) // _BARS))
    bars: Counter[int] = Counter()
    for level, count in levels.items():
        bars[level // step] += count
    number, highest = max(bars) + 1, max(bars.values())
    width, height = (_WIDTH - _LEFT) / number, _HEIGHT - _BOTTOM - 10
    shapes = [
        f'<rect x="{_LEFT + i * width:.1f}" y="{_HEIGHT - _BOTTOM - height * n / highest:.1f}" '
        f'width="{max(width - 1, 0.5):.1f}" height="{height * n / highest:.1f}" fill="#4878a8"/>'
        for i, n in sorted(bars.items())
    ]
    ticks = [
        f'<text x="{_LEFT + share * (_WIDTH - _LEFT):.0f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="{anchor}">'
        f"{share * number * step * LEVEL:g}</text>"
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="images by mean change" font-size="12" '
        f'font-family="sans-serif" fill="#444">{"".join(shapes)}'
        f'<path d="M{_LEFT} 10V{_HEIGHT - _BOTTOM}H{_WIDTH}" fill="none" stroke="#999"/>{"".join(ticks)}'
        f'<text x="{_LEFT - 6}" y="18" text-anchor="end">{highest}</text>'
        f'<text x="{_LEFT - 6}" y="{_HEIGHT - _BOTTOM}" text-anchor="end">0</text>'
        f'<text x="{(_LEFT + _WIDTH) / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">'
        "mean change (levels of 0 to 255), images upwards</text></svg>"
    )

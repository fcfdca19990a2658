"""Draws bars that are stacked of parts, one bar per variant, as SVG.

Without a background, and in tones that have enough contrast on a light page and on a dark one.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil
from typing import Final

_WIDTH: Final = 760
_LEFT, _RIGHT, _TOP = 168.0, 700.0, 14.0
_BAR, _STEP = 26.0, 42.0
_INK: Final = "#777d85"
_TONES: Final = ("#c13ec9", "#2b7fff", "#d9730d", "#8a8f98", "#1f9d55", "#b3261e")


def stacked_bars(title: str, bars: Mapping[str, Mapping[str, float]], parts: Sequence[str]) -> str:
    """Return the SVG; the values are milliseconds, and missing parts are none."""
    longest = max(sum(bar.values()) for bar in bars.values())
    step = next(each for each in (50, 100, 250, 500, 1000) if longest / each <= 8)
    end = ceil(longest / step) * step
    bottom = _TOP + _STEP * len(bars)
    height = bottom + 64 + ceil(len(parts) / 2) * 20

    def x(milliseconds: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * milliseconds / end

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
        f' height="{height:.0f}" role="img" font-family="system-ui, sans-serif" font-size="13" fill="{_INK}">',
        f"<title>{escape(title)}</title>",
    ]
    for mark in range(0, int(end) + 1, step):
        drawn.append(
            f'<line x1="{x(mark):.1f}" y1="{_TOP:.1f}" x2="{x(mark):.1f}" y2="{bottom:.1f}" stroke="{_INK}"'
            ' stroke-opacity="0.35"/>'
        )
        drawn.append(_text(x(mark), bottom + 18, f"{mark:,}", "middle"))
    drawn.append(_text((_LEFT + _RIGHT) / 2, bottom + 38, "ms", "middle"))
    for number, (name, bar) in enumerate(bars.items()):
        top, reached = _TOP + _STEP * number + (_STEP - _BAR) / 2, 0.0
        drawn.append(_text(_LEFT - 8, top + _BAR / 2 + 4, name, "end"))
        for part, tone in zip(parts, _TONES, strict=False):
            value = bar.get(part, 0.0)
            if value:
                drawn.append(_box(x(reached), top, x(reached + value) - x(reached), _BAR, tone))
            reached += value
        drawn.append(_text(x(reached) + 6, top + _BAR / 2 + 4, f"{reached:,.0f}", "start"))
    for number, (part, tone) in enumerate(zip(parts, _TONES, strict=False)):
        left, top = _LEFT + number % 2 * 280, bottom + 56 + number // 2 * 20
        drawn.append(_box(left, top - 10, 12, 12, tone))
        drawn.append(_text(left + 20, top, part, "start"))
    return "\n".join([*drawn, "</svg>", ""])


def _box(x: float, y: float, width: float, height: float, tone: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{tone}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

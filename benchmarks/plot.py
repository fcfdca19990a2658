"""Draws how many are released by when, one line per way of working, as SVG.

Without a background, and in tones that have enough contrast on a light page and on a dark one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log
from typing import Final

_WIDTH, _HEIGHT = 760, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, 744.0, 16.0, 308.0
_FIRST_SECOND: Final = 1.0
_TICKS: Final = {1: "1 s", 3: "3 s", 10: "10 s", 30: "30 s", 60: "1 min", 180: "3 min", 600: "10 min", 1800: "30 min"}
_INK: Final = "#777d85"
# By colour and by dashes, so that lines are told apart without colours and where they lie on one another.
_STYLES: Final = (
    ("#2b7fff", "none"),
    ("#8a8f98", "2 4"),
    ("#d9730d", "none"),
    ("#1f9d55", "none"),
    ("#c13ec9", "8 8"),
)
_POINTS: Final = 150
_PAUSE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Line:
    """One way of working: when each release was made, in order, and how many never were."""

    name: str
    released_at: Sequence[float]
    lost: int


def plot(lines: Sequence[Line], size: int) -> str:
    """Return the SVG; its time axis is logarithmic."""
    last = max(line.released_at[-1] for line in lines) * 1.25

    def x(seconds: float) -> float:
        share = log(max(seconds, _FIRST_SECOND) / _FIRST_SECOND) / log(last / _FIRST_SECOND)
        return _LEFT + (_RIGHT - _LEFT) * share

    def y(released: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * released / size

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        f' role="img" font-family="system-ui, sans-serif" font-size="13" fill="{_INK}">',
        f"<title>Messages released over time, {size:,} requests in a minute</title>",
    ]
    for quarter in range(5):
        level = y(size * quarter / 4)
        parts.append(_path([(_LEFT, level), (_RIGHT, level)], _INK, width=1, opacity=0.35))
        parts.append(_text(_LEFT - 8, level + 4, f"{size * quarter // 4:,}", "end"))
    for seconds, label in _TICKS.items():
        if seconds < last:
            parts.append(_path([(x(seconds), _BOTTOM), (x(seconds), _BOTTOM + 5)], _INK, width=1))
            parts.append(_text(x(seconds), _BOTTOM + 20, label, "middle"))
    parts.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 40, "time since the first request (logarithmic)", "middle"))
    middle = (_TOP + _BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 14 {middle:.0f})">{_text(14, middle, "messages released", "middle")}</g>')
    for number, (line, (colour, dashes)) in enumerate(zip(lines, _STYLES, strict=True)):
        released = len(line.released_at)
        step = max(released // _POINTS, 1)
        points: list[tuple[float, float]] = []
        for count, at in enumerate(line.released_at, 1):
            if points and x(at) - points[-1][0] > _PAUSE:  # level while nothing is released
                points.append((x(at), y(count - 1)))
            if count % step == 0 or count == released:
                points.append((x(at), y(count)))
        if line.lost:
            points.append((_RIGHT, y(released)))
        parts.append(_path(points, colour, dashes=dashes))
        left, level = _LEFT + number % 2 * 330, _BOTTOM + 66 + number // 2 * 20
        parts.append(_path([(left, level), (left + 30, level)], colour, dashes=dashes))
        lost = f" ({line.lost:,} lost)" if line.lost else ""
        parts.append(_text(left + 38, level + 4, f"{line.name}{lost}", "start"))
    return "\n".join([*parts, "</svg>", ""])


def _path(
    points: Sequence[tuple[float, float]], colour: str, *, dashes: str = "none", width: float = 2.25, opacity: float = 1
) -> str:
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = f'stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}" stroke-opacity="{opacity}"'
    return f'<polyline points="{steps}" fill="none" {style}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

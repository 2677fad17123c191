"""Charts as SVG text: groups of bars over named places, with a legend. Pure.

Small enough to need no library, and readable without one: each bar has a title that a browser shows
when it is pointed at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

COLOURS = ("#3465a4", "#f57900", "#73d216", "#75507b", "#cc0000", "#555753")
_WIDTH, _HEIGHT = 760, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 50, 70
_LINES = 5


def bars(
    title: str, unit: str, places: Sequence[str], series: Mapping[str, Sequence[float]]
) -> str:
    """Return a chart with a group of bars at each of ``places``: one of each of ``series``, which
    have as many values (in ``unit``, none below 0).
    """
    top = nice(max((value for values in series.values() for value in values), default=0.0))
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="15">{escape(title)}</text>',
    ]
    for line in range(_LINES + 1):
        value = top * line / _LINES
        y = _TOP + inner_height * (1 - line / _LINES)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#d3d7cf"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{value:g} {escape(unit)}</text>"
        )
    group = inner_width / max(1, len(places))
    thick = 0.8 * group / max(1, len(series))
    every = ceil(len(places) / 12)
    for at, place in enumerate(places):
        left = _LEFT + group * at + 0.1 * group
        if at % every == 0:
            x = left + 0.4 * group
            parts.append(
                f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
                f"{escape(place)}</text>"
            )
        for number, (name, values) in enumerate(series.items()):
            height = inner_height * values[at] / top
            parts.append(
                f'<rect x="{left + thick * number:.1f}" y="{_TOP + inner_height - height:.1f}"'
                f' width="{thick:.1f}" height="{height:.1f}" fill="{_colour(number)}">'
                f"<title>{escape(place)}, {escape(name)}: {values[at]:.4g} {escape(unit)}</title>"
                "</rect>"
            )
    x = float(_LEFT)
    for number, name in enumerate(series):
        y = _HEIGHT - 22
        parts.append(
            f'<rect x="{x:.0f}" y="{y - 10}" width="12" height="12" fill="{_colour(number)}"/>'
        )
        parts.append(f'<text x="{x + 17:.0f}" y="{y}">{escape(name)}</text>')
        x += 40 + 7 * len(name)
    return "\n".join([*parts, "</svg>", ""])


def nice(most: float) -> float:
    """Return a round number that is not below ``most``: 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return 1.0
    power = 10.0 ** floor(log10(most))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]

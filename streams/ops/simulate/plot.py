"""The picture: for each provider what was sent, the limit and the hidden capacity, over time. SVG by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from streams.ops.simulate.compare import Outcome
from streams.ops.simulate.measures import Point

WIDE, HIGH, LEFT, RIGHT, TOP, BELOW = 1100, 170, 70, 20, 34, 28
COLUMNS = 900
"""Points drawn of a curve; a month has more, and then each is their mean."""
COLOURS = {"capacity": "#9aa5b1", "limit": "#e08a00", "sent": "#1f6fd0", "refused": "#d02f2f"}


def svg(title: str, outcomes: Sequence[Outcome]) -> str:
    """One panel a provider, under a legend."""
    height = 46 + len(outcomes) * (TOP + HIGH + BELOW)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE}" height="{height}" '
        f'viewBox="0 0 {WIDE} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDE}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="16">{escape(title)}</text>',
    ]
    for n, (name, colour) in enumerate(COLOURS.items()):
        x = WIDE - RIGHT - 400 + n * 100
        parts.append(f'<rect x="{x}" y="14" width="14" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 19}" y="24">{name}</text>')
    for n, outcome in enumerate(outcomes):
        parts += _panel(outcome, 46 + n * (TOP + HIGH + BELOW))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(outcome: Outcome, top: float) -> list[str]:
    points = _thinned(outcome.points)
    if not points:
        return []
    end = points[-1].hour or 1.0
    finite = [p.capacity for p in points if math.isfinite(p.capacity)]
    # The limit may be far above what is there to send: it is cut off, so that the rest can be seen.
    most = max([p.sent + p.throttled for p in points] + finite) * 1.15 or 1.0
    base = top + TOP + HIGH

    def x(hour: float) -> float:
        return LEFT + (WIDE - LEFT - RIGHT) * hour / end

    def y(rate: float) -> float:
        return base - HIGH * min(1.0, rate / most)

    found = outcome.figures
    text = f"{outcome.name}: {found['used']:.1%} of capacity used, {found['deferred_after_first_hour']:.2%} deferred"
    parts = [f'<text x="{LEFT}" y="{top + TOP - 8}" font-weight="bold">{escape(text)}</text>']
    for part in (0, 0.5, 1):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y(most * part):.1f}" y2="{y(most * part):.1f}" stroke="#e4e7eb"/>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{y(most * part) + 4:.1f}" text-anchor="end">{most * part:.3g}/s</text>'
        )
    step = max(1, round(end / 24 / 15))
    for day in range(0, int(end / 24) + 1, step):
        parts.append(
            f'<text x="{x(day * 24):.1f}" y="{base + 15}" text-anchor="middle">{"day " if not day else ""}{day}</text>'
        )
    rows: list[tuple[str, Callable[[Point], float]]] = [
        ("capacity", lambda p: p.capacity), ("limit", lambda p: p.limit),
        ("sent", lambda p: p.sent), ("refused", lambda p: p.throttled),
    ]  # fmt: skip
    for name, value in rows:
        line = " ".join(f"{x(p.hour):.1f},{y(min(value(p), 2 * most)):.1f}" for p in points)
        if name == "capacity":
            parts.append(
                f'<polygon points="{x(0):.1f},{base} {line} {x(end):.1f},{base}" fill="#e4e7eb" stroke="{COLOURS[name]}"/>'
            )
        else:
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.2"/>'
            )
    return parts


def _thinned(points: Sequence[Point]) -> list[Point]:
    many = max(1, math.ceil(len(points) / COLUMNS))
    groups = [points[at : at + many] for at in range(0, len(points), many)]
    return [Point(g[0].hour, *(sum(v) / len(g) for v in list(zip(*g, strict=True))[1:])) for g in groups]

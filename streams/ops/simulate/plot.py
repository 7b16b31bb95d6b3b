"""The picture: for each provider and policy what was sent under what the provider took, over time. SVG by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from streams.ops.simulate.compare import Outcome
from streams.ops.simulate.measures import Point
from streams.ops.simulate.scores import missed

WIDE, HIGH, LEFT, RIGHT, TOP, BELOW, HEAD = 1200, 190, 74, 24, 40, 34, 66
COLUMNS = 720
"""Points drawn of a curve; a month has more, and then each is their mean."""
DECADES = 4
"""A source that warms up grows a thousandfold: its rates are drawn by powers of ten, down to so many below the top."""


class Mark(NamedTuple):
    """A curve or an area: colour, what it is of a point, how it is drawn, and what the legend says."""

    colour: str
    value: Callable[[Point], float]
    style: str
    text: str


MARKS = (
    Mark("#dfe5ec", lambda p: p.capacity, "area", "the provider takes (hidden)"),
    Mark("#8fbf9f", lambda p: p.wanted, "line", "capacity, with plan and demand"),
    Mark("#2e7d4f", lambda p: p.plan, "dashes", "warm-up plan or gate"),
    Mark("#e08a00", lambda p: p.limit, "line", "policy's limit"),
    Mark("#1f5fd0", lambda p: p.sent, "line", "sent"),
    Mark("#d02f2f", lambda p: p.throttled, "line", "deferred as too fast"),
)
STOPPED = "#f6d5d5"


class Axes(NamedTuple):
    """Where hours and rates lie in a panel whose base line is at ``base``."""

    end: float
    most: float
    base: float
    powers: bool

    def x(self, hour: float) -> float:
        """From the left."""
        return LEFT + (WIDE - LEFT - RIGHT) * min(hour, self.end) / self.end

    def y(self, rate: float) -> float:
        """From the top; what is above the panel is cut off."""
        part = min(1.0, max(0.0, rate / self.most))
        if self.powers:
            part = max(0.0, 1 + math.log10(part) / DECADES) if part > 0 else 0.0
        return self.base - HIGH * part


def svg(title: str, found: Mapping[str, Sequence[Outcome]]) -> str:
    """A panel for each provider and policy, under a legend."""
    panels = [
        (p, o) for outcomes in zip(*found.values(), strict=True) for p, o in zip(found, outcomes, strict=True)
    ]
    height = HEAD + len(panels) * (TOP + HIGH + BELOW)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE}" height="{height}" '
        f'viewBox="0 0 {WIDE} {height}" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDE}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="26" font-size="17" font-weight="bold">mailsluice simulate: {escape(title)}</text>',
        *_legend(),
    ]
    for n, (policy, outcome) in enumerate(panels):
        parts += _panel(policy, outcome, HEAD + n * (TOP + HIGH + BELOW))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend() -> list[str]:
    x, parts = float(LEFT), []
    for colour, style, text in (
        *((m.colour, m.style, m.text) for m in MARKS),
        (STOPPED, "area", "suspended"),
    ):
        if style == "area":
            parts.append(f'<rect x="{x}" y="44" width="18" height="11" fill="{colour}"/>')
        else:
            dashes = ' stroke-dasharray="4 3"' if style == "dashes" else ""
            parts.append(
                f'<line x1="{x}" x2="{x + 18}" y1="50" y2="50" stroke="{colour}" stroke-width="2.5"{dashes}/>'
            )
        parts.append(f'<text x="{x + 23}" y="54">{text}</text>')
        x += 52 + 6.0 * len(text)
    return parts


def _panel(policy: str, outcome: Outcome, top: float) -> list[str]:
    points = _thinned(outcome.points)
    if not points:
        return []
    cold = outcome.figures["worst_growth"] is not None
    # The limit may be far above what is there to send: it is cut off, so that the rest can be seen.
    tops = [max(p.sent + p.throttled, p.wanted, 0.0 if cold else p.capacity) for p in points]
    most = max(top for top in tops if math.isfinite(top)) * 1.12 or 1.0
    step = points[1].hour - points[0].hour if len(points) > 1 else 1.0
    axes = Axes(points[-1].hour + step, most, top + TOP + HIGH, powers=cold)
    head = f'<text x="{LEFT}" y="{top + TOP - 10}" font-size="13"><tspan font-weight="bold">'
    parts = [f"{head}{escape(outcome.name)}, {escape(policy)}</tspan>  {escape(_told(outcome))}</text>"]
    parts += _suspensions(points, axes)
    parts += [_drawn(mark, points, axes) for mark in MARKS if mark.style == "area"]
    parts += _grid(axes)
    parts += [_drawn(mark, points, axes) for mark in MARKS if mark.style != "area"]
    return parts


def _told(outcome: Outcome) -> str:
    found = outcome.figures
    text = f"{found['used']:.1%} of capacity used, {found['deferred_after_first_hour']:.2%} deferred"
    if found["hours_to_full_rate_after_drop"] is not None:
        text += (
            f", full rate {found['hours_to_full_rate_after_drop']:.1f} h after a drop or stop at the latest"
        )
    if found["worst_growth"] is not None:
        text += f", growth up to {found['worst_growth']:.2f} a day"
    misses = missed(found)
    return text + (f"; misses {', '.join(misses)}" if misses else "")


def _grid(axes: Axes) -> list[str]:
    parts = []
    rates = [axes.most * 10.0**-n for n in range(DECADES + 1)] if axes.powers else _round(axes.most)
    if axes.powers:
        rates = [10.0 ** math.floor(math.log10(axes.most)) / 10**n for n in range(DECADES)]
    for rate in rates:
        y = axes.y(rate)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8894a0" stroke-opacity="0.35"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{rate:.4g}/s</text>'
        )
    days = axes.end / 24
    step = next((n for n in (1, 2, 5, 10, 20, 50, 100) if days / n <= 16), 200)
    for day in range(0, math.floor(days + 0.01) + 1, step):
        x = axes.x(day * 24)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{axes.base}" y2="{axes.base + 4}" stroke="#555"/>'
            f'<text x="{x:.1f}" y="{axes.base + 17}" text-anchor="middle">{"day " if not day else ""}{day}</text>'
        )
    parts.append(f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{axes.base}" y2="{axes.base}" stroke="#555"/>')
    return parts


def _round(most: float) -> list[float]:
    """Round rates from 0 up to ``most``, four or so."""
    size = 10.0 ** math.floor(math.log10(most / 4))
    step = next(size * n for n in (1, 2, 2.5, 5, 10) if most / (size * n) <= 5)
    return [step * n for n in range(int(most / step) + 1)]


def _suspensions(points: Sequence[Point], axes: Axes) -> list[str]:
    """Bands over the times in which nothing was to be sent."""
    parts, begin = [], None
    for point in (*points, None):
        stopped = point is not None and point.stopped >= 0.5
        if stopped and begin is None:
            begin = point.hour if point else 0.0
        elif not stopped and begin is not None:
            left, right = axes.x(begin), axes.x(point.hour if point else axes.end)
            parts.append(
                f'<rect x="{left:.1f}" y="{axes.base - HIGH}" width="{max(1.5, right - left):.1f}" '
                f'height="{HIGH}" fill="{STOPPED}"/>'
            )
            begin = None
    return parts


def _drawn(mark: Mark, points: Sequence[Point], axes: Axes) -> str:
    kept = [p for p in points if math.isfinite(mark.value(p))]
    if not kept:
        return ""
    line = " ".join(f"{axes.x(p.hour):.1f},{axes.y(mark.value(p)):.1f}" for p in kept)
    if mark.style == "area":
        first, last = axes.x(kept[0].hour), axes.x(kept[-1].hour)
        ends = f"{first:.1f},{axes.base} {line} {last:.1f},{axes.base}"
        return f'<polygon points="{ends}" fill="{mark.colour}"/>'
    dashes = ' stroke-dasharray="4 3"' if mark.style == "dashes" else ""
    return f'<polyline points="{line}" fill="none" stroke="{mark.colour}" stroke-width="1.3"{dashes}/>'


def _thinned(points: Sequence[Point]) -> list[Point]:
    many = max(1, math.ceil(len(points) / COLUMNS))
    groups = [points[at : at + many] for at in range(0, len(points), many)]
    return [Point(g[0].hour, *(sum(v) / len(g) for v in list(zip(*g, strict=True))[1:])) for g in groups]

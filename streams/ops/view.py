"""What ``mailsluice demo`` shows in the terminal: live while it runs, a verdict at its end.

Plain lines where standard output is no terminal: a log should be readable too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streams.ops.ask import clean

COLOURS = {
    "delivered": "green",
    "bounced": "red",
    "suppressed": "magenta",
    "expired": "yellow",
    "cancelled": "bright_black",
    "rejected": "bright_red",
    "unknown": "bright_yellow",
}
"""Outcomes in the order of the bar."""
EVENTS = ("opened", "clicked", "complained", "unsubscribed", "soft_bounced")
ENDS = (
    "delivered",
    "bounced",
    "expired",
    "cancelled",
    "suppressed",
    "rejected",
    "dead_lettered",
    "unknown",
    "pending",
)
EVERY = 2.0
"""Seconds between two plain lines."""


class View:
    """The terminal's view of a campaign of ``total`` mails. Methods return at once."""

    def __init__(
        self, total: int, console: Console | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._console = console or Console(highlight=False)
        self._monotonic = monotonic
        self._begun = monotonic()
        self._line_at = float("-inf")
        self._line = ""
        self._live: Live | None = None
        self._restarts: list[str] = []
        self.faults: list[str] = []

    def say(self, text: str) -> None:
        """One line, above whatever is live."""
        self._console.print(Text(clean(text)), soft_wrap=True)

    def fault(self, text: str) -> None:
        """Something that cannot run; kept in ``faults``."""
        self.faults.append(text)
        self._console.print(Text("fault: " + clean(text), style="bold red"), soft_wrap=True)

    def restarted(self, name: str, code: int) -> None:
        """A worker ended with ``code`` (negative: by that signal) and is started again."""
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        text = f"{name} {how} and was started again"
        self._restarts.append(text)
        self._console.print(Text(text, style="yellow"))

    def show(self, table: dict[str, Any]) -> None:
        """The present figures (``Watcher.table``)."""
        if not self._console.is_terminal:
            self._show_line(table)
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self._picture(table), refresh=True)

    def stop(self) -> None:
        """Take the live part away. May be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def verdict(self, result: dict[str, Any]) -> None:
        """The end: the balance, the checks, what the providers say (``demo._judge``)."""
        self.stop()
        for part in verdict_parts(result):
            self._console.print(part)

    def _show_line(self, table: dict[str, Any]) -> None:
        now = self._monotonic()
        if now < self._line_at + EVERY:
            return
        ended = ", ".join(f"{count} {state}" for state, count in table["ended"].items())
        speed = sum(lane["rate"] for lane in table["lanes"])
        line = f"{table['done']:,} of {self._total:,} ended; {speed:,.0f} msg/s; {ended or 'none yet'}"
        self._line_at = now
        if line != self._line:
            self._line = line
            self._console.print(Text(f"{now - self._begun:6.1f} s  {line}"), soft_wrap=True)

    def _picture(self, table: dict[str, Any]) -> RenderableType:
        return Group(self._bar(table), Text(), lanes_table(table["lanes"]), events_line(table["events"]))

    def _bar(self, table: dict[str, Any]) -> Text:
        width = max(10, min(60, self._console.width - 30))
        bar = Text()
        used = 0
        for state, colour in COLOURS.items():
            cells = round(width * table["ended"].get(state, 0) / max(1, self._total))
            cells = min(cells, width - used)
            bar.append("█" * cells, style=colour)
            used += cells
        bar.append("░" * (width - used), style="bright_black")
        bar.append(f" {table['done']:,} of {self._total:,}", style="bold")
        bar.append(f"  {self._monotonic() - self._begun:.0f} s")
        return bar


def lanes_table(lanes: Iterable[dict[str, Any]]) -> Table:
    """The lanes as a table."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("provider", no_wrap=True)
    found.add_column("source", no_wrap=True)
    for name in ("delivered", "deferred", "bounced", "msg/s", "limit", "conns"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("why", ratio=1, no_wrap=True, overflow="ellipsis")
    for lane in lanes:
        away = lane["suspended_seconds"]
        found.add_row(
            clean(lane["provider"]),
            clean(lane["source"]),
            f"{lane['delivered']:,}",
            f"{lane['deferred']:,}",
            f"{lane['bounced']:,}",
            f"{lane['rate']:.1f}",
            Text(f"off {away} s", style="bold red") if away else f"{lane['limit']:.1f}",
            str(lane["connections"]),
            Text(clean(lane["reason"]), style="bright_black"),
        )
    return found


def events_line(events: dict[str, int]) -> Text:
    """What readers did."""
    return Text("   ".join(f"{kind} {events.get(kind, 0):,}" for kind in EVENTS), style="cyan")


def verdict_parts(result: dict[str, Any]) -> list[RenderableType]:
    """The verdict, part by part."""
    sums = " + ".join(f"{result[end]:,} {end.replace('_', '-')}" for end in ENDS if result[end]) or "0"
    parts: list[RenderableType] = [
        Text(f"received {result['received']:,} = {sums}"),
        Text(
            f"in {result['seconds']} s, {result['messages_per_second']} msg/s; "
            f"lost {result['lost']}, duplicates {result['duplicates']}"
        ),
    ]
    for check, ok in result["checks"].items():
        parts.append(Text(f"  {'ok    ' if ok else 'FAILED'}  {check}", style="green" if ok else "bold red"))
    parts.append(
        Text(
            "the demo succeeded" if result["ok"] else "THE DEMO FAILED",
            style="bold green" if result["ok"] else "bold red",
        )
    )
    return parts

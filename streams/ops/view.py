"""What ``mailsluice demo`` shows in the terminal: live while it runs, a verdict at its end.

Plain lines where standard output is no terminal: a log should be readable too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streams.ops.ask import clean, console
from streams.ops.audit import ENDS

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
READERS = ("opened", "clicked", "complained", "unsubscribed")
CHANGES = {
    "cut": ("cut to", "red"),
    "suspend": ("suspended, then", "bold red"),
    "raise": ("raised to", "green"),
    "uncap": ("back to", "green"),
    "cap": ("capped at", "yellow"),
    "freeze": ("growth frozen at", "yellow"),
    "narrow": ("fewer connections at", "yellow"),
    "widen": ("one more connection at", "green"),
    "shorten": ("shorter connections at", "yellow"),
}
"""Decisions worth a line: their words and colour."""
GOOD = frozenset(("raise", "widen"))
"""Too many of them for a log: that a lane does well is seen from its speed."""
EVERY = 2.0
"""Seconds between two plain lines."""
ALIVE = 10.0
"""Seconds after which a plain line comes even if nothing has changed."""
NARROW = 100
"""Columns below which the lanes' reasons are left out."""


class View:
    """The terminal's view of a campaign of ``total`` mails. Methods return at once."""

    def __init__(
        self, total: int, screen: Console | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._console = screen or console()
        self._monotonic = monotonic
        self._begun = monotonic()
        self._line_at = float("-inf")
        self._said_at = float("-inf")
        self._line = ""
        self._told = 0.0
        self._live: Live | None = None
        self.faults: list[str] = []

    def say(self, text: str) -> None:
        """One line, above whatever is live."""
        self._print(clean(text))

    def fault(self, text: str) -> None:
        """Something that cannot run; kept in ``faults``."""
        self.faults.append(text)
        self._print("fault: " + clean(text), "bold red")

    def restarted(self, name: str, code: int) -> None:
        """A worker ended with ``code`` (negative: by that signal) and is started again."""
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        self._print(f"{name} {how} and is started again", "yellow")

    def show(self, table: dict[str, Any]) -> None:
        """The present figures (``Watcher.table``)."""
        if not self._console.is_terminal:
            self._show_lines(table)
            return
        if self._live is None:
            # The last picture stays above the verdict.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(self._picture(table), refresh=True)

    def stop(self) -> None:
        """Leave the live part as it is. May be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def verdict(self, result: dict[str, Any]) -> None:
        """The end: the balance, the checks, what the providers say (``demo._judge``)."""
        self.stop()
        for part in verdict_parts(result):
            self._console.print(part, soft_wrap=isinstance(part, Text))

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)

    def _show_lines(self, table: dict[str, Any]) -> None:
        now = self._monotonic()
        if now < self._line_at + EVERY:
            return
        self._line_at = now
        for text in changes(table["lanes"], self._told, 8, without=GOOD):
            self._print(f"{'':9} {text.plain}")
        self._told = max([self._told, *(d["time"] for lane in table["lanes"] for d in lane["decisions"])])
        ended = ", ".join(f"{count:,} {state}" for state, count in table["ended"].items())
        speed = sum(lane["rate"] for lane in table["lanes"])
        line = f"{table['done']:,} of {self._total:,} ended; {speed:,.0f} msg/s; {ended or 'none yet'}"
        if line != self._line or now >= self._said_at + ALIVE:
            self._line, self._said_at = line, now
            self._print(f"{now - self._begun:7.1f} s {line}")

    def _picture(self, table: dict[str, Any]) -> RenderableType:
        narrow = self._console.width < NARROW
        parts: list[RenderableType] = [Text(), self._bar(table), counts_line(table), Text()]
        parts += [lanes_table(table["lanes"], narrow), Text()]
        parts += changes(table["lanes"], 0.0, 4)
        return Group(*parts)

    def _bar(self, table: dict[str, Any]) -> Text:
        width = max(10, min(60, self._console.width - 34))
        bar, left = Text(), width
        for state, colour in COLOURS.items():
            count = table["ended"].get(state, 0)
            # Whatever happened at all is seen.
            cells = min(
                left, max(round(width * count / max(self._total, table["done"], 1)), 1 if count else 0)
            )
            bar.append("█" * cells, style=colour)
            left -= cells
        bar.append("░" * left, style="bright_black")
        bar.append(f"  {table['done']:,} of {max(self._total, table['done']):,}", style="bold")
        return bar.append(f"  {self._monotonic() - self._begun:.0f} s")


def counts_line(table: dict[str, Any]) -> Text:
    """Outcomes in the colours of the bar, then what readers did."""
    found = Text()
    for state, colour in COLOURS.items():
        if count := table["ended"].get(state, 0):
            found.append(f"{count:,} {state}  ", style=colour)
    readers = "  ".join(f"{table['events'].get(kind, 0):,} {kind}" for kind in READERS)
    return found.append("│ " + readers, style="cyan")


def lanes_table(lanes: Iterable[dict[str, Any]], narrow: bool = False) -> Table:
    """The lanes; ``narrow`` leaves out source and reason."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("provider", "source", "delivered", "deferred", "bounced", "msg/s", "limit", "conns"):
        if name != "source" or not narrow:
            found.add_column(
                name, no_wrap=True, justify="left" if name in ("provider", "source") else "right"
            )
    if not narrow:
        found.add_column("why", no_wrap=True, overflow="ellipsis")
    for lane in lanes:
        away = lane["suspended_seconds"]
        cells = [Text(clean(lane["provider"], 20)), Text(clean(lane["source"], 24))]
        cells += [Text(f"{lane[name]:,}") for name in ("delivered", "deferred", "bounced")]
        cells.append(Text(f"{lane['rate']:.1f}"))
        cells.append(Text(f"off {away} s", style="bold red") if away else Text(f"{lane['limit']:.1f}"))
        cells.append(Text(str(lane["connections"])))
        cells.append(Text(clean(lane["reason"], 60), style="bright_black"))
        found.add_row(*([cells[0], *cells[2:-1]] if narrow else cells))
    return found


def changes(
    lanes: Iterable[dict[str, Any]], since: float, newest: int, without: Container[str] = ()
) -> list[Text]:
    """The newest changes of limits after ``since`` (Unix seconds), in time order."""
    found = [(d["time"], lane["provider"], d) for lane in lanes for d in lane["decisions"]]
    found = [
        row for row in found if row[0] > since and row[2]["what"] in CHANGES and row[2]["what"] not in without
    ]
    return [_change(provider, d) for _, provider, d in sorted(found, key=lambda row: row[0])[-newest:]]


def _change(provider: str, decision: dict[str, Any]) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(decision["time"]))
    line = Text(f"{at} {clean(provider)}: ", overflow="ellipsis", no_wrap=True)
    words, colour = CHANGES[decision["what"]]
    line.append(f"{words} {decision['rate']:.3g}/s", style=colour)
    sample = f": {clean(decision['sample'], 90)}" if decision["sample"] else ""
    return line.append(f" ({clean(decision['reason'])}){sample}", style="bright_black")


def verdict_parts(result: dict[str, Any]) -> list[RenderableType]:
    """The verdict, part by part."""
    sums = " + ".join(f"{result[end]:,} {end.replace('_', '-')}" for end in ENDS if result[end]) or "0"
    second = result["second_campaign"]
    parts: list[RenderableType] = [
        Text(),
        Text(f"received {result['received']:,} = {sums}", style="bold"),
        Text(f"{result['seconds']:.1f} s for the campaign, {result['messages_per_second']:,.0f} mails/s"),
        Text(
            f"a second campaign to {second['to_bounced']} bad addresses and {second['to_readers']} readers: "
            f"{second['skipped']} skipped, {second['reached']} delivered"
        ),
    ]
    if result["restarts"]:
        parts.append(Text(f"{result['restarts']} times a worker was started again", style="yellow"))
    parts += [Text(), Text("What the providers say:"), providers_table(result["providers"])]
    parts.append(
        Text(
            f"together they took {result['providers_took']:,}; we say {result['we_say_they_took']:,}; "
            f"lost {result['lost']}, duplicates {result['duplicates']}"
        )
    )
    parts.append(Text())
    for check, ok in result["checks"].items():
        parts.append(Text(f"  {'ok    ' if ok else 'FAILED'}  {check}", style="green" if ok else "bold red"))
    ok = result["ok"]
    parts.append(
        Text("\nthe demo succeeded" if ok else "\nTHE DEMO FAILED", style="bold green" if ok else "bold red")
    )
    return parts


def providers_table(providers: dict[str, dict[str, Any]]) -> Table:
    """The providers' own records: what they took and refused, and whether their limit was kept."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    heads = (
        "provider",
        "took",
        "twice",
        "late DSNs",
        "refused",
        "throttled",
        "limit/s",
        "most in 10 s",
        "kept",
    )
    for name in heads:
        found.add_column(name, no_wrap=True, justify="left" if name in ("provider", "kept") else "right")
    for name, said in providers.items():
        sources = said["sources"].values()
        throttled = sum(source["throttled"] for source in sources)
        most = max((source["most_taken_in_10s"] for source in sources), default=0)
        kept = said["within_budget"]
        found.add_row(
            clean(name, 20),
            f"{said['taken']:,}",
            str(said["duplicates"]),
            str(said["bounced_late"]),
            f"{sum(said['refused'].values()):,}",
            f"{throttled:,}",
            f"{said['budget']:g}",
            f"{most:,}",
            Text("yes" if kept else "NO", style="green" if kept else "bold red"),
        )
    return found

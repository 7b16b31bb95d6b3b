"""What a backtest prints: figures for programs, tables for people. Addresses are cut, replies made harmless."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from streams.ops.ask import clean, console, utc
from streams.ops.backtest.law import DAY, Figures, Lane, Ledger, Side
from streams.ops.backtest.logs import Seen
from streams.ops.backtest.people import Person
from streams.ops.backtest.replay import Replay

EXAMPLES = 5
GROUPS = 15
LANES = 30
DECISIONS = 12
_LAW = ("suspensions", "away_hours", "cuts", "sent_while_suspended", "sent_above_rate", "lowest_rate")


def figures(replay: Replay, seen: Seen, about: dict[str, Any]) -> dict[str, Any]:
    """Everything that a backtest found."""
    changes, people = replay.changes, replay.people
    return {
        **about,
        "from": utc(replay.first),
        "until": utc(replay.last),
        "rows": replay.rows,
        "lines": seen.lines,
        "bad_lines": {"count": seen.bad.count, "first": [clean(line, 300) for line in seen.bad.shown]},
        "replies": {
            "read": changes.read,
            "judged_otherwise": changes.changed,
            "by_action": [
                {"before": old, "after": new, "count": count}
                for (old, new), count in changes.by_action().most_common()
            ],
            "groups": [
                group | {"example": clean(_without_addresses(group["example"]), 300)}
                for group in changes.ordered()[:200]
            ],
        },
        "recipients": people.counts()
        | {
            "examples_only_before": _examples(people.only(True)),
            "examples_only_after": _examples(people.only(False)),
        },
        "law": {
            "before": _totals(replay.before),
            "after": _totals(replay.after),
            "lanes": _lanes(replay.before.ledger, replay.after.ledger),
            "decisions_before": _decisions(replay.before.ledger),
            "decisions_after": _decisions(replay.after.ledger),
        },
    }


def cut(address: str) -> str:
    """An address of which only the domain can be read."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}…@{domain}"


def _without_addresses(reply: str) -> str:
    return " ".join(
        cut(word.strip("<>(),;:")) if "@" in word and len(word) < 320 else word for word in reply.split()
    )


def _examples(people: Iterable[tuple[str, Person]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for to, person in people:
        if len(found) == EXAMPLES:
            break
        before, after = person.verdicts
        found.append(
            {"address": clean(cut(to), 80), "time": utc(person.time), "provider": person.provider,
             "before": before._asdict(), "after": after._asdict(), "mails_later": person.took,
             "reply": clean(_without_addresses(person.reply), 300)}
        )  # fmt: skip
    return found


def _totals(side: Side) -> dict[str, Any]:
    found = side.ledger.totals()
    return {
        "attempts": found["attempts"], "throttled": found["throttled"], "suspensions": found["suspensions"],
        "away_hours": round(found["away"] / 3600, 2), "cuts": found["cuts"], "sent_while_suspended": found["within"],
        "sent_above_rate": found["over"],
    }  # fmt: skip


def _lanes(before: Ledger, after: Ledger) -> list[dict[str, Any]]:
    """By day and lane, those where anything was decided."""
    nothing = Figures()
    found = []
    keys = sorted(before.days.keys() | after.days.keys())
    for day, lane in keys:
        old, new = before.days.get((day, lane), nothing), after.days.get((day, lane), nothing)
        if any(one.suspensions or one.cuts or one.away or one.within for one in (old, new)):
            found.append(_lane(day, lane, old, new))
    return found


def _lane(day: int, lane: Lane, old: Figures, new: Figures) -> dict[str, Any]:
    return {
        "day": utc(day * DAY)[:10], "provider": lane[0], "source": lane[1],
        "attempts": max(old.attempts, new.attempts), "throttled": max(old.throttled, new.throttled),
        "before": _figures(old), "after": _figures(new),
    }  # fmt: skip


def _figures(one: Figures) -> dict[str, Any]:
    lowest = None if one.lowest == float("inf") else round(one.lowest, 4)
    return dict(
        zip(
            _LAW,
            (one.suspensions, round(one.away / 3600, 2), one.cuts, one.within, one.over, lowest),
            strict=True,
        )
    )


def _decisions(ledger: Ledger) -> dict[str, Any]:
    told = [
        {"time": utc(found.time), "provider": found.provider, "kind": found.kind, "name": found.name, "what": found.what,
         "rate": round(found.rate, 4), "reason": clean(found.reason, 200), "reply": clean(_without_addresses(found.sample), 200)}
        for found in ledger.decisions if found.what not in ("start", "raise")
    ]  # fmt: skip
    return {"told": told[:1000], "count": len(ledger.decisions) + ledger.more}


# -- for people


def show(found: dict[str, Any]) -> None:
    """Print it."""
    screen = console()
    took = f", {found['rows'] / max(found['seconds'], 0.1):,.0f} rows/s"
    screen.print(
        Text(
            f"{found['from']} to {found['until']}: {found['rows']:,} rows in {found['seconds']} s{took}",
            style="bold",
        )
    )
    screen.print(Text(f"before: {found['before']}"), soft_wrap=True)
    screen.print(Text(f"after:  {found['after']}; senders {found['senders']}"), soft_wrap=True)
    if found["bad_lines"]["count"]:
        screen.print(Text(f"{found['bad_lines']['count']:,} lines could not be used:", style="yellow"))
        for line in found["bad_lines"]["first"][:EXAMPLES]:
            screen.print(Text(f"  {line}"), soft_wrap=True)
    _show_replies(found["replies"])
    _show_recipients(found["recipients"])
    _show_law(found["law"])


def _show_replies(found: dict[str, Any]) -> None:
    screen = console()
    screen.print(
        Text(f"\nReplies: {found['judged_otherwise']:,} of {found['read']:,} judged otherwise", style="bold")
    )
    if not found["groups"]:
        return
    table = _table(("replies", ">"), "before", "after", "class", "rule", "for example")
    for group in found["groups"][:GROUPS]:
        before, after = group["before"], group["after"]
        was = f"{before['action']} ({before['klass']})" if before["klass"] else before["action"]
        _row(
            table,
            f"{group['count']:,}",
            was,
            after["action"],
            after["klass"],
            after["rule"],
            group["example"][:90],
        )
    screen.print(table)
    if len(found["groups"]) > GROUPS:
        screen.print(f"and {len(found['groups']) - GROUPS} more groups (--json)")


def _show_recipients(found: dict[str, Any]) -> None:
    screen = console()
    text = f"\nRecipients: {found['before']:,} suppressed before, {found['after']:,} after"
    screen.print(Text(text, style="bold"))
    for key, what in (
        ("only_before", "would not have been suppressed"),
        ("only_after", "would have been suppressed in addition"),
    ):
        later = found[f"{key}_took_mail_later"]
        proof = f"; to {later:,} of them mail was delivered later" if later else ""
        screen.print(Text(f"  {found[key]:,} {what}{proof}"))
        for one in found[f"examples_{key}"]:
            was, now = one["before"], one["after"]
            why = f"{was['action']} ({was['klass']}) -> {now['action']} ({now['klass']})"
            screen.print(Text(f"    {one['address']}  {why}  {one['reply'][:100]}"), soft_wrap=True)


def _show_law(found: dict[str, Any]) -> None:
    screen = console()
    screen.print(Text("\nLanes", style="bold"))
    table = _table(
        "",
        *(
            (head, ">")
            for head in ("suspensions", "hours away", "cuts", "sent while suspended", "sent above rate")
        ),
    )
    for side in ("before", "after"):
        one = found[side]
        cells = (
            one["suspensions"],
            one["away_hours"],
            one["cuts"],
            one["sent_while_suspended"],
            one["sent_above_rate"],
        )
        _row(table, side, *(f"{cell:,}" for cell in cells))
    screen.print(table)
    lanes = [lane for lane in found["lanes"] if lane["before"] != lane["after"]]
    if lanes:
        screen.print()
        heads = ("attempts", "throttled", "suspensions", "hours away", "cuts", "lowest rate/s")
        table = _table("day", "provider", "source", *((head, ">") for head in heads))
        for lane in lanes[:LANES]:
            both = (lane["before"], lane["after"])
            pairs = [_pair(both, key) for key in ("suspensions", "away_hours", "cuts", "lowest_rate")]
            _row(
                table,
                lane["day"],
                lane["provider"],
                lane["source"],
                f"{lane['attempts']:,}",
                f"{lane['throttled']:,}",
                *pairs,
            )
        screen.print(table)
        more = (
            f"and {len(lanes) - LANES} more lanes and days (--json)"
            if len(lanes) > LANES
            else "before -> after"
        )
        screen.print(Text(more, style="dim"))
    for side in ("before", "after"):
        told = [one for one in found[f"decisions_{side}"]["told"] if one["what"] in ("suspend", "stop")]
        for one in told[:DECISIONS]:
            line = f"{side}: {one['time']}  {one['provider']} from {one['name']}: {one['what']} ({one['reason']})"
            screen.print(Text(line), soft_wrap=True)
        if len(told) > DECISIONS:
            screen.print(Text(f"{side}: and {len(told) - DECISIONS} more (--json)"))


def _pair(both: tuple[dict[str, Any], dict[str, Any]], key: str) -> str:
    old, new = ("-" if one[key] is None else f"{one[key]:,}" for one in both)
    return old if old == new else f"{old} -> {new}"


def _table(*heads: str | tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        name, right = (head, False) if isinstance(head, str) else (head[0], True)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(clean(cell)) for cell in cells))

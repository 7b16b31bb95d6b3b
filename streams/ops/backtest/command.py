"""``mailsluice backtest``: recorded outcomes through a changed policy or changed reply rules."""

from __future__ import annotations

import csv
import time
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import click

from agents.shape.figures import Limits
from agents.shape.rules import BadPolicy, parse_policy
from agents.shape.rules import Settings as Policy
from schemas.codec import Malformed, decode
from schemas.lane_report import LaneReport
from schemas.outcome import Outcome
from schemas.reply import Rules, load_rules
from schemas.reply_rules import RulesError
from streams.admin import check
from streams.ops.ask import Time, as_json, asked, at_broker, clean, echo_json, run, utc
from streams.ops.backtest import kumomta, powermta
from streams.ops.backtest.law import Fixed, Law, Side, warm
from streams.ops.backtest.logs import BadLog, Seen, read_logs
from streams.ops.backtest.people import Ours, People, Theirs
from streams.ops.backtest.replay import Assumed, Replay
from streams.ops.backtest.show import figures, show
from streams.ops.read import read_to_end
from streams.ops.warmup import policy_in_force
from streams.settings import Settings

LARGEST = 2_000_000
"""Bytes of a policy or rules file."""
CATEGORIES = (*powermta.SUPPRESSES, *kumomta.SUPPRESSES)


@click.command("backtest")
@click.option(
    "--policy",
    metavar="FILE",
    help="The shaping policy after: what differs (in the place of MAILSLUICE_POLICY_OVERRIDE), or a whole policy.toml.",
)
@click.option("--rules", metavar="FILE", help="The reply rules after: a whole replies.toml.")
@click.option("--against", metavar="FILE", help="The shaping policy before; default: the one in force here.")
@click.option("--from", "begin", type=Time(), default=None, help="Only what happened from this time on.")
@click.option("--to", "end", type=Time(), default=None, help="Only what happened before this time.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    metavar="FILE",
    help="Logs of another engine, not our topics (repeatable; - = input).",
)
@click.option(
    "--suppresses",
    type=click.Choice(("category", "5xx", "none")),
    default="category",
    show_default=True,
    help="Upon what the other engine is taken to suppress an address.",
)
@click.option(
    "--category",
    "categories",
    multiple=True,
    metavar="NAME",
    help=f"For --suppresses category, in the place of {', '.join(CATEGORIES)}.",
)
@click.option(
    "--before",
    type=click.Choice(("fixed", "policy")),
    default="fixed",
    show_default=True,
    help="With --log, how the other engine is taken to slow down: by fixed reactions, or as our policy before.",
)
@click.option(
    "--cold",
    is_flag=True,
    help="Sources and domains are new to the providers: warm-up plans hold, rates begin at start.",
)
@click.option("--recipients", metavar="FILE.csv", help="Write there whom only one side suppressed, and why.")
@at_broker
@as_json
def command(
    policy: str | None, rules: str | None, against: str | None, begin: float | None, end: float | None,
    logs: tuple[str, ...], suppresses: str, categories: tuple[str, ...], before: str, cold: bool, recipients: str | None,
    broker: str | None, prefix: str | None, as_json: bool,
) -> None:  # fmt: skip
    """What another policy, or other reply rules, would have decided of what has happened.

    Reads mail-outcomes and mail-lane-reports (nothing is written), or with --log the logs of another engine:
    PowerMTA accounting files (CSV with their header; records d, b, t, tq, rb, f) and KumoMTA log records (JSON
    lines), plain, .gz or .zst. So one can see before moving which false suppressions and which suspensions of
    whole lanes would not have been.

    Shown: replies judged otherwise, with examples; recipients whom only one side would have suppressed, and to how
    many of them mail was delivered later; suspensions, cuts and mail above the rate, by day, provider and source.

    What another engine did is not in its log, so it is assumed: it suppresses upon a bounce of certain categories
    (--suppresses, --category), and slows down by fixed reactions (--before fixed: the rows that operators
    exchange; see `simulate --policy rules`). Senders count as known to the providers (--cold: as new). It is a
    replay: providers answer as they answered then. Bounces that came by mail count with --log only.

    \b
    Example: mailsluice backtest --policy softer.toml --from 2026-03-01T00:00:00Z --to 2026-03-08T00:00:00Z
             mailsluice backtest --rules replies.toml --json
             mailsluice backtest --log acct-2026-03-01.csv --log acct-2026-03-02.csv.gz --recipients differ.csv
    Exit code: 0; 1 no broker, or a log that cannot be read; 2 wrong usage, policy or rules.
    """
    if not (policy or rules or logs):
        raise click.UsageError("nothing would be different: give --policy, --rules or --log")
    if begin is not None and end is not None and end <= begin:
        raise click.UsageError("--to must be later than --from")
    settings = asked(broker, prefix)
    old = _policy(settings, against)
    new = _policy(settings, policy) if policy else _policy(settings, None)
    if not cold:
        old, new = warm(old), warm(new)
    theirs = bool(logs) and before == "fixed"
    named = frozenset(name.lower() for name in categories or CATEGORIES)
    side: Side = Fixed(_fixed()) if theirs else Law(old)
    replay = Replay(
        _rules(rules), side, Law(new), People(Theirs() if logs else Ours(), Ours()),
        Assumed(suppresses, named) if logs else None, begin or 0.0, float("inf") if end is None else end,
    )  # fmt: skip
    seen, started = Seen(), time.monotonic()
    if logs:
        _read(lambda: replay.logs(read_logs(logs, seen)))
        if not seen.rows:
            raise click.ClickException(_nothing(seen))
    else:
        run(settings, _topics(settings, replay, seen))
        if not replay.rows:
            raise click.ClickException(
                "no outcome lies in that time: see `mailsluice audit`, or widen --from and --to"
            )
    about = {
        "before": _said(seen, suppresses, categories, before)
        if logs
        else f"as recorded; policy {against or 'in force here'}",
        "after": f"reply rules {replay.rules.version}{f' ({rules})' if rules else ''}, policy {policy or 'in force here'}",
        "senders": "new to the providers" if cold else "known to the providers",
        "seconds": round(time.monotonic() - started, 1),
    }
    if recipients:
        _write(recipients, replay.people)
    found = figures(replay, seen, about)
    if as_json:
        echo_json(found)
    else:
        show(found)


async def _topics(settings: Settings, replay: Replay, seen: Seen) -> None:
    """Our own record: the lanes' reports, which are the law's input, then the journal."""
    partitions = (await check(settings)).partitions
    places = [("mail-lane-reports", 0)], [("mail-outcomes", partition) for partition in range(partitions)]
    for some in places:
        async for record in read_to_end(settings, some):
            seen.lines += 1
            try:
                found = decode(record, "outcome" if record.topic == "mail-outcomes" else "lane_report")
            except Malformed as error:
                seen.bad.add(f"{record.topic}/{record.partition}", record.offset, error.code)
                continue
            if isinstance(found, Outcome):
                replay.outcome(found)
            elif isinstance(found, LaneReport):
                replay.lane_report(found)
    seen.rows = replay.rows
    seen.engines.add("mail-outcomes")


def _read(work: Callable[[], None]) -> None:
    try:
        work()
    except BadLog as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'log'}: {error.strerror or error}") from None


def _nothing(seen: Seen) -> str:
    text = f"no line of the logs is an attempt, a bounce or a report: {seen.lines} lines read, {seen.bad.count} bad"
    return "\n".join((text, *map(clean, seen.bad.shown)))


def _said(seen: Seen, suppresses: str, categories: tuple[str, ...], before: str) -> str:
    usual = {"PowerMTA": powermta.SUPPRESSES, "KumoMTA": kumomta.SUPPRESSES}
    named = categories or [name for engine in sorted(seen.engines) for name in usual[engine]]
    upon = {"5xx": "any 5xx", "none": "nothing"}.get(suppresses) or (
        f"the categories {', '.join(named)} (a bounce without any: 5xx)"
    )
    how = "by fixed reactions" if before == "fixed" else "as our policy before"
    return f"{' and '.join(sorted(seen.engines))}, assumed to suppress upon {upon}, and to slow down {how}"


def _text(path: str) -> str:
    """A file of an operator. Raises UsageError."""
    try:
        with Path(path).open("rb") as source:
            raw = source.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise click.UsageError(f"{path}: has more than {LARGEST} bytes")
        return raw.decode("utf-8")
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _policy(settings: Settings, path: str | None) -> Policy:
    """The policy in force, or that of a file: in the place of the override where it only says what differs."""
    if path is None:
        return policy_in_force(settings)
    text = _text(path)
    if not _is_whole(text):
        return policy_in_force(replace(settings, policy_override=Path(path)))
    try:
        return parse_policy(text, path)
    except BadPolicy as error:
        raise click.UsageError(str(error)) from None


def _is_whole(text: str) -> bool:
    """Whether a policy needs no other one under it: its [default] leaves nothing open."""
    try:
        default = tomllib.loads(text).get("default")
    except tomllib.TOMLDecodeError:
        return True  # its own error is the better one
    needed = {field.name for field in fields(Limits)} - {"max_connections", "warm_up"}
    return isinstance(default, dict) and needed <= default.keys()


def _fixed() -> Policy:
    text = (resources.files("streams.ops.simulate") / "rules.toml").read_text("utf-8")
    return parse_policy(text, "rules.toml")


def _rules(path: str | None) -> Rules:
    try:
        return load_rules(
            _text(path) if path else (resources.files("schemas") / "replies.toml").read_text("utf-8")
        )
    except RulesError as error:
        raise click.UsageError(f"{path}:\n{error}") from None


def _write(path: str, people: People) -> None:
    """Whom only one side suppressed: for a person to look at, or for `mailsluice suppress`."""
    try:
        with Path(path).open("w", encoding="utf-8", newline="") as target:
            out = csv.writer(target)
            out.writerow(
                (
                    "address",
                    "suppressed",
                    "time",
                    "provider",
                    "before",
                    "after",
                    "class",
                    "rule",
                    "mails_later",
                    "reply",
                )
            )
            for side in (True, False):
                for to, one in people.only(side):
                    was, now = one.verdicts
                    row: list[Any] = [
                        to,
                        "before" if side else "after",
                        utc(one.time),
                        one.provider,
                        f"{was.action} {was.klass}",
                    ]
                    row += [now.action, now.klass, now.rule, one.took, clean(one.reply)]
                    out.writerow(_harmless(cell) for cell in row)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror or error}") from None


def _harmless(cell: Any) -> Any:
    """No cell begins as a formula: spreadsheets would run it, and replies are strangers' text."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell

"""``mailsluice dlq``: dead letters: what they are, what is in them, and writing them again where they died."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, BinaryIO

import click

from schemas.replay import Replayed, Replays
from streams.ops.ask import Time, as_json, asked, at_broker, clean, echo_json, run
from streams.ops.campaign import who_am_i
from streams.ops.letters import DEAD, Letter, Wanted
from streams.ops.letters_print import print_letter, print_table
from streams.ops.letters_scan import letters, past_of, replay
from streams.settings import Settings

TOLD = 30
"""Refusals that are named one by one; ``--json`` names all."""
QUIET = 10.0
"""Seconds after which a replay says how far it is."""
NAME = re.compile(r"(mail-[a-z-]+)@(\d{1,18})")


@click.group()
def dlq() -> None:
    """Dead letters: records that a stage could not work on, as they came, with the reason.

    A letter is called by its topic and offset: mail-sends-dlq@17. `list` and `show` print what came from
    outside, escaped, recipients' addresses among it: mind who looks over your shoulder.

    \b
    Example: mailsluice dlq list --stage enqueue --since 2026-03-01T08:00:00Z
    """


class Rate(click.ParamType):
    """``50`` or ``50/s``."""

    name = "N/s"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Letters a second."""
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(?:/s)?", str(value))
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no rate above 0, such as 50/s", param, ctx)
        return float(found[1])


def choosing(function: Any) -> Any:
    """The arguments and options that say which letters are meant; the command hands them to ``wanted_of``."""
    for option in (
        click.option("--offset", type=click.IntRange(0), help="It lay at this offset where it died."),
        click.option("--partition", type=click.IntRange(0), help="It lay in this partition."),
        click.option("--until", type=Time(), help="It died before this time."),
        click.option("--since", type=Time(), help="It died at this time or later."),
        click.option("--id", default="", help="Of this mail: its id, or the origin of its send."),
        click.option("--campaign", default="", help="Of this campaign."),
        click.option("--tenant", default="", help="Of this tenant."),
        click.option(
            "--reason", default="", help="The reason's word (bad_json, bug ...), or part of its text."
        ),
        click.option("--stage", default="", help="The stage that gave up."),
        click.option("--topic", default="", help="Where it died, or a topic of dead letters."),
        click.argument("names", metavar="[LETTER]...", nargs=-1),
    ):
        function = option(function)
    return function


def wanted_of(chosen: dict[str, Any]) -> Wanted:
    """What was chosen. Takes its options out of ``chosen``. Raises UsageError."""
    names = set()
    for name in chosen.pop("names"):
        found = NAME.fullmatch(name)
        if found is None or found[1] not in DEAD:
            raise click.UsageError(
                f"{clean(name, 60)!r} is no dead letter: TOPIC@OFFSET, where TOPIC is {', '.join(DEAD)}"
            )
        names.add((found[1], int(found[2])))
    given = {name: value for name, value in chosen.items() if value not in (None, "")}
    if given.get("until", float("inf")) <= given.get("since", 0.0):
        raise click.UsageError("--until must be later than --since")
    return Wanted(frozenset(names), **given)


# -- list


async def _read(
    settings: Settings, wanted: Wanted, waiting: bool, take: Callable[[Letter, Replayed | None], bool]
) -> None:
    """Hand every letter that is meant to ``take``, until it says that it has enough."""
    past = await past_of(settings)
    async with aclosing(letters(settings, wanted, Replays.of(settings.secret))) as reading:
        async for letter in reading:
            said = past.of(letter.record)
            if not (waiting and said) and take(letter, said):
                return


def _row(letter: Letter, said: Replayed | None, replays: Replays | None) -> dict[str, Any]:
    again = {"replayed_at": said.time, "replayed_by": said.who} if said else {}
    return letter.as_dict(replays) | again


@dlq.command("list")
@choosing
@click.option("--waiting", is_flag=True, help="Only those that were not replayed.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(0), help="The newest N; 0: all (--json)."
)
@at_broker
@as_json
def list_letters(
    waiting: bool, limit: int, broker: str | None, prefix: str | None, as_json: bool, **chosen: Any
) -> None:
    """List dead letters, and count them by stage and reason. With --json one line for each letter.

    \b
    Example: mailsluice dlq list --reason bug --waiting
    """
    settings, wanted = asked(broker, prefix), wanted_of(chosen)
    replays = Replays.of(settings.secret)
    if not limit and not as_json:
        raise click.UsageError("--limit 0 needs --json: a table of everything has no end")
    counts: Counter[tuple[str, str]] = Counter()
    rows: deque[dict[str, Any]] = deque(maxlen=limit or None)

    def take(letter: Letter, said: Replayed | None) -> bool:
        counts[clean(letter.stage, 20), clean(letter.reason, 30)] += 1
        row = _row(letter, said, replays)
        if limit:
            rows.append(row)
        else:
            echo_json(row)
        return False

    run(settings, _read(settings, wanted, waiting, take))
    if as_json:
        for row in rows:
            echo_json(row)
        return
    print_table(sorted(rows, key=lambda row: row["time"]))
    total = counts.total()
    by = ", ".join(f"{stage} {reason} {count:,}" for (stage, reason), count in counts.most_common(20))
    left = f"; the {len(rows):,} newest are shown (--limit)" if len(rows) < total else ""
    click.echo(f"{total:,} dead letters{left}" + (f": {by}" if by else ""))


# -- show


@dlq.command("show")
@choosing
@click.option(
    "--limit", default=10, show_default=True, type=click.IntRange(1), help="Letters at most, oldest first."
)
@click.option(
    "--bytes",
    "longest",
    default=4000,
    show_default=True,
    type=click.IntRange(0),
    help="Of each body; 0: all.",
)
@click.option(
    "--raw", type=click.File("wb"), metavar="FILE|-", help="Write the one letter's body as it came."
)
@at_broker
@as_json
def show(
    limit: int, longest: int, raw: BinaryIO | None, broker: str | None, prefix: str | None, as_json: bool,
    **chosen: Any,
) -> None:  # fmt: skip
    """Print letters whole: reason, headers and body. What is not printable is escaped as in Python.

    \b
    Example: mailsluice dlq show mail-sends-dlq@17
    Example: mailsluice dlq show mail-dlq@3 --raw - | less
    Exit code: 0 there is one; 1 there is none, or (--raw) more than one.
    """
    settings, wanted = asked(broker, prefix), wanted_of(chosen)
    if not wanted.as_dict():
        raise click.UsageError("say which letters: by name (mail-sends-dlq@17) or by the options")
    replays = Replays.of(settings.secret)
    most = 2 if raw else limit
    bodies: list[bytes] = []

    def take(letter: Letter, said: Replayed | None) -> bool:
        bodies.append(letter.was.value or b"" if raw else b"")
        if raw is None:
            print_letter(letter, _row(letter, said, replays), longest, as_json)
        return len(bodies) == most

    run(settings, _read(settings, wanted, False, take))
    if not bodies:
        raise click.ClickException("no such letter (any more): see `mailsluice dlq list`")
    if raw is not None:
        if len(bodies) > 1:
            raise click.ClickException("more than one letter fits: --raw writes one")
        raw.write(bodies[0])


# -- replay


@dlq.command("replay")
@choosing
@click.option("--all", "everything", is_flag=True, help="All that were not replayed yet.")
@click.option("--again", is_flag=True, help="Also those that were replayed before.")
@click.option(
    "--limit", default=0, type=click.IntRange(0), help="Letters at most, oldest first; default all."
)
@click.option("--rate", type=Rate(), default="50/s", show_default=True, help="Letters a second.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done; needs no --why.")
@click.option("--why", default="", help="For the audit: one sentence.")
@click.option("--who", default=who_am_i, help="For the audit; default user@machine.")
@at_broker
@as_json
def replay_letters(
    everything: bool, again: bool, limit: int, rate: float, dry_run: bool, why: str, who: str,
    broker: str | None, prefix: str | None, as_json: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Write letters again to the topic and partition where they died, when the cause is mended.

    A send keeps its origin (proved with MAILSLUICE_SECRET), so that it is received once and a second replay is a
    duplicate; a mail behind enqueue asks for its next attempt, which gate two lets pass once. Refused, each
    with the reason: what was cut, what has expired, mails that ended, whose last attempt may have arrived
    (unknown), or that were intended under at-most-once, and campaigns, which their owners publish again. What
    was replayed before is left out. With --json one line for each letter, and the counts last, when the broker
    has acknowledged all of them.

    \b
    Example: mailsluice dlq replay --stage enqueue --reason bug --why "fixed in 1.4.2" --rate 20/s
    Example: mailsluice dlq replay mail-dlq@17 --dry-run
    Exit code: 0 all of them; 1 some were refused, or none was found.
    """
    settings, wanted = asked(broker, prefix), wanted_of(chosen)
    if not (wanted.as_dict() or everything):
        raise click.UsageError("say which letters: by name (mail-sends-dlq@17), by the options, or --all")
    if not (why or dry_run):
        raise click.UsageError("--why is missing: one sentence for the audit")
    tell = _Teller(as_json, dry_run)
    counts = run(
        settings,
        replay(
            settings, wanted, limit=limit, rate=rate, repeat=again, dry=dry_run, who=who, why=why, told=tell
        ),
    )  # fmt: skip
    if as_json:
        echo_json({"counts": dict(counts), "dry_run": dry_run})
    else:
        _print_counts(counts, tell.refused, dry_run)
    raise SystemExit(0 if counts["replayed"] == counts["selected"] > 0 else 1)


class _Teller:
    """Tells what becomes of each letter: all as JSON, else the first refusals, and how far it is."""

    def __init__(self, as_json: bool, dry: bool) -> None:
        self._as_json, self._dry = as_json, dry
        self._quiet = time.monotonic() + QUIET
        self.refused = self.seen = 0

    def __call__(self, letter: Letter, what: str, why: str) -> None:
        self.seen += 1
        refused = what != "replayed"
        self.refused += refused
        if self._as_json:
            done = {"refused": what, "why": why} if refused else {"replayed": not self._dry}
            echo_json({"letter": letter.name, **done})
        elif refused and self.refused <= TOLD:
            click.echo(clean(f"{letter.name} is not replayed: {why}", 300))
        if time.monotonic() > self._quiet:
            self._quiet = time.monotonic() + QUIET
            click.echo(f"{self.seen:,} letters so far", err=True)


def _print_counts(counts: Counter[str], told: int, dry: bool) -> None:
    if told > TOLD:
        codes = set(counts) - {"selected", "replayed", "already", "refused"}
        by = ", ".join(f"{code} {counts[code]:,}" for code in sorted(codes))
        click.echo(f"... and {told - TOLD:,} more (--json names all): {by}")
    if not counts["selected"] and not counts["already"]:
        click.echo("no letter fits: see `mailsluice dlq list`")
        return
    done = "would be replayed" if dry else "replayed"
    said = [f"{counts['replayed']:,} letters {done}"]
    said += [f"{counts['refused']:,} refused"] if counts["refused"] else []
    said += [f"{counts['already']:,} were replayed before (--again)"] if counts["already"] else []
    click.echo("; ".join(said))

"""``mailsluice list``: the rules that stop marketing mail, and what they would say of a list."""

from __future__ import annotations

import csv
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.table import Table

from agents.screen.rules import SWITCHES, Rules
from agents.screen.rules_file import BadRules, warnings_of
from schemas.consent_rules import BadConsents
from schemas.erasure import Pseudonyms
from streams.admin import check as check_topics
from streams.app import screening_of
from streams.operators import consent_rules_of
from streams.ops.ask import as_json, asked, at_broker, clean, console, echo_json, run
from streams.ops.list_bounces import DECAY
from streams.ops.list_check import TOPICS, Checked, Gathered, Person, check_list, cohort_names
from streams.ops.long_lines import text_lines
from streams.ops.read import read_to_end
from streams.ops.recipients import BadFile
from streams.resolver import Resolver
from streams.settings import BadSettings, Settings, load


@click.group("list")
def group() -> None:
    """Lists of recipients before they are written to, and the rules by which marketing mail is stopped.

    Example: mailsluice list rules
    """


def _shown(rules: Rules) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(rules, name) for name in SWITCHES}
    if rules.relaunch:
        found["relaunch"] = datetime.fromtimestamp(rules.relaunch, UTC).isoformat()
    return found


@group.command("rules")
@click.option(
    "--check",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file in the place of MAILSLUICE_SCREEN_RULES: is it good?",
)
@as_json
def rules(check: Path | None, as_json: bool) -> None:
    """The rules of screen as this environment has them, and what it costs where one is switched off.

    MAILSLUICE_SCREEN_RULES names a file laid over the shipped rules; workers read it when they start.

    \b
    Example: mailsluice list rules --check my-rules.toml
    Exit code: 0 good; 2 the file has faults, all of them are listed.
    """
    try:
        settings = load(os.environ, **({"screen_rules": check} if check else {}))
        screening = screening_of(settings)
    except (BadRules, BadSettings) as error:
        raise click.UsageError(str(error)) from None
    warnings = warnings_of(screening)
    named = {"default": screening.default, **screening.tenants}
    if as_json:
        lists = screening.lists
        echo_json(
            {
                "rules": {name: _shown(found) for name, found in named.items()},
                "ceilings": [asdict(c) for c in screening.default.ceilings],
                "new": asdict(screening.default.new),
                "unseen": asdict(screening.default.unseen),
                "sunsets": [asdict(s) for s in screening.default.sunsets],
                "relaunch_steps": [asdict(s) for s in screening.default.steps],
                "lists": {
                    "roles": len(lists.roles),
                    "disposable": len(lists.disposable),
                    "mistyped": len(lists.mistyped),
                },
                "warnings": warnings,
            }
        )
        return
    for name, found in named.items():
        click.echo(f"{name}: " + ", ".join(f"{key} {value}" for key, value in _shown(found).items()))
    most = screening.default
    for ceiling in most.ceilings:
        click.echo(
            f"read within {ceiling.within:g} days: at most {ceiling.most} mails in {ceiling.days:g} days"
        )
    click.echo(
        f"known for {most.new.within:g} days at most: {most.new.most} in {most.new.days:g} days; "
        f"cannot be seen to read: {most.unseen.most} in {most.unseen.days:g} days"
    )
    for sunset in most.sunsets:
        click.echo(f"who writes every {sunset.every:g} days lets go after {sunset.after:g} silent days")
    click.echo(f"everybody after {most.sunset_always:g} silent days")
    lists = screening.lists
    click.echo(
        f"{len(lists.roles)} role names, {len(lists.disposable):,} disposable domains, {len(lists.mistyped)} mistyped ones"
    )
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    sys.stdout.flush()


PERSON = ("line", "to", "verdict", "detail", "suggestion")
"""Columns of the file that ``--rows`` writes; an empty verdict: it would be mailed."""
LONGEST_LINE = 1_000_000
"""Characters of one line of a list."""


@group.command("check")
@click.argument("file", type=click.File("rb"))
@click.option("--tenant", default="default", show_default=True)
@click.option(
    "--stream", type=click.Choice(("marketing", "transactional")), default="marketing", show_default=True
)
@click.option("--offline", is_flag=True, help="Ask no broker: suppressions and engagement are left out.")
@click.option("--no-mx", is_flag=True, help="Ask no DNS: whether domains take mail is left out.")
@click.option(
    "--new", "new", type=click.FloatRange(0, 100), help="Bad addresses among those never written to, in %."
)
@click.option(
    "--decay", type=click.FloatRange(0, 99), default=100 * DECAY, show_default=True,
    help="Addresses that stop working each month, in %.",
)  # fmt: skip
@click.option("--max-bad", type=click.FloatRange(0, 100), help="Exit 1 where more rows are bad, in %.")
@click.option(
    "--max-bounces", type=click.FloatRange(0, 100), help="Exit 1 where more bounces are expected, in %."
)
@click.option(
    "--rows",
    "out",
    type=click.File("w", encoding="utf-8"),
    help="Write what is said of each address to a CSV file.",
)
@at_broker
@as_json
def check(
    file: BinaryIO, tenant: str, stream: str, offline: bool, no_mx: bool, new: float | None, decay: float,
    max_bad: float | None, max_bounces: float | None, out: Any, broker: str | None, prefix: str | None, as_json: bool,
) -> None:  # fmt: skip
    """What the list in FILE (CSV as for `send`, - for standard input) is worth, before anybody is written to.

    Syntax, duplicates, domains that take no mail, mistyped, disposable and role addresses, who is suppressed, lacks a
    consent or would be stopped by screen's rules, when the rest was last seen to read, and how many will bounce, with
    what that guess stands on. No mailbox is asked, nothing is sent; DNS is asked once a domain (MAILSLUICE_DNS).

    Bad rows (--max-bad) are those without an address, at no mail host, mistyped, disposable, known as bad, or silent
    so long that they may be traps.

    \b
    Example: mailsluice list check customers.csv --max-bad 5 --max-bounces 2
    Exit code: 0 done; 1 above --max-bad or --max-bounces, or no broker; 2 the file or an option is wrong.
    """
    settings, found, now = asked(broker, prefix), Checked(), time.time()
    found.bounces.decay, found.bounces.new = decay / 100, None if new is None else new / 100
    try:
        screening, rules = screening_of(settings), consent_rules_of(settings)
    except (BadRules, BadConsents) as error:
        raise click.UsageError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="mailsluice-") as home:
        names = Pseudonyms(settings.hash_secrets()).of if settings.secret else lambda address: ()
        gathered = Gathered(Path(home), tenant, stream, names)
        try:
            gathered.read(text_lines(file, LONGEST_LINE), found)
            run(settings, _ask(settings, gathered, found, offline, no_mx), reached=not offline)
            people = gathered.judge(screening, rules, found, now)
            _write(people, out)
        except BadFile as error:
            raise click.UsageError(str(error)) from None
        finally:
            gathered.close()
    share = 100 * found.poor / found.rows if found.rows else 0.0
    above = [
        f"{name}: {value:.2f} % is above {most:g} %"
        for name, value, most in (
            ("bad rows", share, max_bad),
            ("bounces", 100 * found.bounces.rate, max_bounces),
        )
        if most is not None and value > most
    ]
    if as_json:
        echo_json(_as_json(found, share, above, offline, no_mx))
    else:
        _show(found, share, offline, no_mx)
        for line in above:
            click.echo(line, err=True)
    sys.exit(1 if above else 0)


async def _ask(settings: Settings, gathered: Gathered, found: Checked, offline: bool, no_mx: bool) -> None:
    records = None
    if not offline:
        partitions = (await check_topics(settings)).partitions
        records = read_to_end(settings, [(topic, p) for topic in TOPICS for p in range(partitions)])
    hosts = None if no_mx else Resolver(settings.dns)
    await check_list(gathered, found, records, hosts, lambda: None)


def _write(people: Iterator[Person], out: Any) -> None:
    if out is None:
        for _ in people:
            pass
        return
    writer = csv.writer(out)
    writer.writerow(PERSON)
    writer.writerows(people)


def _as_json(found: Checked, share: float, above: list[str], offline: bool, no_mx: bool) -> dict[str, Any]:
    bounces = found.bounces
    return {
        "rows": found.rows,
        "bad_rows": found.bad_rows,
        "first_bad_rows": [{"line": row.line, "why": row.why} for row in found.bad],
        "duplicates": found.duplicates,
        "addresses": found.people,
        "would_be_mailed": found.mailed,
        "would_not": dict(found.verdicts),
        "warned": dict(found.warned),
        "domains": found.domains,
        "unsure_of_dns": found.unsure,
        "suggested_domains": dict(found.suggestions),
        "cohorts": {} if offline else {name: found.cohorts[name] for name in cohort_names()},
        "bad_share": round(share / 100, 6),
        "expected_bounces": round(bounces.expected, 1),
        "expected_bounce_rate": round(bounces.rate, 6),
        "basis": bounces.basis(),
        "asked": {"broker": not offline, "dns": not no_mx},
        "above": above,
    }


def _show(found: Checked, share: float, offline: bool, no_mx: bool) -> None:
    click.echo(
        f"{found.rows:,} rows: {found.people:,} different addresses, {found.duplicates:,} repeated, {found.bad_rows:,} bad rows"
    )
    for row in found.bad[:5]:
        click.echo(f"  line {row.line}: {clean(row.why, 150)}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "addresses", "%"):
        table.add_column(name, justify="left" if not name else "right")

    def line(name: str, count: int) -> None:
        table.add_row(name, f"{count:,}", f"{100 * count / found.people:.1f}" if found.people else "")

    line("would be mailed", found.mailed)
    for reason, count in found.verdicts.most_common():
        line(f"would not: {reason}", count)
    for reason, count in found.warned.most_common():
        line(f"would be, with a warning: {reason}", count)
    if not offline:
        for name in cohort_names():
            line(name, found.cohorts[name])
    console().print(table)
    if found.suggestions:
        meant = ", ".join(f"{name} ({count})" for name, count in found.suggestions.most_common(5))
        click.echo(f"mistyped; most likely meant: {meant}")
    if found.unsure:
        click.echo(
            f"DNS could not say whether the domains of {found.unsure:,} addresses take mail; ask again later"
        )
    left = [
        what
        for what, not_asked in (("suppressions, consents and engagement", offline), ("mail hosts", no_mx))
        if not_asked
    ]
    if left:
        click.echo(f"not looked at: {' and '.join(left)}")
    click.echo(f"{share:.2f} % of the rows are bad")
    bounces = found.bounces
    click.echo(f"expected bounces: {bounces.expected:,.0f} ({bounces.rate:.2%} of what would be mailed)")
    for sentence in bounces.basis():
        click.echo(f"  {sentence}")

"""``mailsluice list``: the rules that stop marketing mail, and what they would say of a list."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from agents.screen.rules import SWITCHES, Rules
from agents.screen.rules_file import BadRules, warnings_of
from streams.app import screening_of
from streams.ops.ask import as_json, echo_json
from streams.settings import BadSettings, load


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

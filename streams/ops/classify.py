"""``mailsluice classify``: what SMTP replies, bounces and abuse reports mean, one JSON line each."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import asdict
from importlib import resources
from typing import IO

import click
import msgspec
import orjson

from schemas.reply import Meaning, Rules, load_rules
from schemas.reply import classify as meaning_of
from streams.ops.clusters import Groups
from streams.ops.long_lines import numbered_lines
from streams.ops.returned_mail import answers, fields_of

LONGEST_LINE = 1_000_000
"""Bytes of one line of input; a longer one is an error, and the next line goes on."""


class Asked(msgspec.Struct, frozen=True):
    """A line of input in JSON; other fields are passed over."""

    reply: str
    mx: str | None = ""
    phase: str | None = ""
    provider: str | None = ""


@click.command()
@click.option(
    "--mail", is_flag=True, help="FILES are mails: bounces, abuse reports, answers (- = standard input)."
)
@click.option(
    "--cluster", is_flag=True, help="Group the replies in FILES that no rule knows, for review (- = input)."
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines: what is printed anyhow but for --cluster.")
@click.argument("files", nargs=-1)
def classify(mail: bool, cluster: bool, as_json: bool, files: tuple[str, ...]) -> None:
    """What SMTP replies mean: replies on standard input, one a line; or mails that came back, in FILES.

    A line is the reply as it came, or JSON with "reply" and, where known, "mx" (the host that said it),
    "phase" (connect, ehlo, starttls, mail, rcpt, data, dot) and "provider". Each answer is one line of
    JSON: class, scope, permanence, action, rule; for a mail: file, kind (bounce, delayed, complaint,
    unsubscribe, auto_reply, none) and recipients, each with its address, status, reply and these fields.

    action is one of suppress (bad address), soft (counts in the window), retry (transient), slow (the lane
    or the recipient is too fast), hold (block, policy, content or our own fault), complaint, unsubscribe,
    none.

    --cluster counts the replies whose wording no rule knows (only their code decided), with addresses, hosts,
    numbers and ids masked: what to write rules for, the most frequent first.

    \b
    Example: echo '550 5.1.1 No such user' | mailsluice classify
             echo '{"mx": "mx1.example.org", "phase": "rcpt", "reply": "452 4.2.2 Full"}' | mailsluice classify
             mailsluice classify --mail bounce.eml complaint.eml
             mailsluice classify --cluster replies.txt
    Exit code: 0 all was read; 1 some lines or files were not (standard error says which); 2 wrong usage.
    """
    if mail and cluster:
        raise click.UsageError("--cluster groups replies, not mails; leave one of the two out")
    if files and not mail and not cluster:
        raise click.UsageError("files are read with --mail or --cluster; replies come on standard input")
    if mail and not files:
        raise click.UsageError("--mail needs at least one FILE (- for standard input)")
    rules = load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))
    if cluster:
        good = _cluster(rules, files or ("-",), as_json)
    else:
        good = _mails(rules, files) if mail else _replies(rules, sys.stdin.buffer)
    sys.exit(0 if good else 1)


def _replies(rules: Rules, source: IO[bytes]) -> bool:
    """Answer line by line; whether every line could be read."""
    good, out = True, sys.stdout.buffer
    # Somebody may sit at the other end of a pipe; a file is answered in blocks.
    at_once = not stat.S_ISREG(os.fstat(source.fileno()).st_mode) if _has_fileno(source) else True
    for number, line in numbered_lines(source, LONGEST_LINE):
        try:
            asked = _asked(line)
        except ValueError as error:
            click.echo(f"line {number}: {error}", err=True)
            good = False
            continue
        if asked is None:
            continue
        out.write(orjson.dumps(fields_of(_meaning(rules, asked))) + b"\n")
        if at_once:
            out.flush()
    out.flush()
    return good


def _cluster(rules: Rules, files: tuple[str, ...], as_json: bool) -> bool:
    """Print the groups of what no rule knows; whether all could be read. Keeps the groups, not the lines."""
    groups, good = Groups(), True
    for name in files:
        try:
            with click.open_file(name, "rb") as source:
                good = _into(groups, rules, name, source) and good
        except OSError as error:
            click.echo(f"{name}: {error.strerror or error}", err=True)
            good = False
    for group in groups:
        if as_json:
            click.echo(orjson.dumps(asdict(group)))
        else:
            code = f"{group.code} {group.enhanced}".strip() or "no code"
            click.echo(f"{group.count:>7}  {code:<12} {group.action:<9} {group.text or '(no text)'}")
    over = f", {groups.over} in more wordings than are kept apart" if groups.over else ""
    click.echo(f"{groups.unclassified} of {groups.seen} replies are known to no rule{over}", err=True)
    return good


def _into(groups: Groups, rules: Rules, name: str, source: IO[bytes]) -> bool:
    good = True
    for number, line in numbered_lines(source, LONGEST_LINE):
        try:
            asked = _asked(line)
        except ValueError as error:
            click.echo(f"{name}: line {number}: {error}", err=True)
            good = False
            continue
        if asked is not None:
            groups.add(asked.reply, _meaning(rules, asked))
    return good


def _meaning(rules: Rules, asked: Asked) -> Meaning:
    return meaning_of(
        rules, asked.reply, mx=asked.mx or "", phase=asked.phase or "", provider=asked.provider or ""
    )


def _asked(line: bytes | None) -> Asked | None:
    """What a line asks; None for an empty one. Raises ValueError with what is wrong."""
    if line is None:
        raise ValueError(f"it has more than {LONGEST_LINE} bytes")
    if not line.strip():
        return None
    if not line.lstrip().startswith(b"{"):
        return Asked(line.decode("utf-8", "replace").rstrip("\r\n"))
    try:
        return msgspec.convert(orjson.loads(line), Asked)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it begins with {{ but is no JSON: {error}") from None
    except msgspec.ValidationError as error:
        raise ValueError(f'it should be {{"reply": ..., "mx": ..., "phase": ...}}: {error}') from None


def _mails(rules: Rules, files: tuple[str, ...]) -> bool:
    good = True
    for name, found in answers(rules, files):
        if isinstance(found, OSError):
            click.echo(f"{name}: {found.strerror or found}", err=True)
            good = False
        else:
            click.echo(orjson.dumps(found))
    return good


def _has_fileno(source: IO[bytes]) -> bool:
    try:
        source.fileno()
    except OSError:  # a test's
        return False
    return True

"""``mailsluice classify``: what SMTP replies, bounces and abuse reports mean, one JSON line each."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from importlib import resources
from typing import BinaryIO

import click
import msgspec
import orjson

from schemas.reply import Rules, load_rules
from schemas.reply import classify as meaning_of
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
@click.option("--json", "_json", is_flag=True, help="JSON lines: what is printed anyhow.")
@click.argument("files", nargs=-1)
def classify(mail: bool, _json: bool, files: tuple[str, ...]) -> None:
    """What SMTP replies mean: replies on standard input, one a line; or mails that came back, in FILES.

    A line is the reply as it came, or JSON with "reply" and, where known, "mx" (the host that said it),
    "phase" (connect, ehlo, starttls, mail, rcpt, data, dot) and "provider". Each answer is one line of
    JSON: class, scope, permanence, action, rule; for a mail: file, kind (bounce, delayed, complaint,
    unsubscribe, auto_reply, none) and recipients, each with its address, status, reply and these fields.

    action is one of suppress (bad address), soft (counts in the window), retry (transient), slow (the lane
    or the recipient is too fast), hold (block, policy, content or our own fault), complaint, unsubscribe,
    none.

    \b
    Example: echo '550 5.1.1 No such user' | mailsluice classify
             echo '{"mx": "mx1.example.org", "phase": "rcpt", "reply": "452 4.2.2 Full"}' | mailsluice classify
             mailsluice classify --mail bounce.eml complaint.eml
    Exit code: 0 all was read; 1 some lines or files were not (standard error says which); 2 wrong usage.
    """
    if files and not mail:
        raise click.UsageError("files are read with --mail; replies come on standard input")
    if mail and not files:
        raise click.UsageError("--mail needs at least one FILE (- for standard input)")
    rules = load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))
    good = _mails(rules, files) if mail else _replies(rules, sys.stdin.buffer)
    sys.exit(0 if good else 1)


def _replies(rules: Rules, source: BinaryIO) -> bool:
    """Answer line by line; whether every line could be read."""
    good, out = True, sys.stdout.buffer
    # Somebody may sit at the other end of a pipe; a file is answered in blocks.
    at_once = not stat.S_ISREG(os.fstat(source.fileno()).st_mode) if _has_fileno(source) else True
    for number, line in _lines(source):
        try:
            asked = _asked(line)
        except ValueError as error:
            click.echo(f"line {number}: {error}", err=True)
            good = False
            continue
        if asked is None:
            continue
        said = meaning_of(
            rules, asked.reply, mx=asked.mx or "", phase=asked.phase or "", provider=asked.provider or ""
        )
        out.write(orjson.dumps(fields_of(said)) + b"\n")
        if at_once:
            out.flush()
    out.flush()
    return good


def _lines(source: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(number, line), None for a line that is too long."""
    number = 0
    while line := source.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) <= LONGEST_LINE:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = source.readline(LONGEST_LINE)
        yield number, None


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


def _has_fileno(source: BinaryIO) -> bool:
    try:
        source.fileno()
    except OSError:  # a test's
        return False
    return True

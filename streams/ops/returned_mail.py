"""``mailsluice classify --mail``: what mails that came back mean, one JSON object a file.

Nothing is verified here: the command has no secret and no memory of what was sent. In the pipeline a report
counts only with a token of ours, or for a mail that we remember (``agents.classify``).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from agents.classify.dsn import LARGEST, Recipient, Report, parse_mail
from agents.classify.returns import meaning_of
from schemas.reply import Meaning, Rules, classify

_TOKEN = re.compile(rb"(?<![\w.+-])[bu]-([0-9a-f]{32})[0-9a-f]{20}@", re.IGNORECASE)


def read(name: str) -> bytes:
    """A message from a file, - for standard input: as much of it as is looked at. Raises OSError."""
    if name == "-":
        return sys.stdin.buffer.read(LARGEST)
    with Path(name).open("rb") as file:
        return file.read(LARGEST)


def judged(rules: Rules, raw: bytes) -> dict[str, Any]:
    """``kind``, ``recipients`` and, where a token of ours stands in it, the id of the ``mail`` it is about."""
    report = parse_mail(raw)
    said = list(meanings(rules, report))
    found: dict[str, Any] = {
        "kind": kind_of(report),
        "recipients": [_fields(who, mean) for who, mean in said],
    }
    if report.kind in ("dsn", "arf", "unsubscribe") and (token := _TOKEN.search(raw)):
        found["mail"] = token.group(1).decode().lower()
    return found


def kind_of(report: Report) -> str:
    """bounce, delayed, complaint, unsubscribe, auto_reply or none."""
    if report.kind == "dsn":
        actions = {who.action for who in report.recipients}
        return "bounce" if "failed" in actions else "delayed" if "delayed" in actions else "none"
    if report.kind == "arf" and report.complaint:
        return (
            "complaint" if report.complaint.counts else "unsubscribe" if report.complaint.leaves else "none"
        )
    return report.kind if report.kind in ("unsubscribe", "auto_reply") else "none"


def meanings(rules: Rules, report: Report) -> Iterator[tuple[Recipient, Meaning]]:
    """What a mail that came back says of each recipient."""
    if report.kind == "arf" and report.complaint:
        yield Recipient(report.complaint.recipient, ""), _complaint(report)
    elif report.kind == "unsubscribe":
        yield (
            Recipient(report.sender, ""),
            Meaning("unsubscribe", "address", "permanent", "unsubscribe", "mailto"),
        )
    meaning = partial(_meaning, rules)
    for who in report.recipients:
        if who.action in ("failed", "delayed"):
            yield who, meaning_of(who, meaning)
        else:
            yield who, Meaning("accepted", "", "unknown", "none", f"dsn-{who.action}")


def _meaning(rules: Rules, reply: str, mx: str, provider: str) -> Meaning:
    return classify(rules, reply, mx=mx, provider=provider)


def _complaint(report: Report) -> Meaning:
    assert report.complaint is not None
    rule = f"arf-{report.complaint.feedback}"
    if report.complaint.counts:
        return Meaning("complaint", "address", "permanent", "complaint", rule)
    if report.complaint.leaves:
        return Meaning("unsubscribe", "address", "permanent", "unsubscribe", rule)
    return Meaning("feedback", "address", "unknown", "none", rule)


def _fields(who: Recipient, said: Meaning) -> dict[str, Any]:
    found: dict[str, Any] = {"address": who.address, "status": who.status, "reply": who.reply} | fields_of(
        said
    )
    if who.final:
        found["final"] = who.final
    return found


def fields_of(said: Meaning) -> dict[str, Any]:
    """A meaning as the command prints it."""
    found: dict[str, Any] = {
        "class": said.klass,
        "scope": said.scope,
        "permanence": said.permanence,
        "action": said.action,
        "rule": said.rule,
    }
    if said.names:
        found["names"] = dict(said.names)
    return found


def answers(rules: Rules, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | OSError]]:
    """(file, what it is, or why it could not be read), file by file."""
    for name in names:
        try:
            raw = read(name)
        except OSError as error:
            yield name, error
            continue
        yield name, {"file": name} | judged(rules, raw)

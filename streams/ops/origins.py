"""Where a send or a dead letter was first received: what the audit, the trace and a replay go by. Pure."""

from __future__ import annotations

from schemas.codec import Headers, Record
from schemas.identity import origin_of
from schemas.mail import base_topic
from schemas.replay import Replays, claims


class NoSecret(Exception):
    """Records say that they are replays, and without MAILSLUICE_SECRET nobody can tell whether they are."""


def origin_of_send(record: Record, replays: Replays | None) -> tuple[str, bool]:
    """(origin of a record of ``mail-sends``, whether it comes again). Raises NoSecret.

    What is forged counts as a send of its own: enqueue rejects it.
    """
    own = origin_of(record.topic, record.partition, record.offset, record.timestamp)
    if not claims(record):
        return own, False
    if replays is None:
        raise NoSecret(
            f"{record.topic}/{record.partition}@{record.offset} says that it is a dead letter that was replayed: "
            "set MAILSLUICE_SECRET as for the workers, to tell whether it is"
        )
    found = replays.origin(record)
    return (found, True) if found else (own, False)


def as_it_came(letter: Record) -> Record:
    """The record that a dead letter was: its place and headers. -1 for a number that is missing."""
    headers = {name: value for name, value in letter.headers.items() if not name.startswith("dlq_")}
    partition, offset, at = (_int(letter.headers, f"dlq_{n}") for n in ("partition", "offset", "timestamp"))
    return Record(letter.text("dlq_topic"), partition, offset, at, letter.key, letter.value, headers)


def origin_of_letter(letter: Record, replays: Replays | None) -> str:
    """The origin of a dead letter. A header ``origin`` on an outsiders' topic is an outsider's word. Raises
    NoSecret."""
    was = as_it_came(letter)
    if base_topic(was.topic) == "mail-sends":
        return origin_of_send(was, replays)[0]
    return was.text("origin") or origin_of(was.topic, was.partition, was.offset, was.timestamp)


def _int(headers: Headers, name: str) -> int:
    try:
        return int(headers.get(name, b"-1"))
    except ValueError:
        return -1

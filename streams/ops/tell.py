"""One record as a line of a message's story: when, where it was read, what it says in plain words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from schemas.codec import Headers, Record
from schemas.identity import origin_of
from schemas.mail import base_topic
from streams.ops.ask import clean, utc

ORDER = (
    "mail-sends",
    "mail-enqueued",
    "mail-screened",
    "mail-rendered",
    "mail-lane",
    "mail-wait",
    "mail-outcomes",
)
"""Topics in the order in which mail passes, for records of the same millisecond."""
ECHOES = frozenset(("delivered", "deferred", "bounced", "expired", "cancelled", "unknown"))
"""Kinds of event that repeat an entry of the journal, where they name an attempt."""


@dataclass
class Item:
    """One record of the story. ``echo``: an event that only repeats what the journal says."""

    time: float
    topic: str
    partition: int
    offset: int
    what: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    echo: bool = False

    @property
    def rank(self) -> tuple[float, int, int]:
        """For sorting: by time, then as mail passes."""
        place = next((i for i, topic in enumerate(ORDER) if self.topic.startswith(topic)), len(ORDER))
        return (self.time, place, self.offset)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        where = {"time": self.time, "topic": self.topic, "partition": self.partition, "offset": self.offset}
        return {**where, "what": self.what, "text": self.text, **self.facts}

    def line(self) -> str:
        """For people."""
        return f"{utc(self.time, 'milliseconds')}  {self.what:<12} {self.text}".rstrip()


def tell(record: Record) -> Item:
    """The item of a record of any topic that mail passes. Values that cannot be read are told as such."""
    topic = base_topic(record.topic)
    if topic == "mail-sends":
        what, text, facts = "received", *_send(record)
    elif topic.endswith("dlq"):
        what, text, facts = "dead letter", *_dead(record.headers)
    elif topic == "mail-outcomes":
        found = fields(record)
        item = _item(record, *_outcome(found))
        item.time = float(found.get("time") or item.time)
        return item
    elif topic == "mail-events":
        return _event(record)
    else:
        what, text, facts = _flow(topic, record)
    return _item(record, what, text, facts)


def _item(record: Record, what: str, text: str, facts: dict[str, Any]) -> Item:
    at = record.timestamp / 1000
    return Item(at, record.topic, record.partition, record.offset, what, clean(text, 600), facts)


def fields(record: Record) -> dict[str, Any]:
    """The value as a JSON object; empty where it is none."""
    try:
        found = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def text_in(said: Mapping[str, Any], name: str, default: str = "") -> str:
    """What an outsider's JSON says under ``name``; what is no text says nothing (str() of deep lists raises)."""
    found = said.get(name)
    return found if isinstance(found, str) else default


def _send(record: Record) -> tuple[str, dict[str, Any]]:
    found = fields(record)
    origin = origin_of(record.topic, record.partition, record.offset, record.timestamp)
    campaign, key = text_in(found, "campaign", "?"), text_in(found, "key")
    key = f", idempotency key {key}" if key else ""
    return f"a send of campaign {campaign}{key}; origin {origin}", {"origin": origin, "campaign": campaign}


def _dead(headers: Headers) -> tuple[str, dict[str, Any]]:
    facts = {
        name: _header(headers, f"dlq_{name}")
        for name in ("stage", "reason", "detail", "topic", "partition", "offset")
    }
    where = f"{facts['topic']}/{facts['partition']}@{facts['offset']}"
    return f"{facts['stage']} could not work on {where}: {facts['reason']}: {facts['detail']}", {
        "dead": facts
    }


def _outcome(found: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    state = str(found.get("state", "?"))
    parts = [f"attempt {found.get('attempt', '?')}"]
    if found.get("source"):
        parts.append(f"{found['source']} to {found.get('mx') or found.get('provider', '?')}")
    if found.get("seconds"):
        parts.append(f"{found['seconds']:.2f} s")
    if found.get("tls"):
        parts.append(str(found["tls"]))
    if state != "delivered" and (found.get("klass") or found.get("reason")):
        why = " ".join(str(found[name]) for name in ("klass", "action", "reason") if found.get(name))
        parts.append(f"{why} (rule {found['rule']})" if found.get("rule") else why)
    if found.get("next_at"):
        parts.append(f"again at {utc(found['next_at'])}")
    reply = (
        f": {found['phase'] + ' ' if found.get('phase') else ''}{found['reply']}"
        if found.get("reply")
        else ""
    )
    return state, ", ".join(parts) + reply, {"outcome": found}


def _event(record: Record) -> Item:
    found = fields(record)
    kind = str(found.get("kind", "?"))
    parts = [str(found[name]) for name in ("reason", "detail", "url") if found.get(name)]
    if found.get("machine"):
        parts.append("by a machine")
    if found.get("reply"):
        parts.append(str(found["reply"]))
    item = _item(record, kind, ", ".join(parts), {"event": found})
    item.time = float(found.get("time") or item.time)
    repeats = bool(found.get("attempt")) and kind in ECHOES and found.get("reason") != "late_dsn"
    item.echo = repeats or kind == "queued"
    return item


def _flow(topic: str, record: Record) -> tuple[str, str, dict[str, Any]]:
    headers = record.headers
    attempt = _header(headers, "attempt") or "1"
    facts: dict[str, Any] = {"attempt": attempt}
    size = f"{len(record.value or b''):,} bytes"
    if topic.startswith("mail-wait-"):
        due = _number(headers, "due")
        facts |= {"due": due, "next": _header(headers, "next")}
        until = f"until {utc(due)}, then" if due else "then"
        return "waits", f"{until} {facts['next']} as attempt {attempt} (rung {topic[10:]})", facts
    if headers.get("type") == b"verdict":
        facts |= {name: _header(headers, name) for name in ("outcome", "reason", "detail")}
        detail = f": {facts['detail']}" if facts["detail"] else ""
        return _stage(topic), f"ends unsent as {facts['outcome']}: {facts['reason']}{detail}", facts
    lane = _header(headers, "lane")
    facts["lane"] = lane
    if topic == "mail-enqueued":
        host = f"; its domain takes no mail ({_header(headers, 'host')})" if "host" in headers else ""
        expires = _number(headers, "expires")
        until = f", expires {utc(expires)}" if expires else ""
        return "enqueued", f"for lane {lane or '?'}{until}{host}", facts
    if topic == "mail-screened":
        return "screened", "may go out", facts
    if topic == "mail-rendered":
        return "rendered", size, facts
    signed = f"signed by {_header(headers, 'dkim')}, " if "dkim" in headers else ""
    return "on its lane", f"{signed}{size}, attempt {attempt}, {topic}", facts


def _stage(topic: str) -> str:
    return "verdict" if topic.startswith("mail-lane-") else topic.removeprefix("mail-")


def _header(headers: Headers, name: str) -> str:
    return headers.get(name, b"").decode("utf-8", "replace")


def _number(headers: Headers, name: str) -> float:
    try:
        return float(headers.get(name, b"0"))
    except ValueError:
        return 0.0

"""Records gathered into the stories of messages: which belong together, and how each ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agents.deliver.row import newer, read_row, reduce_outcome
from schemas.address import normalise
from schemas.codec import Malformed, Record
from schemas.identity import mail_id, origin_of
from schemas.mail import base_topic
from schemas.replay import Replays
from streams.ops.origins import NoSecret, as_it_came, origin_of_send
from streams.ops.tell import Item, fields, tell, text_in

NAMES = ("to", "tenant", "campaign", "origin", "lane", "provider")
JSON_TOPICS = ("mail-outcomes", "mail-events")
"""Topics whose records say in their value what others say in headers."""
NO_MAIL = "-"
"""The id under which stands what was said about an address, not about a mail: blocked, consented ..."""


@dataclass
class Mail:
    """One message: its records in time order, and what they say about it."""

    id: str
    items: list[Item] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    row: bytes = b""
    """Gate two's word."""

    @property
    def end(self) -> str:
        """How it ended, or ``pending``. As the audit counts: a DSN overrules a 250, gate two the rest."""
        if self.id == NO_MAIL:
            return "said about the address"
        events = [item.facts["event"] for item in self.items if "event" in item.facts]
        if any(event.get("reason") == "late_dsn" for event in events):
            return "bounced"
        if self.row and read_row(self.row).terminal:
            return read_row(self.row).state
        ends = [str(event["kind"]) for event in events if event.get("terminal") and not event.get("attempt")]
        if ends:
            return ends[-1]
        if self.items[-1].what == "dead letter":
            return "dead_lettered"
        return "unknown" if self.row and read_row(self.row).state == "unknown" else "pending"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        records = [item.as_dict() for item in self.items]
        return {"id": self.id, **self.names, "end": self.end, "records": records}


def address_of(send: Record) -> str:
    """The normalised address of a send; empty where it has none."""
    try:
        return normalise(text_in(fields(send), "to")).key
    except Malformed:
        return ""


def place_of(send: Record) -> str:
    """Where a record of mail-sends lies: the origin of a send that does not come again."""
    return origin_of(send.topic, send.partition, send.offset, send.timestamp)


def send_origin(send: Record, replays: Replays | None = None) -> str:
    """The origin of a record of mail-sends: of a dead letter that was replayed, that of the send that it was. Without
    ``replays`` nobody can tell."""
    try:
        return origin_of_send(send, replays)[0]
    except NoSecret:
        return place_of(send)


def id_of(send: Record, origin: str) -> str:
    """The id of the mail that a send asks for."""
    said = fields(send)
    return mail_id(text_in(said, "tenant", "default"), text_in(said, "key") or None, address_of(send), origin)


def dead_origin(letter: Record, replays: Replays | None = None) -> str:
    """The origin of a dead letter: its header, or that of the send which it is itself."""
    was = as_it_came(letter)
    return send_origin(was, replays) if base_topic(was.topic) == "mail-sends" else was.text("origin")


def names_of(record: Record, replays: Replays | None = None) -> tuple[str, dict[str, str]]:
    """(id of the mail, what the record says of it by NAMES)."""
    if record.topic in JSON_TOPICS:
        said = fields(record)
        id = str(said.get("id", ""))
        if record.topic == "mail-events":
            # A confirmed subscription names the event that it confirms.
            id = NO_MAIL if said.get("asked") else str(said.get("mail") or NO_MAIL)
    else:
        said = {name: record.text(name) for name in NAMES}
        id = record.text("id")
    if record.topic.endswith("dlq"):
        said["origin"] = dead_origin(record, replays)
    return id, {name: str(said[name]) for name in NAMES if said.get(name)}


def gather(sends: Iterable[Record], records: Iterable[Record], replays: Replays | None = None) -> list[Mail]:
    """The mails that the records tell of, oldest first. A send belongs to the mail of its origin."""
    mails: dict[str, Mail] = {}
    by_origin: dict[str, str] = {}
    named = [(*names_of(record, replays), record) for record in records]
    for id, names, _ in named:
        if id and names.get("origin"):
            by_origin[names["origin"]] = id
    for id, names, record in named:
        key = id or by_origin.get(names.get("origin", ""), names.get("origin", "?"))
        mail = mails.setdefault(key, Mail(key))
        mail.names = names | mail.names
        mail.items.append(tell(record))
        if record.topic == "mail-outcomes":
            row, _until = reduce_outcome(record.value or b"")
            mail.row = row if not mail.row or newer(mail.row, row) else mail.row
    for send in sends:
        origin = send_origin(send, replays)
        mail = mails.setdefault(by_origin.get(origin, origin), Mail(by_origin.get(origin, origin)))
        said = {"origin": origin, "to": address_of(send), "campaign": text_in(fields(send), "campaign")}
        mail.names = said | mail.names
        mail.items.append(tell(send))
    for mail in mails.values():
        mail.items.sort(key=lambda item: item.rank)
    return sorted(mails.values(), key=lambda mail: mail.items[0].rank)

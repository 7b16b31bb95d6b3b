"""A mail at work in deliver: what its record says, and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agents import Reject, Ticket
from agents.deliver.attempt import Attempt
from schemas.hosts import MailHosts
from schemas.mail import NOW

if TYPE_CHECKING:
    from agents.deliver.feed import Feed
    from agents.deliver.smtp import Session


class Mail:
    """One mail between its record and its outcome. Implements ``agents.deliver.attempt.Job``.

    ``stage``: waiting, sending, ended, gone (its partition is not ours any more, or it waits on the ladder).
    """

    __slots__ = (
        "attempt",
        "began",
        "body",
        "campaign",
        "intended",
        "dkim",
        "domain",
        "epoch",
        "expires",
        "feed",
        "hosts",
        "id",
        "mail_from",
        "on_done",
        "on_late",
        "on_may_dot",
        "on_may_start",
        "once",
        "origin",
        "partition",
        "provider",
        "queued",
        "rcpt",
        "received",
        "session",
        "source",
        "stage",
        "stream",
        "tenant",
        "ticket",
        "ticket_done",
        "to",
        "topic",
        "urgent",
    )

    def __init__(self, ticket: Ticket, epoch: int, now: float) -> None:
        """Reads the record's headers. Raises Reject where the envelope is broken."""
        record = ticket.record
        headers = record.headers
        try:
            self.id = headers["id"].decode()
            self.to = headers["to"].decode()
            self.origin = headers["origin"].decode()
        except (KeyError, UnicodeDecodeError) as error:
            raise Reject("bad_envelope", f"header {error} is missing or unreadable") from None
        self.ticket = ticket
        self.epoch = epoch
        self.queued = now
        self.began = 0.0
        self.rcpt = record.text("rcpt") or self.to
        self.domain = self.to.rpartition("@")[2]
        self.mail_from = record.text("return_path")
        self.body = record.value or b""
        self.attempt = max(1, int(record.number("attempt", 1)))
        self.expires = record.number("expires")
        self.received = record.number("received")
        self.tenant = record.text("tenant", "default")
        self.campaign = record.text("campaign")
        self.stream = record.text("stream", "marketing")
        self.dkim = record.text("dkim")
        self.once = headers.get("guarantee") == b"at_most_once"
        self.partition = record.partition
        self.topic = record.topic
        self.urgent = record.topic.endswith(NOW)
        self.provider = record.text("provider")
        self.hosts: MailHosts | None = None
        self.source = ""
        self.stage = "waiting"
        self.intended = False
        self.ticket_done = False
        self.feed: Feed | None = None
        self.session: Session | None = None
        self.on_done: Callable[[Mail, Attempt], None]
        self.on_late: Callable[[Mail, Attempt], None]
        self.on_may_start: Callable[[Mail], bool]
        self.on_may_dot: Callable[[Mail], bool]

    def may_start(self) -> bool:
        """Asked just before MAIL."""
        return self.on_may_start(self)

    def may_dot(self) -> bool:
        """Asked just before the final dot."""
        return self.on_may_dot(self)

    def done(self, attempt: Attempt) -> None:
        """The attempt ended."""
        self.on_done(self, attempt)

    def late(self, attempt: Attempt) -> None:
        """The reply came after all."""
        self.on_late(self, attempt)

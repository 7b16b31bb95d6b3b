"""A mail at work in deliver: what its record says, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from agents import Reject, Ticket
from agents.deliver.attempt import Attempt
from agents.deliver.requirement import OPPORTUNISTIC, Requirement
from schemas.codec import Record
from schemas.cohort import NEW, SILENT
from schemas.hosts import MailHosts
from schemas.mail import NOW, VERDICTS, is_verdict

if TYPE_CHECKING:
    from agents.deliver.feed import Feed
    from agents.deliver.smtp import Session


_COHORTS = {b"%d" % cohort: cohort for cohort in range(SILENT + 1)}
MOST_ATTEMPTS = 1_000_000
LATEST = 1e11
"""Unix seconds beyond which no time is meant (the year 5138)."""


class Mail:
    """One mail between its record and its outcome. Implements ``agents.deliver.attempt.Job``.

    ``shared``: its lane is, so it must not hold the lane's window. ``stage``: waiting, intent (its intent is being journaled), sending, ended, gone (its partition is not
    ours any more, or it waits on the ladder). ``sources``: those it may leave by; empty: any. ``author``: the address in its From field, where known. ``gave_way``: how often it was broken off for
    transactional mail. ``cohort``: how engaged its
    recipient is, 0 (clicked lately) to 4, -1 for transactional mail; ``rank``: the same while its lane is in
    warm-up, else 0. ``rest``: it waits where its campaign's canary has not passed. ``verdict``: the outcome that a verdict names, else empty.
    """

    __slots__ = (
        "attempt",
        "author",
        "barred",
        "began",
        "body",
        "campaign",
        "cohort",
        "intended",
        "last",
        "dkim",
        "domain",
        "epoch",
        "expires",
        "feed",
        "gave_way",
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
        "prefers",
        "provider",
        "queued",
        "rank",
        "rcpt",
        "received",
        "requires",
        "rest",
        "session",
        "shared",
        "site",
        "source",
        "sources",
        "stage",
        "stream",
        "tenant",
        "ticket",
        "ticket_done",
        "to",
        "topic",
        "urgent",
        "verdict",
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
        if not (self.id and self.to):
            raise Reject("bad_envelope", "header id or to is empty")
        self.verdict = _verdict(record)
        self.ticket = ticket
        self.epoch = epoch
        self.queued = now
        self.began = 0.0
        self.gave_way = 0
        self.rcpt = record.text("rcpt") or self.to
        self.domain = self.to.rpartition("@")[2]
        self.mail_from = record.text("return_path")
        self.body = record.value or b""
        self.attempt = _attempt(record)
        self.expires = _between(record, "expires", 0, LATEST)
        self.received = _between(record, "received", 0, LATEST)
        self.tenant = record.text("tenant", "default")
        self.campaign = record.text("campaign")
        self.stream = record.text("stream", "marketing")
        self.dkim = record.text("dkim")
        self.author = record.text("author")
        # Screened before there were any: new.
        self.cohort = _COHORTS.get(headers.get("cohort", b""), NEW) if self.stream == "marketing" else -1
        self.rank = 0
        self.last = record.text("reply")
        self.prefers = record.text("from")
        self.barred: tuple[str, ...] = ()
        self.rest = "canary" in headers
        self.once = headers.get("guarantee") == b"at_most_once"
        self.partition = record.partition
        self.topic = record.topic
        self.urgent = record.topic.endswith(NOW)
        self.shared = "-lane-other-" in record.topic
        self.provider = record.text("provider")
        self.hosts: MailHosts | None = None
        self.requires: tuple[Requirement, ...] = ()
        self.site: Hashable = ()
        self.source = ""
        self.sources = tuple(filter(None, record.text("sources").split(",")))
        self.stage = "waiting"
        self.intended = False
        self.ticket_done = False
        self.feed: Feed | None = None
        self.session: Session | None = None
        self.on_done: Callable[[Mail, Attempt], None]
        self.on_late: Callable[[Mail, Attempt], None]
        self.on_may_start: Callable[[Mail], bool]
        self.on_may_dot: Callable[[Mail], bool]

    def goes_to(self, hosts: MailHosts, requires: tuple[Requirement, ...]) -> None:
        """``requires``: for each of the hosts, or empty where all are opportunistic.

        ``site`` is what its connections may be shared by: equal hosts that have to show the same."""
        self.hosts, self.requires = hosts, requires
        self.site = (hosts.names, requires) if requires else hosts.names

    def requirement(self, n: int) -> Requirement:
        """Of the host at ``n``."""
        return self.requires[n] if self.requires else OPPORTUNISTIC

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


def _between(record: Record, name: str, least: float, most: float, default: float = 0.0) -> float:
    found = record.number(name, default)
    if not least <= found <= most:
        raise Reject("bad_header", f"header {name} is {found:g}, not between {least:g} and {most:g}")
    return found


def _attempt(record: Record) -> int:
    found = _between(record, "attempt", 1, MOST_ATTEMPTS, 1)
    if found != int(found):
        raise Reject("bad_header", f"header attempt is {found:g}, no whole number")
    return int(found)


def _verdict(record: Record) -> str:
    if is_verdict(record):
        outcome = record.text("outcome")
        if outcome not in VERDICTS:
            raise Reject("bad_verdict", f"header outcome is {outcome[:40]!r}, which ends no mail")
        return outcome
    if record.headers.get("type") != b"mail":
        raise Reject("unknown_type", f"no mail and no verdict but {record.text('type')[:40]!r}")
    if not record.value:
        raise Reject("empty", "a mail without a body")
    return ""

"""Whether the promise was kept: judged from the providers' records and the topics, not from what we say.

The promise (README): nothing is lost; what may be sent twice is at most the messages that, at a crash,
were between their final dot and the broker's acknowledgement of their outcome, or whose reply never came;
nobody gets mail once their suppression is known. Pure: the records come in as ``Books``.

What is allowed, and why:

- A *flight* begins when the provider took the message and ends when the first outcome of the message
  that says so (delivered or unknown) was appended to the journal (LogAppendTime). A copy too many is
  explained if the flight of the take before it covers a *moment*: a crash of the very worker that had sent
  it (each sends from an address of its own) or of the broker, that the run caused or that followed from
  it (a worker that ended by itself because the broker was away). A SIGTERM is no moment.
- A moment of a kill lasts until the process is gone and SETTLE seconds more: what it had written to its
  sockets is still read by the provider after its death.
- Mail may begin (MAIL) up to KNOWN seconds after a suppression was appended: the design lets deliver work
  with suppressions read to their end up to 2 s ago; one second more is for what lay in a socket, and for
  the clocks of three processes. A message whose MAIL was before that may end.
- The same after a campaign's cancellation was acknowledged, where CANCELLED seconds are allowed: the
  campaigns are followed without a bound on their freshness.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from schemas.suppression import Suppression

SETTLE = 1.0
KNOWN = 3.0
CANCELLED = 5.0
SKEW = 0.005
"""Seconds by which the append time, whole milliseconds, may seem to lie before what caused it."""
TOOK = frozenset({"delivered", "unknown"})
"""Outcomes of an attempt that the provider may have taken."""
EVENTS_OF = {
    "open": "opened",
    "prefetch": "opened",
    "click": "clicked",
    "unsubscribe": "unsubscribed",
    "complaint": "complained",
    "dsn": "bounced",
}
"""What an edge answered with success -> the kind of event that must follow."""


class Sent(NamedTuple):
    """What was asked for: the mail of one id."""

    to: str
    campaign: str
    tenant: str = "default"
    stream: str = "marketing"


class Took(NamedTuple):
    """A message that a provider took. ``at``: its MAIL, ``time``: recorded; Unix seconds. ``source``: the
    address that it came from, which tells the worker."""

    id: str
    rcpt: str
    at: float
    time: float
    replied: bool = True
    source: str = ""


class Ended(NamedTuple):
    """An outcome in the journal. ``appended``: LogAppendTime, Unix seconds."""

    id: str
    state: str
    appended: float
    reason: str = ""


class Event(NamedTuple):
    """A public event."""

    kind: str
    mail: str
    time: float
    to: str = ""
    reason: str = ""
    attempt: int = 0


class Row(NamedTuple):
    """A write to the suppressions."""

    appended: float
    row: Suppression


class Moment(NamedTuple):
    """When something crashed, from the blow until its consequences were over; Unix seconds. ``source``: the
    worker's address, empty where all workers were struck (the broker)."""

    start: float
    end: float
    what: str = ""
    source: str = ""


@dataclass
class Books:
    """Everything that the judgement needs. Counts by end come from ``streams.ops.audit``."""

    received: int = 0
    ends: Mapping[str, int] = field(default_factory=dict)
    missing: Sequence[str] = ()
    """Acknowledged sends that their topic does not hold."""
    sent: Mapping[str, Sent] = field(default_factory=dict)
    """By mail id."""
    took: Sequence[Took] = ()
    outcomes: Sequence[Ended] = ()
    events: Sequence[Event] = ()
    rows: Sequence[Row] = ()
    causes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Address -> reasons for which the world, or the run, gave cause to suppress it."""
    refused: frozenset[str] = frozenset()
    """Addresses of which a provider said once that they are bad (a 5xx, or a report later)."""
    acts: Sequence[tuple[str, str]] = ()
    """(what, mail id) that an edge answered with success."""
    moments: Sequence[Moment] = ()
    rolling: Sequence[tuple[float, float]] = ()
    """When nothing happened but restarts in order."""
    cancelled: Mapping[str, float] = field(default_factory=dict)
    """Campaign -> when its cancellation was acknowledged."""
    broken: frozenset[str] = frozenset()
    """Campaigns whose template the run broke for a while: their mail may be rejected."""


@dataclass
class Judgement:
    """``failed``: check -> what broke it (a sentence for people each). Kept only where that is empty."""

    lost: int = 0
    duplicates: int = 0
    explained: int = 0
    in_flight_at_kills: int = 0
    unreplied: int = 0
    failed: dict[str, list[str]] = field(default_factory=dict)

    def note(self, check: str, faults: Iterable[str]) -> None:
        """Add what breaks a check."""
        found = list(faults)
        if found:
            self.failed.setdefault(check, []).extend(found)


def judge(books: Books) -> Judgement:
    """All checks over the books."""
    found = Judgement()
    _lost(books, found)
    _twice(books, found)
    _suppressed(books, found)
    found.note("cancelled mail does not begin", _after_cancellation(books))
    found.note("what the edge took is an event", _forgotten(books))
    found.note("nobody bounced without a word of their provider", _bounced(books))
    return found


def _lost(books: Books, found: Judgement) -> None:
    taken = {took.id for took in books.took}
    claimed = sorted({o.id for o in books.outcomes if o.state == "delivered"} - taken)
    found.lost = books.ends.get("lost", 0) + len(books.missing) + len(claimed)
    lines = [f"{books.ends['lost']} received sends have no end"] if books.ends.get("lost") else []
    lines += [f"acknowledged, but not in its topic: {place}" for place in books.missing]
    lines += [f"delivered, we say, but no provider took {mail}" for mail in claimed]
    found.note("nothing is lost", lines)
    if books.ends.get("pending"):
        found.note("nothing is stuck", [f"{books.ends['pending']} sends are still pending"])
    if books.ends.get("dead_lettered"):  # no send of the load is wrong
        found.note("no good mail is refused", [f"{books.ends['dead_lettered']} dead-lettered"])
    rejected = {o.id for o in books.outcomes if o.state == "rejected"}
    excused = sum(books.sent[mail].campaign in books.broken for mail in rejected if mail in books.sent)
    if books.ends.get("rejected", 0) > excused:
        found.note("no good mail is refused", [f"{books.ends['rejected']} rejected, {excused} with a reason"])
    total = sum(books.ends.values())
    if total != books.received:
        found.note("the audit balances", [f"received {books.received}, ends {total}"])


class Flight(NamedTuple):
    """A take and how long nobody but its provider knew for certain."""

    took: Took
    until: float

    def covers(self, moments: Sequence[Moment]) -> bool:
        """Whether one of the moments lies in it."""
        return any(
            self.took.time <= m.end and self.until >= m.start and m.source in ("", self.took.source)
            for m in moments
        )


def flights(books: Books) -> dict[str, list[Flight]]:
    """The flights of each mail, in the order in which its provider took it."""
    known: dict[str, list[float]] = defaultdict(list)
    for outcome in books.outcomes:
        if outcome.state in TOOK:
            known[outcome.id].append(outcome.appended)
    for times in known.values():
        times.sort()
    found: dict[str, list[Flight]] = defaultdict(list)
    for took in sorted(books.took, key=lambda took: took.time):
        times = known.get(took.id, [])
        at = bisect_left(times, took.time - SKEW)
        found[took.id].append(Flight(took, times[at] if at < len(times) else float("inf")))
    return found


def _twice(books: Books, found: Judgement) -> None:
    unexplained, calm = [], []
    for mail, all_of_it in flights(books).items():
        found.in_flight_at_kills += any(flight.covers(books.moments) for flight in all_of_it)
        found.unreplied += sum(not flight.took.replied for flight in all_of_it)
        for flight, again in pairwise(all_of_it):
            found.duplicates += 1
            text = f"{mail} to {flight.took.rcpt} at {flight.took.time:.3f} and {again.took.time:.3f}"
            if flight.covers(books.moments) or not flight.took.replied:
                found.explained += 1
            else:
                unexplained.append(f"{text}; its outcome was known at {flight.until:.3f}")
            if any(start <= flight.took.time and again.took.time <= end for start, end in books.rolling):
                calm.append(text)
    found.note("duplicates only of what was in flight at a crash, or never answered", unexplained)
    found.note("a rolling restart repeats nothing", calm)
    found.note("one mail of a campaign to one address", _two_ids(books))


def _two_ids(books: Books) -> Iterable[str]:
    ids: dict[tuple[str, str], set[str]] = defaultdict(set)
    for took in books.took:
        sent = books.sent.get(took.id)
        if sent is None:
            yield f"a provider took {took.id} to {took.rcpt}, which nobody sent"
        elif sent.stream == "marketing":
            ids[sent.campaign, took.rcpt].add(took.id)
    for (campaign, rcpt), several in ids.items():
        if len(several) > 1:
            yield f"{rcpt} got {len(several)} mails of campaign {campaign}: {', '.join(sorted(several))}"


def _suppressed(books: Books, found: Judgement) -> None:
    found.note("nobody is suppressed without a cause", _without_cause(books))
    spans = _spans(books.rows)
    found.note("nobody gets mail once suppressed", _after_suppression(books, spans))
    found.note("who is told suppressed is", _told_suppressed(books, spans))


def _without_cause(books: Books) -> Iterable[str]:
    for appended, row in books.rows:
        if row.active and row.reason not in books.causes.get(row.to, ()):
            yield f"{row.to} is suppressed ({row.reason}) since {appended:.3f}"


class _Span(NamedTuple):
    start: float
    end: float
    row: Suppression


def _spans(rows: Iterable[Row]) -> dict[str, list[_Span]]:
    """Address -> when which of its suppressions was in force, by the log."""
    keys: dict[bytes, list[Row]] = defaultdict(list)
    for row in rows:
        keys[row.row.key].append(row)
    found: dict[str, list[_Span]] = defaultdict(list)
    for writes in keys.values():
        writes.sort(key=lambda write: write.appended)
        since: Row | None = None
        for write in writes:
            if write.row.active and since is None:
                since = write
            elif not write.row.active and since is not None:
                found[write.row.to].append(_Span(since.appended, write.appended, since.row))
                since = None
        if since is not None:
            found[since.row.to].append(_Span(since.appended, float("inf"), since.row))
    return found


def _after_suppression(books: Books, spans: Mapping[str, list[_Span]]) -> Iterable[str]:
    for took in books.took:
        sent = books.sent.get(took.id)
        for span in spans.get(sent.to, ()) if sent else ():
            late = span.start + KNOWN < took.at < span.end
            if late and sent and span.row.applies(sent.tenant, sent.stream, took.at):
                late_by = took.at - span.start
                yield f"{took.rcpt} got {took.id} {late_by:.1f} s after their {span.row.reason} was known"


def _told_suppressed(books: Books, spans: Mapping[str, list[_Span]]) -> Iterable[str]:
    for event in books.events:
        if event.kind != "suppressed" or event.reason in ("duplicate", "conflict"):
            continue
        mine = spans.get(event.to, ())
        if not any(span.start <= event.time + SKEW and span.row.reason == event.reason for span in mine):
            yield f"{event.to} at {event.time:.3f}: suppressed ({event.reason}), which no row says"


def _after_cancellation(books: Books) -> Iterable[str]:
    for took in books.took:
        sent = books.sent.get(took.id)
        known = books.cancelled.get(sent.campaign) if sent else None
        if known is not None and took.at > known + CANCELLED:
            yield f"{took.rcpt} got {took.id} of a campaign cancelled {took.at - known:.1f} s before"


def _forgotten(books: Books) -> Iterable[str]:
    known = {(event.kind, event.mail) for event in books.events}
    for what, mail in sorted(set(books.acts)):
        kind = EVENTS_OF.get(what)
        if kind and (kind, mail) not in known:
            yield f"{what} of {mail} was answered with success; no event {kind}"


def _bounced(books: Books) -> Iterable[str]:
    for outcome in books.outcomes:
        sent = books.sent.get(outcome.id)
        if outcome.state == "bounced" and sent and sent.to not in books.refused:
            yield f"{outcome.id} to {sent.to} ({outcome.reason})"

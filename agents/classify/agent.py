"""mail-outcomes, mail-inbound, mail-engagement -> mail-events, sums to mail-lane-reports, answers to mail-sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from agents import Out, Stage, Ticket
from agents.classify.book import Book
from agents.classify.dsn import Report, parse_mail, text_of
from agents.classify.feedback import Sums
from agents.classify.floods import Floods
from agents.classify.forward import Answer, Forwards
from agents.classify.mime import parts
from agents.classify.policy import Owner, Settings, of_engagement, of_outcome, owner_of
from agents.classify.returns import of_report
from agents.classify.tokens import ANSWERS, claimed_mail, is_about, named_mail, quoted_owner, writer
from schemas.codec import Malformed, Record, decode, encode, parse
from schemas.erasure import Erasure
from schemas.event import MailEvent, headers_of
from schemas.outcome import Outcome
from schemas.reply import Meaning, Rules, classify
from schemas.token import UNSUBSCRIBES, Tokens

STAGE = Stage(
    name="classify",
    question="What does this reply, report, click mean?",
    consumes=("mail-outcomes", "mail-inbound", "mail-engagement"),
    emits=("mail-events", "mail-lane-reports", "mail-inbound", "mail-sends", "mail-campaigns"),
    twins=False,
    state="a book of delivered mail; its truth is mail-outcomes",
    patience=0.25,
)
_REPORT = {"type": b"lane_report", "version": b"1"}
_ROW, _READ = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Owner)


class Classify:
    """``book`` opens a partition's book; ``clock`` is Unix seconds; ``worker`` names this process in reports.

    Without ``tokens`` a report counts only where the edge found its token in the address it came to.
    ``alarm`` is called with ``address`` or ``campaign`` for each bounce beyond what is believed. ``forwards`` says
    where people's answers go on to; None: nowhere.
    """

    def __init__(
        self,
        rules: Rules,
        book: Callable[[int], Book],
        clock: Callable[[], float],
        tokens: Tokens | None = None,
        partitions: int = 0,
        worker: str = "classify",
        settings: Settings | None = None,
        alarm: Callable[[str], None] = lambda whose: None,
        forwards: Forwards | None = None,
    ) -> None:
        self._rules = rules
        self._book = book
        self._clock = clock
        self._tokens = tokens
        self._partitions = partitions
        self._settings = settings or Settings()
        self._books: dict[int, Book] = {}
        self._sums = Sums(worker)
        self._floods = Floods(self._settings.caps)
        self._alarm = alarm
        self._forwards = forwards

    @property
    def owned(self) -> list[int]:
        """The partitions whose books are open."""
        return list(self._books)

    async def assigned(self, partition: int) -> None:
        """Open the partition's book."""
        self._books[partition] = self._book(partition)

    async def revoked(self, partition: int) -> None:
        """Close it: nothing is in work between batches."""
        book = self._books.pop(partition, None)
        if book is not None:
            book.close()

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Every record through; what was delivered is in the book's file before any offset is."""
        book = self._books[partition]
        outs: list[tuple[Ticket, Sequence[Out]]] = []
        erasures = []
        for ticket in tickets:
            try:
                if ticket.record.headers.get("type") == b"erasure":
                    erasures.append((ticket, parse(ticket.record.value, Erasure).to))
                    continue
                outs.append((ticket, self._step(ticket.record, book)))
            except Malformed as error:
                ticket.reject(error.code, error.detail)
        book.commit(self._clock())
        for ticket, found in outs:
            for out in found:
                ticket.emit(out)
            ticket.done()
        if erasures:
            people = {to for _, to in erasures}
            for day in book.days():
                after: bytes | None = b""
                while after is not None:
                    after = book.forget(people, day, after)
                    await asyncio.sleep(0)
            for ticket, _ in erasures:
                ticket.done()

    def flush(self, now: float) -> list[Out]:
        """The sums since the last call, to be published; ``now`` in Unix seconds. Call it once a second."""
        return [Out("mail-lane-reports", encode(r), _REPORT, None, 0) for r in self._sums.reports(now)]

    def _step(self, record: Record, book: Book) -> Sequence[Out]:
        if record.topic == "mail-outcomes":
            return _out(self._outcome(decode(record, "outcome"), book), record.partition)
        if record.topic == "mail-engagement":
            act = decode(record, "engagement")
            owner = _owner(book, act.mail)
            event = of_engagement(act, owner, self._settings)
            self._sums.add(event, owner.site if owner else "")
            return _out(event, record.partition)
        return self._inbound(record, book)

    def _outcome(self, outcome: Outcome, book: Book) -> MailEvent | None:
        if outcome.state == "delivered":
            row = _ROW.encode(owner_of(outcome))
            book.remember(outcome.id, row, outcome.time + self._settings.remembered)
        return of_outcome(outcome)

    def _inbound(self, record: Record, book: Book) -> Sequence[Out]:
        raw, mail, partition = record.value or b"", record.text("id"), record.partition
        report = parse_mail(raw)
        claimed = record.text("claim") != ""
        if not mail and report.kind in ("dsn", "arf", *ANSWERS) and self._tokens:
            # What somebody quotes of a mail may be another's: their own they answer.
            named = None if report.kind in ANSWERS else named_mail(raw, self._tokens)
            claimed = named is None
            mail, partition = named or claimed_mail(report, self._partitions) or ("", partition)
            if mail and partition != record.partition and partition < self._partitions:
                # The mail's own partition has its book and its recipient's suppressions.
                headers = {**record.headers, "id": mail.encode()} | (
                    {"claim": b"message-id"} if claimed else {}
                )
                return (Out("mail-inbound", raw, headers, None, partition),)
        owner = self._owner(book, mail, raw)
        if claimed and mail and not is_about(report, owner):
            mail, owner = (
                "",
                None,
            )  # a Message-ID is no secret: only a mail that we remember, to whom it names
        answers = _by_a_person(record, report)
        if mail and record.text("rcpt_to").lower().startswith(UNSUBSCRIBES):
            answers = False  # the mail that a program writes for whoever presses "unsubscribe"
            if report.kind in ("reply", "other"):
                report = msgspec.structs.replace(report, kind="unsubscribe")  # whatever its subject says
            owner = owner or writer(report.sender, record.partition, self._partitions)
        event = of_report(
            report,
            mail,
            owner,
            record.number("time", record.timestamp / 1000),
            self._meaning,
            self._settings.bounce_age,
        )
        if event is not None:
            event, flood = self._floods.take(event)
            if flood:
                self._alarm(flood)
            self._sums.add(event, owner.site if owner else "")
            if answers and self._forwards is not None:
                event, sends = self._forwards.take(event, lambda: _answer(report, raw))
                return (*sends, *_out(event, record.partition))
        return _out(event, record.partition)

    def _owner(self, book: Book, mail: str, raw: bytes) -> Owner | None:
        if not mail:
            return None
        return _owner(book, mail) or (quoted_owner(raw, mail, self._tokens) if self._tokens else None)

    def _meaning(self, reply: str, mx: str, provider: str) -> Meaning:
        return classify(self._rules, reply, mx=mx, provider=provider)


def _owner(book: Book, mail: str) -> Owner | None:
    row = book.find(mail)
    return None if row is None else _READ.decode(row)


def _by_a_person(record: Record, report: Report) -> bool:
    """Whether it is for somebody to read. Machines alone write without an envelope sender (RFC 3834); of a mail that
    was read from a file (no peer) we may only not know it."""
    named = record.text("mail_from") != "" or record.text("peer") == ""
    return named and report.kind in ANSWERS


def _answer(report: Report, raw: bytes) -> Answer:
    return Answer(report.sender, report.subject, text_of(parts(raw)[1]), raw)


def _out(event: MailEvent | None, partition: int) -> Sequence[Out]:
    if event is None:
        return ()
    return (Out("mail-events", encode(event), headers_of(event.kind), event.to.encode(), partition),)

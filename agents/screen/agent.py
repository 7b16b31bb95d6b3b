"""Gathers rows, suppressions and contact; lets the policy decide; writes the row, then what follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b

from msgspec.structs import replace

from agents import Out, Reject, Stage, State, States, Ticket, View
from agents.screen.cohort import cohort_of
from agents.screen.consents import FREE, Agreed, Consents, is_seen
from agents.screen.policy import Candidate, Settings, decide, keys_of, looked_up, missing, repeat, row_for
from agents.screen.rules import PASS, STRANGER, Known, Screening, Verdict, judge, meant, read_known
from schemas.address import domain_of
from schemas.codec import Malformed, Record, encode, parse
from schemas.contact import REMEMBERED
from schemas.erasure import Erasure, rows_of
from schemas.event import MailEvent, headers_of
from schemas.gate import GateRow
from schemas.identity import event_id, mail_id
from schemas.ladder import Rung, onto_ladder
from schemas.mail import VERDICTS, is_verdict, number, twin
from schemas.suppression import Suppression

STAGE = Stage(
    name="screen",
    question="May this recipient get this mail now?",
    consumes=("mail-enqueued",),
    emits=(
        "mail-screened",
        "mail-wait-1m",
        "mail-wait-10m",
        "mail-wait-1h",
        "mail-wait-6h",
        "mail-events",
        "mail-screen-log",
    ),
    state="mail-screen-log",
    slice=200,
)
_ROW = {"type": b"gate", "version": b"1"}
ERASURE = b"erasure"
"""Type of an order to forget somebody (``schemas.erasure``)."""
_Open = dict[str, list[Callable[[], None]]]
"""The keys of rows that are written and not acknowledged, and what waits for each."""
PASSED = 100_000
"""Recipients whose mails of late are remembered, for what is not delivered yet. They take some 20 MB."""
ERASED = "erased"
LATELY = 30 * 86400.0
LATEST = 1e11
"""Unix seconds beyond which no time is meant (the year 5138)."""


class Screen:
    """Gate one. ``suppressions`` and ``contacts`` give the views of a partition; they are read to their end."""

    def __init__(
        self,
        settings: Settings,
        rows: States,
        suppressions: Callable[[int], View],
        contacts: Callable[[int], View],
        rungs: Sequence[Rung],
        clock: Callable[[], float],
        screening: Screening | None = None,
        observe: Callable[[str, str], None] = lambda reason, action: None,
        consents: Consents | None = None,
        names: Callable[[str], tuple[str, ...]] = lambda address: (),
    ) -> None:
        """``screening``: the rules for marketing mail, None for none. ``observe`` is called with the reason of a
        rule and ``stop`` or ``warn``. ``consents``: None where no tenant asks for any. ``names``
        gives the keyed hashes of an address, where people were erased."""
        self._screening = screening
        self._observe = observe
        self._consents = consents
        self._passed: dict[str, tuple[float, ...]] = {}
        self._settings = settings
        self._rows = rows
        self._suppressions = suppressions
        self._contacts = contacts
        self._rungs = rungs
        self._names = names
        self._clock = clock
        self._state: dict[int, State] = {}
        self._open: dict[int, _Open] = {}
        self._forgetting: dict[int, set[asyncio.Task[None]]] = {}

    async def assigned(self, partition: int) -> None:
        """Read the partition's rows to their end."""
        self._open[partition] = {}
        self._state[partition] = await self._rows.open(partition)

    async def revoked(self, partition: int) -> None:
        """What was decided goes out first: a row that lands behind the next owner's reading could differ from
        what that one decides. The runner bounds the wait."""
        for task in self._forgetting.pop(partition, ()):
            task.cancel()  # the next owner does it
        try:
            while self._open.get(partition):
                await asyncio.sleep(0.005)
        finally:  # also when the runner's patience ends
            self._open.pop(partition, None)
            state = self._state.pop(partition, None)
        if state is not None:
            await self._rows.close(partition)

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Decide each record before the next one is looked at: rows are visible at once."""
        state = self._state[partition]
        now = self._clock()
        erasures = []
        for ticket in tickets:
            if ticket.record.headers.get("type") == ERASURE:
                erasures.append(ticket)
                continue
            try:
                self._screen(ticket, state, partition, now)
            except (Reject, Malformed) as error:
                ticket.reject(getattr(error, "reason", "") or getattr(error, "code", "bad"), error.detail)
        if erasures:
            for ticket in erasures:
                ticket.keep()
            task = asyncio.create_task(self._forget(erasures, state, partition))
            self._forgetting.setdefault(partition, set()).add(task)
            task.add_done_callback(self._forgetting[partition].discard)
            task.add_done_callback(partial(_forgot, erasures))

    async def _forget(self, tickets: Sequence[Ticket], state: State, partition: int) -> None:
        """Delete the rows that name people who were erased. Who was is in the suppressions by now: of them no such
        row is written any more. Beside the mail: going through all rows takes seconds where there are millions."""
        people: dict[bytes, list[Ticket]] = {}
        for ticket in tickets:
            try:
                people.setdefault(parse(ticket.record.value, Erasure).to.encode(), []).append(ticket)
            except Malformed as error:
                ticket.reject(error.code, error.detail)
        await self._suppressions(partition).to_end()
        for key in await state.keys(lambda key: key[:2] == b"c|" and _person(key) in people):
            state.put(people[_person(key)][0], key, None)
        for who in [who for who in self._passed if who.partition("|")[0].encode() in people]:
            del self._passed[who]
        for some in people.values():
            for ticket in some:
                ticket.done()

    def _screen(self, ticket: Ticket, state: State, partition: int, now: float) -> None:
        record = ticket.record
        mail = candidate(record)
        keys = keys_of(mail)
        other: GateRow | None = None
        for key in looked_up(mail):
            raw = state.get(key.encode())
            if raw is None:
                continue
            row = parse(raw, GateRow)
            if repeat(mail, row) == "again":
                out = self._output(record, mail, row, partition, now)
                lacking = [k for k in keys if state.get(k.encode()) is None] if missing(row, key) else []
                if lacking and self._erased(mail, partition, now):
                    lacking = []
                return self._write(ticket, state, [replace(row, key=k) for k in lacking], out, key)
            # A refused send is a duplicate too: it may have been accepted, and called one, the first time.
            if mail.stream == "marketing" or key in keys:
                other = other or row
        if other is not None:  # only now: what was decided about this very send comes first
            out = self._event(mail, "suppressed", repeat(mail, other), "", partition, now, other.origin)
            return self._write(ticket, state, [], out, other.key)
        found = rows_of(self._suppressions(partition), mail.to, self._names)
        rows = [parse(value, Suppression) for _, value in found]
        decision, reason = decide(mail, rows, self._settings, now)
        verdict, contact, agreed = PASS, None, self._agreed(mail, partition, now)
        if agreed.refusal and decision == "pass":
            decision, reason, verdict = "rejected", "no_consent", Verdict("no_consent", agreed.refusal)
            self._observe("no_consent", "stop")
        elif mail.stream == "marketing" and self._screening is not None:
            if decision == "pass":
                contact = self._known(mail, partition)
                tracked = is_seen("consent" in record.headers, contact, agreed)
                verdict = self._judge(mail, contact, tracked, self._screening, now)
                if verdict.reason:
                    decision, reason = "suppressed", verdict.reason
            elif decision == "bounced":  # a mistyped domain often has no host: say what was meant
                verdict = meant(mail.to, self._screening.lists.place(domain_of(mail.to)))
        if reason == ERASED:
            keys = (f"i|{mail.id}",)  # the other one would say the address again
        made = [row_for(key, mail, decision, reason, self._settings, now) for key in keys]
        self._write(
            ticket, state, made, self._output(record, mail, made[0], partition, now, verdict, contact, agreed)
        )

    def _agreed(self, mail: Candidate, partition: int, now: float) -> Agreed:
        if self._consents is None or mail.stream != "marketing":
            return FREE
        return self._consents.of(mail.to, mail.tenant, mail.stream, partition, max(now, mail.not_before))

    def _erased(self, mail: Candidate, partition: int, now: float) -> bool:
        found = rows_of(self._suppressions(partition), mail.to, self._names)
        rows = (parse(value, Suppression) for _, value in found)
        return any(row.reason == ERASED and row.in_force(now) for row in rows)

    def _judge(
        self, mail: Candidate, contact: Known, tracked: bool, screening: Screening, now: float
    ) -> Verdict:
        who = f"{mail.to}|{mail.tenant}"
        passed = self._passed.get(who, ())
        verdict = judge(mail.to, mail.tenant, contact, tracked, passed, screening, now)
        for reason in verdict.warned:
            self._observe(reason, "warn")
        if verdict.reason:
            self._observe(verdict.reason, "stop")
            return verdict
        # What passes is counted at once: the contact hears of it only when it is delivered.
        self._passed.pop(who, None)
        self._passed[who] = (*(when for when in passed[1 - REMEMBERED :] if when > now - LATELY), now)
        if len(self._passed) > PASSED:
            del self._passed[next(iter(self._passed))]
        return verdict

    def _write(
        self, ticket: Ticket, state: State, rows: Sequence[GateRow], out: Out, behind: str = ""
    ) -> None:
        """The rows, acknowledged, and that under the key ``behind``, where it is on its way; then ``out``."""
        partition = ticket.record.partition
        way = self._open[partition]
        waiting = len(rows) + (behind in way)

        def written() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting <= 0 and self._state.get(partition) is state:
                ticket.emit(out)
                ticket.done()

        if not waiting:
            return written()
        ticket.keep()
        if behind in way:
            way[behind].append(written)
        for row in rows:
            way[row.key] = [written]
            state.put(ticket, row.key.encode(), encode(row), partial(_acknowledged, way, row.key))

    def _output(
        self,
        record: Record,
        mail: Candidate,
        row: GateRow,
        partition: int,
        now: float,
        verdict: Verdict = PASS,
        contact: Known | None = None,
        agreed: Agreed | None = None,
    ) -> Out:
        if row.decision != "pass":
            detail = record.text("detail") or verdict.detail
            return self._event(mail, row.decision, row.reason, detail, partition, now, "", verdict.suggestion)
        headers = dict(record.headers)
        # The row's word stands: a redo may have met other DNS answers or another clock.
        headers["lane"] = row.lane.encode()
        headers["expires"] = number(row.expires)
        recorded = (agreed or self._agreed(mail, partition, now)).letters
        if recorded is not None:  # what a producer says is no consent on record
            headers.pop("consent", None)
            if recorded:
                headers["consent"] = recorded
        elif "consent" not in headers:
            consent = letters(contact or self._known(mail, partition))
            if consent:
                headers["consent"] = consent
        if mail.stream == "marketing":
            contact = contact or self._known(mail, partition)
            headers["cohort"] = b"%d" % cohort_of(contact, "consent" in headers, now)
        topic = row.to_topic or twin("mail-screened", mail.stream)
        if row.not_before > now:
            topic, headers = onto_ladder(headers, topic, row.not_before, now, self._rungs)
        return Out(topic, record.value, headers, record.key, partition)

    def _known(self, mail: Candidate, partition: int) -> Known:
        raw = self._contacts(partition).get(f"{mail.to}|{mail.tenant}".encode())
        return read_known(raw) if raw else STRANGER

    def _event(
        self,
        mail: Candidate,
        kind: str,
        reason: str,
        detail: str,
        partition: int,
        now: float,
        other: str,
        suggestion: str = "",
    ) -> Out:
        event = MailEvent(
            id=event_id(mail.id, kind, mail.origin),
            kind=kind,  # type: ignore[arg-type]  # the decisions are kinds
            mail=mail.id,
            time=round(now, 3),
            tenant=mail.tenant,
            campaign=mail.campaign,
            stream=mail.stream,
            to=mail.to,
            origin=mail.origin,
            reason=reason,
            detail=detail or (f"first received as {other}" if other else ""),
            action="none",
            terminal=True,
            suggestion=suggestion,
        )
        return Out("mail-events", encode(event), headers_of(event.kind), event.id.encode(), partition)


def _forgot(tickets: Sequence[Ticket], task: asyncio.Task[None]) -> None:
    """Nobody awaits the task: records that it leaves unfinished would hold the partition's commits for ever."""
    error = None if task.cancelled() else task.exception()
    for ticket in tickets if error is not None else ():
        ticket.reject("bug", f"{type(error).__name__}: {error}")


def _person(key: bytes) -> bytes:
    """The address in a key of campaign x recipient."""
    return key[2 : key.find(b"|", 2)]


def letters(contact: Known) -> bytes:
    """The ``consent`` header of a mail to the contact."""
    consent = contact.consent
    if consent is None:
        return b""
    return (b"o" if consent.opens else b"") + (b"c" if consent.clicks else b"")


def candidate(record: Record) -> Candidate:
    """The headers of an enqueued record. Raises Reject where the envelope lacks what every mail has."""
    headers = record.headers
    try:
        mail, to, origin = (headers[name].decode() for name in ("id", "to", "origin"))
        tenant = record.text("tenant", "default")
        keyed = mail != mail_id(tenant, None, to, origin)
        return Candidate(
            id=mail,
            origin=origin,
            tenant=tenant,
            campaign=record.text("campaign"),
            stream=record.text("stream", "marketing"),
            to=to,
            lane=record.text("lane"),
            expires=_time(record, "expires"),
            not_before=_time(record, "not_before"),
            host=record.text("host"),
            outcome=_outcome(record),
            reason=record.text("reason"),
            digest=blake2b(record.value or b"", digest_size=8).hexdigest() if keyed else "",
        )
    except (KeyError, UnicodeDecodeError) as error:
        raise Reject("bad_envelope", f"header {error} is missing or unreadable") from None


def _acknowledged(way: _Open, key: str) -> None:
    for follow in way.pop(key, ()):
        follow()


def _time(record: Record, name: str) -> float:
    found = record.number(name)
    if not 0 <= found <= LATEST:
        raise Reject("bad_header", f"header {name} is {found:g}, which is no time")
    return found


def _outcome(record: Record) -> str:
    if not is_verdict(record):
        if record.headers.get("type") != b"accepted":
            raise Reject("unknown_type", f"no send and no verdict but {record.text('type')[:40]!r}")
        return ""
    outcome = record.text("outcome")
    if outcome not in VERDICTS:
        raise Reject("bad_verdict", f"header outcome is {outcome[:40]!r}, which ends no mail")
    return outcome

"""Gathers rows, suppressions and contact; lets the policy decide; writes the row, then what follows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b

import orjson

from agents import Out, Reject, Stage, State, States, Ticket, View
from agents.screen.policy import Candidate, Settings, decide, keys_of, looked_up, repeat, row_for
from schemas.codec import Malformed, Record, encode, parse
from schemas.event import MailEvent
from schemas.gate import GateRow
from schemas.identity import event_id, mail_id
from schemas.ladder import Rung, onto_ladder
from schemas.mail import is_verdict, number, twin
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
_EVENT = {"type": b"event", "version": b"1"}


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
    ) -> None:
        self._settings = settings
        self._rows = rows
        self._suppressions = suppressions
        self._contacts = contacts
        self._rungs = rungs
        self._clock = clock
        self._state: dict[int, State] = {}
        self._open: Counter[int] = Counter()
        """Rows written and not acknowledged, by partition."""

    async def assigned(self, partition: int) -> None:
        """Read the partition's rows to their end."""
        self._state[partition] = await self._rows.open(partition)

    async def revoked(self, partition: int) -> None:
        """What was decided goes out first: a row that lands behind the next owner's reading could differ from
        what that one decides. The runner bounds the wait."""
        while self._open[partition]:
            await asyncio.sleep(0.005)
        if self._state.pop(partition, None) is not None:
            await self._rows.close(partition)

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Decide each record before the next one is looked at: rows are visible at once."""
        state = self._state[partition]
        now = self._clock()
        for ticket in tickets:
            try:
                self._screen(ticket, state, partition, now)
            except (Reject, Malformed) as error:
                ticket.reject(getattr(error, "reason", "") or getattr(error, "code", "bad"), error.detail)

    def _screen(self, ticket: Ticket, state: State, partition: int, now: float) -> None:
        record = ticket.record
        mail = candidate(record)
        keys = keys_of(mail)
        for key in looked_up(mail):
            raw = state.get(key.encode())
            if raw is not None:
                row = parse(raw, GateRow)
                what = repeat(mail, row)
                if what != "again" and key not in keys:
                    continue  # a refusal does not count as this campaign's one mail to the address
                if what == "again":
                    ticket.emit(self._output(record, mail, row, partition, now))
                else:
                    ticket.emit(self._event(mail, "suppressed", what, "", partition, now, row.origin))
                ticket.done()
                return
        found = self._suppressions(partition).scan(mail.to.encode() + b"|")
        rows = [parse(value, Suppression) for _, value in found]
        decision, reason = decide(mail, rows, self._settings, now)
        waiting = len(keys)
        output: Out | None = None

        def written() -> None:
            nonlocal waiting
            waiting -= 1
            self._open[partition] -= 1
            if not waiting and output is not None and self._state.get(partition) is state:
                ticket.emit(output)
                ticket.done()

        ticket.keep()
        for key in keys:
            row = row_for(key, mail, decision, reason, self._settings, now)
            output = output or self._output(record, mail, row, partition, now)
            self._open[partition] += 1
            state.put(ticket, key.encode(), encode(row), written)

    def _output(self, record: Record, mail: Candidate, row: GateRow, partition: int, now: float) -> Out:
        if row.decision != "pass":
            detail = record.text("detail")
            return self._event(mail, row.decision, row.reason, detail, partition, now, "")
        headers = dict(record.headers)
        # The row's word stands: a redo may have met other DNS answers or another clock.
        headers["lane"] = row.lane.encode()
        headers["expires"] = number(row.expires)
        if "consent" not in headers:
            consent = self._consent(mail, partition)
            if consent:
                headers["consent"] = consent
        topic = twin("mail-screened", mail.stream)
        if row.not_before > now:
            topic, headers = onto_ladder(headers, topic, row.not_before, now, self._rungs)
        return Out(topic, record.value, headers, record.key, partition)

    def _consent(self, mail: Candidate, partition: int) -> bytes:
        raw = self._contacts(partition).get(f"{mail.to}|{mail.tenant}".encode())
        consent = orjson.loads(raw).get("consent") if raw else None
        if not consent:
            return b""
        return (b"o" if consent.get("opens") else b"") + (b"c" if consent.get("clicks") else b"")

    def _event(
        self, mail: Candidate, kind: str, reason: str, detail: str, partition: int, now: float, other: str
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
        )
        return Out("mail-events", encode(event), _EVENT, event.id.encode(), partition)


def candidate(record: Record) -> Candidate:
    """The headers of an enqueued record. Raises Reject where the envelope lacks what every mail has."""
    headers = record.headers
    try:
        mail = headers["id"].decode()
        to, origin, tenant = (
            headers["to"].decode(),
            headers["origin"].decode(),
            record.text("tenant", "default"),
        )
        keyed = mail != mail_id(tenant, None, to, origin)
        return Candidate(
            id=mail,
            origin=origin,
            tenant=tenant,
            campaign=record.text("campaign"),
            stream=record.text("stream", "marketing"),
            to=to,
            lane=record.text("lane"),
            expires=record.number("expires"),
            not_before=record.number("not_before"),
            host=record.text("host"),
            outcome=record.text("outcome") if is_verdict(record) else "",
            reason=record.text("reason"),
            digest=blake2b(record.value or b"", digest_size=8).hexdigest() if keyed else "",
        )
    except (KeyError, UnicodeDecodeError) as error:
        raise Reject("bad_envelope", f"header {error} is missing or unreadable") from None

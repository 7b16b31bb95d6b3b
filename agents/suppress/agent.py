"""mail-events -> mail-suppressions, mail-consents: gather the recipient's rows, decide, write what changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents import Out, Stage, State, States, Ticket
from agents.suppress import consent
from agents.suppress.asking import Asking
from agents.suppress.erased import erase, mark_among, silent, take_back
from agents.suppress.policy import Settings, decide, matters
from schemas.codec import Malformed, decode, encode, parse
from schemas.erasure import Erasure, rows_of
from schemas.event import MailEvent, written
from schemas.suppression import Suppression

STAGE = Stage(
    name="suppress",
    question="who must not get mail, and until when?",
    consumes=("mail-events",),
    emits=(
        "mail-suppressions",
        "mail-consents",
        "mail-sends",
        "mail-campaigns",
        "mail-enqueued",
        "mail-engagement",
    ),
    twins=False,
    state="mail-suppressions",
    patience=0.25,
    skips=frozenset(
        (b"queued", b"opened", b"clicked", b"rejected", b"suppressed", b"expired", b"cancelled", b"unknown")
    ),
)
_ORDER = {"type": b"erasure", "version": b"1"}
FORGET = ("mail-enqueued", "mail-engagement")
"""Topics of the stages that hold addresses too and read no events: screen and classify."""


class Suppress:
    """Follows the public events. ``states`` opens a partition of the suppressions, ``asking`` keeps the consents.

    ``names`` gives the keyed hashes of an address, that of today's secret first.

    No row depends on a clock: the same events make the same rows whenever, and wherever, they are worked on.
    """

    def __init__(
        self,
        states: States,
        settings: Settings,
        asking: Asking | None = None,
        names: Callable[[str], tuple[str, ...]] = lambda address: (),
    ) -> None:
        self._states = states
        self._settings = settings
        self._asking = asking
        self._names = names
        self._open: dict[int, State] = {}

    async def assigned(self, partition: int) -> None:
        """Read the partition's suppressions and consents."""
        if self._asking is not None:
            await self._asking.assigned(partition)
        self._open[partition] = await self._states.open(partition)

    async def revoked(self, partition: int) -> None:
        """Nothing is in work between batches: only the files are closed."""
        if self._asking is not None:
            await self._asking.revoked(partition)
        if self._open.pop(partition, None) is not None:
            await self._states.close(partition)

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """One event after the other: each sees what the ones before it wrote."""
        state = self._open[partition]
        for ticket in tickets:
            try:
                event: MailEvent = decode(ticket.record, "event")
                if event.kind == "erased" and event.to:
                    self._erase(ticket, event, state)
                    continue
                self._take(ticket, event, state)
            except Malformed as error:
                ticket.reject(error.code, error.detail)
                continue
            ticket.done()

    def _take(self, ticket: Ticket, event: MailEvent, state: State) -> None:
        asks = self._asking is not None and consent.matters(event)
        if not asks and not matters(event):
            return
        now = written(ticket.record, event)
        rows = [parse(raw, Suppression) for _, raw in rows_of(state, event.to, self._names)]
        mark = mark_among(rows)
        if silent(event, mark, now):
            back = take_back(event, mark, now)
            if back is not None:
                state.put(ticket, back.key, encode(back))
            return
        rows = [row for row in rows if row is not mark]
        found = decide(event, rows, self._settings, now) if matters(event) else []
        if asks:
            assert self._asking is not None
            self._asking.take(ticket, event, rows, now)
        for row in found:
            state.put(ticket, row.key, encode(row))

    def _erase(self, ticket: Ticket, event: MailEvent, state: State) -> None:
        """The mark first: at no moment is the address neither suppressed nor marked. The others are told when it
        stands: what they write of the address from then on is nothing."""
        name = self._names(event.to)[0]
        rows = [parse(raw, Suppression) for _, raw in rows_of(state, event.to, self._names)]
        old = mark_among(rows)
        mark, gone = erase(event, rows, name, written(ticket.record, event))
        order = encode(Erasure(id=event.id, to=event.to, time=event.time))
        partition = ticket.record.partition

        def marked() -> None:
            if self._open.get(partition) is not state:
                return  # the next owner does it again
            for topic in FORGET:
                ticket.emit(Out(topic, order, _ORDER, event.to.encode(), partition))
            ticket.done()

        ticket.keep()
        if self._asking is not None and (mark is not None or (old is not None and old.active)):
            self._asking.forget(ticket, event.to)
        puts: list[tuple[bytes, bytes | None]] = [(row.key, None) for row in gone]
        if mark is not None:
            puts.insert(0, (mark.key, encode(mark)))
        for n, (key, value) in enumerate(
            puts, 1
        ):  # in one partition: the last is acknowledged after the mark
            state.put(ticket, key, value, marked if n == len(puts) else None)
        if not puts:
            marked()

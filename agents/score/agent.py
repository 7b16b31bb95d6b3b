"""mail-events -> mail-contacts: read the contact, add the event, write it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents import Stage, State, States, Ticket
from agents.score.erased import erase, silent, take_back
from agents.score.policy import Settings, decide, matters
from schemas.codec import Malformed, decode, encode, parse
from schemas.contact import Contact
from schemas.event import MailEvent, written

STAGE = Stage(
    name="score",
    question="who reads, when, how often should we write?",
    consumes=("mail-events",),
    emits=("mail-contacts",),
    twins=False,
    state="mail-contacts",
    patience=0.25,
    skips=frozenset(
        (b"queued", b"deferred", b"bounced", b"rejected", b"suppressed", b"expired", b"cancelled", b"unknown")
    ),
)


class Score:
    """Follows the public events. ``states`` opens a partition of the contacts; Has no clock: the same events make the same
    rows whenever, and wherever, they are worked on. ``names`` gives the keyed hashes of an address."""

    def __init__(
        self,
        states: States,
        settings: Settings,
        names: Callable[[str], tuple[str, ...]] = lambda address: (),
    ) -> None:
        self._states = states
        self._settings = settings
        self._names = names
        self._open: dict[int, State] = {}

    async def assigned(self, partition: int) -> None:
        """Read the partition's contacts."""
        self._open[partition] = await self._states.open(partition)

    async def revoked(self, partition: int) -> None:
        """Nothing is in work between batches: only the file is closed."""
        if self._open.pop(partition, None) is not None:
            await self._states.close(partition)

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """One event after the other: each sees what the ones before it wrote."""
        state = self._open[partition]
        for ticket in tickets:
            try:
                event: MailEvent = decode(ticket.record, "event")
            except Malformed as error:
                ticket.reject(error.code, error.detail)
                continue
            if event.kind in ("erased", "released") and event.to:
                self._erase(ticket, event, state)
            elif matters(event):
                self._count(ticket, event, state)
            ticket.done()

    def _mark(self, event: MailEvent, state: State) -> Contact | None:
        for name in self._names(event.to) if state.hashed else ():
            raw = state.get(Contact(tenant="", to=name).key) if name in state.hashed else None
            if raw:
                return parse(raw, Contact)
        return None

    def _erase(self, ticket: Ticket, event: MailEvent, state: State) -> None:
        now, mark = written(ticket.record, event), self._mark(event, state)
        gone: list[Contact] = []
        if event.kind == "released":
            new = take_back(event, mark, now)
        else:
            rows = [parse(raw, Contact) for _, raw in state.scan(f"{event.to}|".encode())]
            new, gone = erase(event, rows, mark, self._names(event.to)[0], now)
        if new is not None:
            state.put(ticket, new.key, encode(new))
        for row in gone:
            state.put(ticket, row.key, None)

    def _count(self, ticket: Ticket, event: MailEvent, state: State) -> None:
        now = written(ticket.record, event)
        if silent(event, self._mark(event, state), now):
            return
        raw = state.get(Contact(tenant=event.tenant, to=event.to).key)
        contact = decide(event, parse(raw, Contact) if raw else None, self._settings, now)
        if contact is not None:
            state.put(ticket, contact.key, encode(contact))

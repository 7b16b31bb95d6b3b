"""mail-events -> mail-contacts: read the contact, add the event, write it back."""

from __future__ import annotations

from collections.abc import Sequence

from agents import Stage, State, States, Ticket
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
)


class Score:
    """Follows the public events. ``states`` opens a partition of the contacts; Has no clock: the same events make the same
    rows whenever, and wherever, they are worked on."""

    def __init__(self, states: States, settings: Settings) -> None:
        self._states = states
        self._settings = settings
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
            if matters(event):
                self._count(ticket, event, state)
            ticket.done()

    def _count(self, ticket: Ticket, event: MailEvent, state: State) -> None:
        now = written(ticket.record, event)
        raw = state.get(Contact(tenant=event.tenant, to=event.to).key)
        contact = decide(event, parse(raw, Contact) if raw else None, self._settings, now)
        if contact is not None:
            state.put(ticket, contact.key, encode(contact))

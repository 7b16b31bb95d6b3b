"""mail-events -> mail-suppressions: gather the recipient's rows, decide, write what changes."""

from __future__ import annotations

from collections.abc import Sequence

from agents import Stage, State, States, Ticket
from agents.suppress.policy import Settings, decide, matters
from schemas.codec import Malformed, decode, encode, parse
from schemas.event import MailEvent, written
from schemas.suppression import Suppression

STAGE = Stage(
    name="suppress",
    question="who must not get mail, and until when?",
    consumes=("mail-events",),
    emits=("mail-suppressions",),
    twins=False,
    state="mail-suppressions",
    patience=0.25,
)


class Suppress:
    """Follows the public events. ``states`` opens a partition of the suppressions; Has no clock: the same events make the
    same rows whenever, and wherever, they are worked on."""

    def __init__(self, states: States, settings: Settings) -> None:
        self._states = states
        self._settings = settings
        self._open: dict[int, State] = {}

    async def assigned(self, partition: int) -> None:
        """Read the partition's suppressions."""
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
                found = self._rows(event, ticket, state) if matters(event) else []
            except Malformed as error:
                ticket.reject(error.code, error.detail)
                continue
            for row in found:
                state.put(ticket, row.key, encode(row))
            ticket.done()

    def _rows(self, event: MailEvent, ticket: Ticket, state: State) -> list[Suppression]:
        rows = [parse(raw, Suppression) for _, raw in state.scan(f"{event.to}|".encode())]
        return decide(event, rows, self._settings, written(ticket.record, event))

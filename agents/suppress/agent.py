"""mail-events -> mail-suppressions, mail-consents: gather the recipient's rows, decide, write what changes."""

from __future__ import annotations

from collections.abc import Sequence

from agents import Stage, State, States, Ticket
from agents.suppress import consent
from agents.suppress.asking import Asking
from agents.suppress.policy import Settings, decide, matters
from schemas.codec import Malformed, decode, encode, parse
from schemas.event import MailEvent, written
from schemas.suppression import Suppression

STAGE = Stage(
    name="suppress",
    question="who must not get mail, and until when?",
    consumes=("mail-events",),
    emits=("mail-suppressions", "mail-consents", "mail-sends", "mail-campaigns"),
    twins=False,
    state="mail-suppressions",
    patience=0.25,
)


class Suppress:
    """Follows the public events. ``states`` opens a partition of the suppressions, ``asking`` keeps the consents.

    No row depends on a clock: the same events make the same rows whenever, and wherever, they are worked on.
    """

    def __init__(self, states: States, settings: Settings, asking: Asking | None = None) -> None:
        self._states = states
        self._settings = settings
        self._asking = asking
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
        rows = [parse(raw, Suppression) for _, raw in state.scan(f"{event.to}|".encode())]
        found = decide(event, rows, self._settings, now) if matters(event) else []
        if asks:
            assert self._asking is not None
            self._asking.take(ticket, event, rows, now)
        for row in found:
            state.put(ticket, row.key, encode(row))

"""The consents beside the suppressions: the same events, the same partition, a row of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from agents import Out, State, States, Ticket
from agents.suppress.consent import Answer, decide, stream_of
from schemas.codec import encode, parse
from schemas.consent import Asked, StreamConsent, goes
from schemas.consent_rules import ConsentRule, ConsentRules, confirmation_campaign
from schemas.event import MailEvent
from schemas.send import Send
from schemas.suppression import Suppression
from schemas.token import ConfirmToken

_SEND = {"type": b"send", "version": b"1"}
FRESH = 5.0
"""Seconds since a partition was read to its end, for deleting rows of it: a worker that was frozen and wakes would
delete what its successor has on record."""
LATE = 3600.0
"""Seconds that a confirmation may be on its way here: the row of its asking has the wording that was shown."""


class Asking:
    """``states`` opens a partition of the consents; ``url`` makes the link of a confirmation mail; ``observe`` is
    called with what became of a subscription that was asked for.

    ``clock`` (Unix seconds) decides nothing about rows. It only keeps confirmation mails in whose link would be
    dead: a partition that is read again from its start asks nobody a second time.
    """

    def __init__(
        self,
        states: States,
        rules: ConsentRules,
        url: Callable[[ConfirmToken], str],
        clock: Callable[[], float],
        observe: Callable[[str], None] = lambda told: None,
    ) -> None:
        self._states = states
        self._rules = rules
        self._url = url
        self._clock = clock
        self._observe = observe
        self._open: dict[int, State] = {}

    async def assigned(self, partition: int) -> None:
        """Read the partition's consents."""
        self._open[partition] = await self._states.open(partition)

    async def revoked(self, partition: int) -> None:
        """Nothing is in work between batches."""
        if self._open.pop(partition, None) is not None:
            await self._states.close(partition)

    def take(self, ticket: Ticket, event: MailEvent, suppressions: Sequence[Suppression], now: float) -> None:
        """Write what follows from an event that matters; ``now`` is when it was written."""
        state = self._open[ticket.record.partition]
        rows = [parse(raw, StreamConsent) for _, raw in state.scan(f"{event.to}|".encode())]
        rule = self._rules.of(event.tenant, stream_of(event))
        answer = decide(event, rows, suppressions, rule, now)
        if answer.told:
            self._observe(answer.told)
        if answer.row is not None:
            state.put(ticket, answer.row.key, encode(answer.row))
        if answer.mail is not None:
            self._ask(ticket, event, answer, answer.mail, rule)

    def sweep(self, now: float) -> Iterator[Out]:
        """What takes away the rows of those who were asked and never confirmed; ``now`` in Unix seconds."""
        for partition, state in self._open.items():
            for key in state.past(now - LATE) if state.fresh(FRESH) else ():
                raw = state.get(key)  # an event in work may have changed it
                if raw and 0 < goes(raw) < now - LATE:
                    yield Out("mail-consents", None, {}, key, partition)

    def forget(self, ticket: Ticket, to: str) -> None:
        """Delete the rows of somebody who was erased. What is said about them later than that, and is not taken
        back, never comes here."""
        state = self._open[ticket.record.partition]
        for key, _ in state.scan(f"{to}|".encode()):
            state.put(ticket, key, None)

    def _ask(self, ticket: Ticket, event: MailEvent, answer: Answer, asked: Asked, rule: ConsentRule) -> None:
        if self._clock() >= asked.until:
            return
        link = ConfirmToken(
            asked.id, event.tenant, event.stream, event.to, asked.time, asked.until, asked.tracking
        )
        send = Send(
            campaign=confirmation_campaign(event.stream),
            tenant=event.tenant,
            key=f"confirm|{asked.id}",
            to=event.to,
            variables={
                "confirm_url": self._url(link),
                "wording": asked.wording or rule.wording,
                "hours": f"{rule.hours:g}",
            },
        )
        ticket.emit(Out("mail-sends-now", encode(send), _SEND, event.to.encode()))

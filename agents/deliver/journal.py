"""Writing the journal: outcomes on ``mail-outcomes``, and how many of them nobody has acknowledged yet."""

from __future__ import annotations

from collections.abc import Callable

from agents import Out, State, Ticket
from agents.deliver.job import Mail
from schemas.codec import Record, encode
from schemas.outcome import Outcome

HEADERS = {"type": b"outcome", "version": b"1"}


class Journal:
    """Counts what is on its way: the guarantee bounds it (design, "Nothing lost", 6)."""

    def __init__(self, publish: Callable[..., None], monotonic: Callable[[], float]) -> None:
        self._publish = publish
        self._monotonic = monotonic
        self._since: dict[int, float] = {}
        self._number = 0

    @property
    def open(self) -> int:
        """Outcomes written and not acknowledged."""
        return len(self._since)

    def age(self) -> float:
        """Seconds since the oldest of them was written."""
        for since in self._since.values():
            return self._monotonic() - since
        return 0.0

    def write(self, mail: Mail, state: State | None, outcome: Outcome, acked: Callable[[], None]) -> None:
        """Write an outcome; the row sees it at once, ``acked`` follows the broker's acknowledgement.

        Without a state the partition is not ours any more: only its next owner's rows see it."""
        self._number += 1
        number = self._number
        self._since[number] = self._monotonic()

        def done() -> None:
            self._since.pop(number, None)
            acked()

        if state is None:
            self._publish(_out(mail, outcome), done)
        else:
            state.put(self._ticket(mail), mail.id.encode(), encode(outcome), done)

    def emit(self, mail: Mail, out: Out, acked: Callable[[], None]) -> None:
        """Write a record that must be acknowledged before the outcome."""
        ticket = self._ticket(mail)
        ticket.emit(out, acked)

    def _ticket(self, mail: Mail) -> Ticket:
        return _Loose(mail.ticket.record, self._publish) if mail.ticket_done else mail.ticket

    def late(self, mail: Mail, outcome: Outcome) -> None:
        """Journal a reply that came after the mail was given up: no ticket and perhaps no partition is left."""
        self._publish(_out(mail, outcome))


def _out(mail: Mail, outcome: Outcome) -> Out:
    return Out("mail-outcomes", encode(outcome), HEADERS, mail.id.encode(), mail.partition)


class _Loose:
    """A ticket for what hangs on no record any more: its watermark has passed, a copy waits on the ladder."""

    def __init__(self, record: Record, publish: Callable[..., None]) -> None:
        self.record = record
        self._publish = publish

    def emit(self, out: Out, acked: Callable[[], None] | None = None) -> None:
        """Write it."""
        self._publish(out, acked)

    def done(self) -> None:
        """Nothing hangs on it."""

    def keep(self) -> None:
        """Nothing hangs on it."""

    def reject(self, reason: str, detail: str) -> None:
        """Nothing hangs on it."""

"""What an agent is. Pure: agents decide; streams run them, feed them and keep their promises.

An agent is a class whose constructor takes everything it needs (settings, tables, clock, resolver ...)
as explicit arguments; ``streams.app`` composes it. ``agent.py`` of each agent also holds ``STAGE``, the
literal description that the pipeline and its tests read.

How a record travels: the runner hands each record of an owned partition to the agent as a ``Ticket``.
The agent emits what follows from it and says ``done()``. The runner commits an input offset only when
every output of it, and of all before it, is acknowledged by the broker. Nothing an agent does can lose
a record: not done means not committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from schemas.codec import Headers, Record


class Out(NamedTuple):
    """One record to be written. ``topic`` is the logical name (no prefix).

    ``partition``: flow topics take the input's partition (they are co-partitioned by recipient); leave
    None only on a topic of one partition, or where ``key`` chooses (murmur2 mod P).
    """

    topic: str
    value: bytes | None
    headers: Headers
    key: bytes | None = None
    partition: int | None = None


class Retry(Exception):
    """A dependency of ours is unwell: the same records are handed in again after ``after`` seconds.

    The partition waits, the others go on. Not for a provider's 4xx: that is an outcome, a value.
    """

    def __init__(self, after: float, why: str) -> None:
        super().__init__(why)
        self.after = after


class Reject(Exception):
    """This record can never work: it goes to the dead letters as it came.

    ``reason`` is a bounded code (a metric label), ``detail`` says what, where and what to do.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Ticket(Protocol):
    """One record in work. All methods return at once; call them from the event loop's thread."""

    record: Record

    def emit(self, out: Out, acked: Callable[[], None] | None = None) -> None:
        """Write ``out``; ``acked`` is called once the broker has acknowledged it.

        A record that cannot be written ends the process: there is no error to handle.
        """

    def done(self) -> None:
        """No further output follows: the offset may be committed once all outputs are acknowledged."""

    def keep(self) -> None:
        """The agent will say ``done()`` after ``batch`` has returned (deliver, look-ups in progress)."""

    def reject(self, reason: str, detail: str) -> None:
        """Dead-letter the record as it came, and be done with it."""


class Agent(Protocol):
    """A stage at work in one process, for any number of partitions."""

    async def assigned(self, partition: int) -> None:
        """The process owns ``partition`` now: restore its state. No record comes before this returns."""

    async def revoked(self, partition: int) -> None:
        """The partition goes (rebalance or stop): settle what is in work. Bounded to 5 seconds."""

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Work on records of one partition, in offset order per topic.

        A ticket that is neither done, rejected nor kept when this returns is a bug of the agent. Raising
        Retry hands the undone tickets in again later. Any other exception: the undone tickets are handed
        in one by one, and the one that raises alone goes to the dead letters with reason ``bug``.
        """


class Steps:
    """Base of the stateless agents: one record in, any number out, decided at once by ``step``."""

    async def assigned(self, partition: int) -> None:
        """Nothing to restore."""

    async def revoked(self, partition: int) -> None:
        """Nothing to settle."""

    def step(self, record: Record) -> Iterable[Out]:
        """What follows from one record. May raise Retry or Reject; blocks the loop while it computes."""
        raise TypeError(f"{type(self).__name__} has no step")

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Every ticket through ``step``."""
        for ticket in tickets:
            try:
                outs = self.step(ticket.record)
            except Reject as reject:
                ticket.reject(reject.reason, reject.detail)
                continue
            for out in outs:
                ticket.emit(out)
            ticket.done()


class View(Protocol):
    """One partition of a compacted topic, read to its end and followed: somebody else's state."""

    @property
    def hashed(self) -> Set[str]:
        """The hashes of the people who were erased of whom it holds rows (``schemas.erasure``)."""

    def get(self, key: bytes) -> bytes | None:
        """The value under ``key``, or None."""

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Every (key, value) whose key starts with ``prefix``, in key order."""

    async def to_end(self) -> None:
        """Return when everything that is in the topic's partition now is seen."""


class State(View, Protocol):
    """One partition of this stage's own state. Its truth is its compacted changelog topic in Kafka.

    The local rows (SQLite) are written only from the changelog's tail; ``get`` and ``scan`` see the
    process's own writes at once.
    """

    def put(
        self, ticket: Ticket, key: bytes, value: bytes | None, acked: Callable[[], None] | None = None
    ) -> None:
        """Write ``value`` (None deletes) to the changelog as an output of ``ticket``; ``acked`` as in emit."""

    async def keys(self, wanted: Callable[[bytes], bool]) -> list[bytes]:
        """Every key that is wanted. Goes through all rows, a few thousand at a time: others take their turns."""

    def fresh(self, seconds: float) -> bool:
        """Whether it is known to have been read to its end within the last ``seconds``: a worker that was frozen has
        rows that its successor changed."""

    def past(self, now: float) -> list[bytes]:
        """Keys of some rows whose time has passed at ``now`` (Unix seconds), for states whose rows have one."""


class States(Protocol):
    """Opens the state of a partition; an agent calls it in ``assigned`` and ``revoked``."""

    async def open(self, partition: int) -> State:
        """The state, read to the end of its changelog."""

    async def close(self, partition: int) -> None:
        """Stop following and close the file."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The literal description of a stage. Topics are logical names; twins (``-now``) are added by ``twins``."""

    name: str
    question: str
    consumes: tuple[str, ...]
    emits: tuple[str, ...]
    twins: bool = True
    slice: int = 100
    """Records handed in at once: small enough that transactional mail never waits long behind bulk."""
    window: int = 5000
    """Records in work per partition before the runner stops reading it."""
    state: str = "none"
    patience: float = 0.15
    """Seconds that a record may wait under load for others to be fetched with it: a fetch costs as much as 20
    records, at the broker as much again. Transactional mail never waits for that."""
    skips: frozenset[bytes] = frozenset()
    """Values of the header ``kind`` that say nothing to it: the runner counts such a record as done, unread.
    Of an event that nobody looks at, decoding and handing over are most of the cost."""
    prompt: bool = False
    """Whether outputs wait for nothing: what deliver has not told yet would be sent twice after a crash."""

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic it reads, twins first: they are polled first."""
        now = tuple(f"{topic}-now" for topic in self.consumes) if self.twins else ()
        return now + self.consumes

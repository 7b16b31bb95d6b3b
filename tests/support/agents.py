"""In-memory stand-ins for what an agent gets from the runner: tickets and states."""

from __future__ import annotations

from collections.abc import Callable

from agents import Out, Ticket
from schemas.codec import Headers, Record, encode, name_of
from schemas.erasure import name_in


def record(
    value: object,
    *,
    topic: str = "mail-events",
    partition: int = 0,
    offset: int = 0,
    timestamp: int = 0,
    key: bytes | None = None,
    headers: Headers | None = None,
) -> Record:
    """A record of raw bytes, of nothing, or of a registered event with its type and version headers."""
    found = dict(headers or {})
    if value is not None and not isinstance(value, bytes):
        name, version = name_of(type(value))
        found = {"type": name.encode(), "version": b"%d" % version, **found}
        value = encode(value)
    return Record(topic, partition, offset, timestamp, key, value, found)


class FakeTicket:
    """A ticket that collects. Outputs count as acknowledged at once, or on ``ack`` where ``hold`` is set."""

    def __init__(self, record: Record, hold: bool = False) -> None:
        self.record = record
        self.hold = hold
        self.outs: list[Out] = []
        self.waiting: list[Callable[[], None]] = []
        self.rejected: tuple[str, str] | None = None
        self.said_done = False
        self.kept = False

    def emit(self, out: Out, acked: Callable[[], None] | None = None) -> None:
        """Collect ``out``; an output after done() is a bug of the agent."""
        assert not self.said_done, "the agent emits after done()"
        self.outs.append(out)
        self.waiting.append(acked or (lambda: None))
        if not self.hold:
            self.ack()

    def ack(self) -> None:
        """The broker acknowledges everything emitted so far."""
        while self.waiting:
            self.waiting.pop(0)()

    def done(self) -> None:
        """Once, and only once."""
        assert not self.said_done, "the agent says done() twice"
        self.said_done = True

    def keep(self) -> None:
        """The agent says done() later."""
        self.kept = True

    def reject(self, reason: str, detail: str) -> None:
        """To the dead letters."""
        self.rejected = (reason, detail)
        self.done()

    @property
    def committable(self) -> bool:
        """Whether the runner could commit the record: done, and every output acknowledged."""
        return self.said_done and not self.waiting


class MemoryState:
    """A state whose changelog is the tickets' outputs and whose rows are a dictionary."""

    def __init__(self, topic: str, partition: int = 0) -> None:
        self.topic = topic
        self.partition = partition
        self.rows: dict[bytes, bytes] = {}
        self.reads = 0
        self.over: list[bytes] = []
        """Keys of rows whose time has passed: a test says which."""
        self.is_fresh = True
        self.ended = 0
        """How often somebody waited for its end."""

    @property
    def hashed(self) -> set[str]:
        """Who was erased."""
        return {name_in(key) for key in self.rows if key.startswith(b"#")}

    async def to_end(self) -> None:
        """It is always there."""
        self.ended += 1

    async def keys(self, wanted: Callable[[bytes], bool]) -> list[bytes]:
        """Every key that is wanted."""
        return [key for key in self.rows if wanted(key)]

    def get(self, key: bytes) -> bytes | None:
        """The value under ``key``, or None."""
        self.reads += 1
        return self.rows.get(key)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Every (key, value) with the prefix, in key order."""
        self.reads += 1
        return sorted((key, value) for key, value in self.rows.items() if key.startswith(prefix))

    def fresh(self, seconds: float) -> bool:
        """Whether its rows are the topic's: a test says."""
        return self.is_fresh

    def past(self, now: float) -> list[bytes]:
        """Keys of rows whose time has passed."""
        return self.over

    def put(
        self, ticket: Ticket, key: bytes, value: bytes | None, acked: Callable[[], None] | None = None
    ) -> None:
        """Seen at once, and written as an output of ``ticket``."""
        if value is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value
        ticket.emit(Out(self.topic, value, {}, key, self.partition), acked)


class MemoryStates:
    """Opens memory states; they survive being closed, as a changelog does."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.all: dict[int, MemoryState] = {}
        self.opened: set[int] = set()

    async def open(self, partition: int) -> MemoryState:
        """The partition's state; opening it twice is a bug of the agent."""
        assert partition not in self.opened, "the agent opens a state twice"
        self.opened.add(partition)
        return self.all.setdefault(partition, MemoryState(self.topic, partition))

    async def close(self, partition: int) -> None:
        """Closing what is not open is a bug of the agent."""
        self.opened.remove(partition)


def tickets(*values: object) -> list[FakeTicket]:
    """One ticket per value, with growing offsets."""
    return [FakeTicket(record(value, offset=offset)) for offset, value in enumerate(values)]

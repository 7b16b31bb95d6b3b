"""What a server of the lab decides: replies, scripted faults, and the sink of the benchmarks.

The protocol itself is in ``smtp``; a simulated provider (``providers``) is a ``Site`` too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from streams.lab.smtp import Session

PHASES: tuple[str, ...] = ("connect", "ehlo", "starttls", "mail", "rcpt", "data", "content", "dot")
"""``content`` is inside DATA (after the 354, before the final dot); ``dot`` after it, before the reply."""
ACTS = ("close", "reset", "silent", "nonsense", "slow", "reply")


class Reply(NamedTuple):
    """A reply; ``text`` begins with the enhanced code where there is one. ``close``: and then hang up."""

    code: int
    text: str
    close: bool = False

    def wire(self) -> bytes:
        """As sent; every line of the text becomes one of the reply."""
        lines = self.text.split("\n")
        rest = "".join(f"{self.code}-{line}\r\n" for line in lines[:-1])
        return f"{rest}{self.code} {lines[-1]}\r\n".encode("utf-8", "replace")


TAKEN = Reply(250, "2.0.0 Ok")


@dataclass(frozen=True, slots=True)
class Fault:
    """A scripted misfortune at ``phase`` of a session, the next ``count`` times (-1: until cleared).

    ``act``: close (FIN, no reply), reset (RST), silent (no reply ever), nonsense (bytes that are no
    reply), slow (the right reply after ``seconds``), reply (``text``, such as ``451 4.3.0 no disk``).
    ``source`` and ``rcpt`` restrict it to a peer or to recipients that contain the text (from rcpt on).
    At ``dot`` the mail was taken and recorded unless ``kept`` is False.
    """

    phase: str
    act: str
    count: int = 1
    seconds: float = 0.0
    text: str = ""
    source: str = ""
    rcpt: str = ""
    kept: bool = True

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"fault phase {self.phase!r} is none of {', '.join(PHASES)}")
        if self.act not in ACTS:
            raise ValueError(f"fault act {self.act!r} is none of {', '.join(ACTS)}")
        if self.act == "reply" and not re.match(r"[245]\d\d ", self.text):
            raise ValueError(f"fault text {self.text!r} is no SMTP reply; begin it with a code")


class Site:
    """What a server decides. Every hook answers at once; None means yes."""

    hostname = "mx.lab.test"
    max_size = 26_214_400
    smtputf8 = False
    eager_data = False
    """Answer DATA with 354 although no recipient was accepted, as RFC 2920 section 3.1 allows."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def script(self, fault: Fault) -> None:
        """Add a fault. The first that matches is the one that happens."""
        self._faults.append(fault)

    def clear(self, phase: str = "", rcpt: str = "") -> None:
        """No more faults, or none of this phase and of these recipients (the fault's own ``rcpt``)."""
        self._faults = [f for f in self._faults if (phase and f.phase != phase) or (rcpt and f.rcpt != rcpt)]

    def fault(self, session: Session, phase: str, rcpt: str = "") -> Fault | None:
        """The fault that strikes this session now, used up by one."""
        if not self._faults:
            return None
        for index, fault in enumerate(self._faults):
            if fault.phase == phase and fault.source in ("", session.source) and fault.rcpt in rcpt:
                if fault.count == 1:
                    del self._faults[index]
                elif fault.count > 1:
                    self._faults[index] = replace(fault, count=fault.count - 1)
                return fault
        return None

    def latency(self, phase: str) -> float:
        """Seconds before the reply of a phase."""
        return 0.0

    def connected(self, session: Session) -> Reply | None:
        """Refuse a connection instead of greeting it."""
        return None

    def disconnected(self, session: Session) -> None:
        """A connection ended; called once for each ``connected``."""

    def mail(self, session: Session) -> Reply | None:
        """Refuse a transaction; ``session.sender`` and ``session.at`` are set."""
        return None

    def rcpt(self, session: Session, address: str) -> Reply | None:
        """Refuse a recipient."""
        return None

    def dot(self, session: Session, content: bytes, replied: bool) -> Reply:
        """Take or refuse the message. ``replied`` False: a fault will keep the reply from the sender."""
        return TAKEN


URGENT = "urgent-"
"""How the addresses begin whose arrival the sink notes one by one."""


class Sink(Site):
    """Takes everything as fast as it comes, and counts: what the benchmarks send to."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self.count = self.bytes = 0
        self.first = self.last = 0.0
        self._seen: set[bytes] = set()
        self._urgent: dict[str, float] = {}

    def dot(self, session: Session, content: bytes, replied: bool) -> Reply:
        """Count it."""
        self.last = self._clock()
        for rcpt in session.rcpts:
            if rcpt.startswith(URGENT):
                self._urgent[rcpt] = self.last
        if not self.count:
            self.first = self.last
        self.count += 1
        self.bytes += len(content)
        self._seen.add(_message_id(content))
        return TAKEN

    def urgent(self) -> dict[str, float]:
        """Unix time of the last 250 of every recipient whose address begins with URGENT."""
        return self._urgent

    def report(self) -> dict[str, float]:
        """Messages, distinct Message-IDs, bytes, Unix times of the first and last 250, messages a second."""
        seconds = self.last - self.first
        return {
            "count": self.count,
            "distinct": len(self._seen),
            "bytes": self.bytes,
            "first": self.first,
            "last": self.last,
            "messages_per_second": round((self.count - 1) / seconds, 1) if seconds > 0 else 0.0,
        }


def _message_id(content: bytes) -> bytes:
    start = 0 if content.startswith(b"Message-ID:") else content.find(b"\r\nMessage-ID:") + 2
    return content[start : content.find(b"\r\n", start)] if start != 1 else b""

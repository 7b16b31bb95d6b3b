"""A worker that falls where it is told: ``python -m streams.ops.chaos.stumble`` with the arguments of
``streams.worker``. The worker itself has no code for this; what is put around it is here.

``CHAOS_POINT`` names a file. While it holds ``{"point": NAME, "after": N, "act": "kill" | "stop"}`` the
process sends itself SIGKILL or SIGSTOP at the Nth time that it passes the point (``points.py``); the file is
removed just before. ``CHAOS_CLOCK`` is added to the time of day, in seconds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import orjson

LOOK = 0.02
"""Seconds between two looks at the file."""


class Trap:
    """Waits for the point named in ``path``; ``fall`` does what the file says, by signal number."""

    def __init__(
        self,
        path: Path,
        fall: Callable[[int], None] = lambda number: os.kill(os.getpid(), number),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._fall, self._monotonic = path, fall, monotonic
        self._looked = float("-inf")
        self._stamp = 0
        self._wanted: tuple[str, int, int] | None = None

    def passes(self, phase: str, place: str = "") -> None:
        """The process is at a point just now: it may not come back from here."""
        now = self._monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            self._look()
        if self._wanted is None:
            return
        point, left, number = self._wanted
        if not fnmatchcase(f"{phase} {place}".strip(), point):
            return
        self._wanted = (point, left - 1, number)
        if left <= 1:
            self._wanted = None
            self._path.unlink(missing_ok=True)
            self._fall(number)

    def _look(self) -> None:
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp == self._stamp:
                return
            found = orjson.loads(self._path.read_bytes())
        except (OSError, orjson.JSONDecodeError):  # none, or gone meanwhile
            self._wanted, self._stamp = None, 0
            return
        self._stamp = stamp
        number = signal.SIGSTOP if found["act"] == "stop" else signal.SIGKILL
        self._wanted = (found["point"], int(found["after"]), number)


def install(trap: Trap) -> None:
    """Put the trap around outbox, runner and SMTP session."""
    from agents.deliver.smtp import BODY, DOT, Session
    from schemas.mail import base_topic
    from streams.broker import Outbox
    from streams.runner import Runner

    kept: dict[str, Any] = {
        "_write": Outbox._write, "_written": Outbox._written, "_commit": Runner._commit,
        "write": Session._write, "_body": Session._body, "_dot": Session._dot, "_ended": Session._ended,
        "_at_once": Session._at_once,
    }  # fmt: skip

    async def write(self: Any, line: Any) -> None:
        trap.passes("before", base_topic(line.topic))
        await kept["_write"](self, line)

    def written(self: Any, line: Any, taken: Any, future: Any) -> None:
        good = not future.cancelled() and future.exception() is None
        topic = base_topic(line.topic)
        if good:
            trap.passes("acked", topic)
        kept["_written"](self, line, taken, future)
        if good:
            trap.passes("after", topic)

    async def commit(self: Any) -> None:
        trap.passes("before commit", self.stage.name)
        await kept["_commit"](self)
        trap.passes("after commit", self.stage.name)

    def say(self: Any, data: bytes) -> None:
        dot = data == b".\r\n" and self._phase is BODY
        if b"MAIL FROM:" in data[:20]:
            trap.passes("smtp before", "MAIL")
        kept["write"](self, data)
        if dot:
            trap.passes("smtp after", "dot")

    def body(self: Any, job: Any) -> None:
        trap.passes("smtp after", "354")
        kept["_body"](self, job)

    def dot(self: Any, again: float) -> None:
        trap.passes("smtp before", "dot")
        kept["_dot"](self, again)

    def at_once(self: Any, job: Any, data: bytes) -> None:
        trap.passes("smtp before", "dot")
        kept["_at_once"](self, job, data)
        if self._phase is DOT:
            trap.passes("smtp after", "dot")

    def ended(self: Any, code: int, text: str) -> None:
        trap.passes("smtp after", "reply")
        kept["_ended"](self, code, text)

    hooks: tuple[tuple[Any, str, Any], ...] = (
        (Outbox, "_write", write), (Outbox, "_written", written), (Runner, "_commit", commit),
        (Session, "_write", say), (Session, "_body", body), (Session, "_dot", dot), (Session, "_ended", ended),
        (Session, "_at_once", at_once),
    )  # fmt: skip
    for owner, name, hook in hooks:
        setattr(owner, name, hook)


def main() -> int:
    """The process."""
    ahead = float(os.environ.get("CHAOS_CLOCK", "0"))
    if ahead:
        real = time.time
        time.time = lambda: real() + ahead  # before anything that keeps the function is imported
    from streams.worker import main as work

    install(Trap(Path(os.environ["CHAOS_POINT"])))
    return work()


if __name__ == "__main__":
    sys.exit(main())

"""A two-stage toy pipeline: toy-in -> double -> toy-mid -> mark -> toy-out. Run as a process of its own.

    python tests/support/toy.py HOST:PORT PREFIX PARTITIONS STAGE[,STAGE] [chain]

A record whose value is ``poison`` kills the process, ``raise`` raises, ``bad`` is rejected, ``slow`` takes
0.2 s, ``retry`` raises Retry twice. Everything else goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from agents import Out, Reject, Retry, Stage, Steps, Ticket
from schemas.codec import Record
from streams import runner
from streams.broker import Outbox, die, make_producer
from streams.notes import Notes
from streams.runner import Runner
from streams.settings import Settings

DOUBLE = Stage(
    "toy-double", "what comes twice?", ("toy-in",), ("toy-mid",), twins=False, slice=50, window=500
)
MARK = Stage("toy-mark", "which is which?", ("toy-mid",), ("toy-out",), twins=False, slice=50, window=500)


class Double(Steps):
    """One record in, two out: the case in which de-duplicating by offset loses mail."""

    def __init__(self) -> None:
        self.retries = 0

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        if any(t.record.value == b"slow" for t in tickets):
            await asyncio.sleep(0.2)
        await super().batch(tickets, partition)

    def step(self, record: Record) -> Iterable[Out]:
        value = record.value
        if value == b"poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if value == b"raise":
            raise ZeroDivisionError("on purpose")
        if value == b"bad":
            raise Reject("bad_toy", "the value says so")
        if value == b"retry" and self.retries < 2:
            self.retries += 1
            raise Retry(0.1, "on purpose")
        for half in (b"a", b"b"):
            yield Out("toy-mid", value, {**record.headers, "half": half}, record.key, record.partition)


class Mark(Steps):
    """Writes what it got."""

    def step(self, record: Record) -> Iterable[Out]:
        yield Out("toy-out", record.value, record.headers, record.key, record.partition)


def build(settings, partitions, stages, chain, fatal=die):
    """The outbox and the runners of a toy process."""
    outbox = Outbox(make_producer(settings), settings, fatal)
    made = []
    for name in stages:
        stage, agent = (DOUBLE, Double()) if name == "double" else (MARK, Mark())
        notes = Notes(Path(os.environ["TOY_NOTES"]) / name) if "TOY_NOTES" in os.environ else None
        made.append(Runner(stage, agent, settings, outbox, partitions, fatal, notes=notes))
    if chain:
        first, second = made
        second.chain_behind(first, "toy-mid")
    return outbox, made


async def main(argv: Sequence[str]) -> None:
    """Run until SIGTERM."""
    broker, prefix, partitions, stages = argv[:4]
    settings = Settings(
        broker=broker,
        prefix=prefix,
        session=float(os.environ.get("TOY_SESSION", "3.0")),
        commit=0.2,
        broker_idempotent=os.environ.get("TOY_IDEMPOTENT") == "1",
    )
    runner.LOOK = float(os.environ.get("TOY_LOOK", runner.LOOK))
    outbox, runners = build(settings, int(partitions), stages.split(","), len(argv) > 4)
    await outbox.start()
    for one in runners:
        await one.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    for one in runners:
        await one.stop()
    await outbox.stop()


if __name__ == "__main__":
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphan outlives its test
    asyncio.run(main(sys.argv[1:]))

"""What the edge's process adds: askers wait for the broker, and while it is away they cannot fill the memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agents import Out
from streams.edge.acked import Acked
from streams.edge.process import publishing


class Away:
    """An outbox whose broker answers when the test says so."""

    def __init__(self) -> None:
        self.held: list[tuple[Out, Callable[[int], None]]] = []
        self.full = False

    def put(self, out: Out, acked: Callable[[int], None]) -> None:
        self.held.append((out, acked))


async def test_what_is_written_is_acknowledged_and_beyond_the_limit_nothing_is_held() -> None:
    outbox: Any = Away()
    out, acked = Out("mail-inbound", b"x", {}, None, 0), Acked(publishing(outbox), 0.05)
    task = asyncio.create_task(acked(out))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    outbox.held[0][1](7)
    assert await task
    assert not await acked(out)  # no answer within the time; the record may be in Kafka all the same
    assert len(outbox.held) == 2
    outbox.full = True
    with pytest.raises(BufferError):
        await publishing(outbox)(out)
    assert not await acked(out)
    assert len(outbox.held) == 2
    outbox.full = False
    outbox.held[1][1](8)  # nobody waits for it any more

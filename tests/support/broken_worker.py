"""A worker with a bug: stages named in BROKEN_STAGES raise on every record to an address that begins ``bad-STAGE``.

Run as ``streams.worker`` is; without BROKEN_STAGES it is one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from agents import Ticket
from agents.deliver.agent import Deliver
from agents.enqueue.agent import Enqueue
from agents.render.agent import Render
from agents.screen.agent import Screen
from agents.sign.agent import Sign
from streams import worker

AGENTS: dict[str, Any] = {
    "enqueue": Enqueue,
    "screen": Screen,
    "render": Render,
    "sign": Sign,
    "deliver": Deliver,
}


def break_stage(name: str) -> None:
    """The agent's ``batch`` raises as a bug of its own would."""
    agent, needle = AGENTS[name], f"bad-{name}".encode()
    whole = agent.batch

    async def batch(self: Any, tickets: Sequence[Ticket], partition: int) -> None:
        for ticket in tickets:
            record = ticket.record
            if needle in record.headers.get("to", record.value or b""):
                raise ZeroDivisionError("on purpose")
        await whole(self, tickets, partition)

    agent.batch = batch


if __name__ == "__main__":
    for stage in filter(None, os.environ.get("BROKEN_STAGES", "").split(",")):
        break_stage(stage)
    worker.main()

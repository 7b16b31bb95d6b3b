"""What each kind of fault does. A fault returns when it is over; the load goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from streams.ops.chaos.fleet import Fleet
from streams.ops.chaos.load import Load
from streams.ops.chaos.plan import Fault
from streams.ops.scene import Scene

BURST = 24
"""Requests that are under way at the edge when it is killed."""


class Faults:
    """Does the faults of a plan to a scene; ``strike`` one of them."""

    def __init__(self, scene: Scene, fleet: Fleet, load: Load) -> None:
        self._scene, self._fleet, self._load = scene, fleet, load
        self._kinds: dict[str, Callable[[Fault], Awaitable[None]]] = {
            **{f"kill-{group}": self._kill for group in fleet.groups.values()},
            "kill-edge": self._kill_edge,
        }

    async def strike(self, fault: Fault) -> None:
        """Do it; returns when it is over."""
        await self._kinds[fault.kind](fault)

    async def _kill(self, fault: Fault) -> None:
        await self._fleet.kill(fault.target)

    async def _kill_edge(self, fault: Fault) -> None:
        """Killed between receiving and answering: what it had answered must be there afterwards."""
        mails = list(self._load.delivered)[-BURST:]
        requests = [asyncio.create_task(self._load.open_mail(*mail)) for mail in mails]
        # Somewhere between the first connection and the last answer, another moment each time.
        await asyncio.sleep(0.001 + 0.004 * (fault.number % 8))
        await self._fleet.kill(fault.target)
        await asyncio.gather(*requests)

"""How many bytes of large mail may be on their way at once: those that wait for it hold none."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """``limit`` in bytes. What is larger than all of it goes alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until there is room for ``size`` bytes, in the order of asking, and take it."""
        if not self._waiting and self._fits(size):
            self.taken += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            else:  # it may have been in the way of others
                self.give(0)
            raise

    def give(self, size: int) -> None:
        """Give ``size`` bytes back."""
        self.taken -= size
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(wanted):
                    return
                self.taken += wanted
                turn.set_result(None)
            self._waiting.popleft()

    def _fits(self, size: int) -> bool:
        return not self.taken or self.taken + size <= self._limit

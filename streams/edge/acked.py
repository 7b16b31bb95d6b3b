"""Events are written before anybody gets an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agents import Out

log = logging.getLogger("mailsluice.edge")
Publish = Callable[[Out], Awaitable[None]]
"""Writes one record and returns once the broker has acknowledged it (acks=all); raises where it cannot."""


class Acked:
    """Writes records and says whether all were acknowledged within ``seconds``.

    After a False some may be in Kafka all the same: whoever comes again makes a repeat, and consumers
    drop repeats by id.
    """

    def __init__(self, publish: Publish, seconds: float) -> None:
        self._publish = publish
        self._seconds = seconds
        self._well = True

    async def __call__(self, *outs: Out) -> bool:
        """Whether every record is in Kafka now."""
        try:
            async with asyncio.timeout(self._seconds):
                await asyncio.gather(*(self._publish(out) for out in outs))
        except Exception as error:  # whatever is wrong with the broker: the asker must come again
            if self._well:
                log.error("the edge cannot write to Kafka (%r): askers are told to come again", error)
            self._well = False
            return False
        if not self._well:
            log.warning("the edge writes to Kafka again")
        self._well = True
        return True

"""Foreign tables: what a stage only reads, read to its end before the first record and followed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from agents import Agent, Ticket
from schemas.campaign import Campaign
from schemas.codec import Malformed, parse
from streams.follow import Follower
from streams.state import StateFiles

log = logging.getLogger("mailsluice.tables")


class Campaigns(dict[str, Campaign]):
    """``tenant/id`` -> campaign, from ``mail-campaigns``. What cannot be read is left out: the stage
    ``campaigns`` dead-letters it."""

    def __init__(self, follower: Follower) -> None:
        super().__init__()
        self._follower = follower

    async def open(self) -> None:
        """Read the topic to its end and follow it."""
        first = await self._follower.first("mail-campaigns", 0)
        await self._follower.follow("mail-campaigns", 0, self._apply, first)

    async def read_to_end(self) -> None:
        """Return when everything that is on the topic now is in the table."""
        await self._follower.to_end("mail-campaigns", 0)

    def _apply(self, messages: Sequence[Any]) -> None:
        for message in messages:
            if not message.value:
                if message.key:
                    self.pop(message.key.decode("utf-8", "replace"), None)
                continue
            try:
                campaign = parse(message.value, Campaign)
            except Malformed as error:
                log.warning("campaign at offset %d cannot be read: %s", message.offset, error.code)
                continue
            self[campaign.key.decode()] = campaign


class WithViews:
    """An agent whose foreign tables are opened with each partition, before it sees a record."""

    def __init__(self, agent: Agent, views: Sequence[StateFiles]) -> None:
        self.agent = agent
        self._views = views

    async def assigned(self, partition: int) -> None:
        """Tables first."""
        for view in self._views:
            await view.open(partition)
        await self.agent.assigned(partition)

    async def revoked(self, partition: int) -> None:
        """Tables last."""
        try:
            await self.agent.revoked(partition)
        finally:
            for view in self._views:
                await view.close(partition)

    async def batch(self, tickets: Sequence[Ticket], partition: int) -> None:
        """Straight on."""
        await self.agent.batch(tickets, partition)

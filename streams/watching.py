"""Asks the block lists of DNS about our own names; what an answer means is ``agents.watch.policy``'s business."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from agents.watch.policy import BlockList, in_order, meaning, own_points, question

log = logging.getLogger("mailsluice.watch")
AT_ONCE = 50
"""Questions at a time: those of thousands of names would wait for each other until nobody seems to answer."""
Ask = Callable[[str], Awaitable[Sequence[str] | None]]


class Watch:
    """``ask`` gives the A records of a name, None where nobody answered (``Resolver.codes``)."""

    def __init__(self, lists: Sequence[BlockList], ask: Ask) -> None:
        self._lists = lists
        self._ask = ask
        self.dead: set[str] = set()
        """Lists that answered their own test points wrongly, or not at all, when asked last."""

    async def look(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The lists that have each name; a name that none has, or that nobody answers about, is left out."""
        wanted = sorted(set(names))
        found: dict[str, list[str]] = {}
        for block_list in self._lists:
            if not await self._alive(block_list):
                continue
            asked = [(name, at) for name in wanted if (at := question(name, block_list))]
            for n in range(0, len(asked), AT_ONCE):
                some = asked[n : n + AT_ONCE]
                said = await asyncio.gather(*(self._ask(at) for _, at in some))
                for (name, _), answers in zip(some, said, strict=True):
                    if meaning(answers) == "listed":
                        found.setdefault(name, []).append(block_list.zone)
        return {name: tuple(zones) for name, zones in found.items()}

    async def _alive(self, block_list: BlockList) -> bool:
        has, has_not = await asyncio.gather(*(self._ask(name) for name in own_points(block_list)))
        if in_order(meaning(has), meaning(has_not)):
            self.dead.discard(block_list.zone)
            return True
        if block_list.zone not in self.dead:
            log.warning(
                "the block list %s is not believed: its test points answer %s (should be listed) and %s (should be "
                "empty). It is gone, or refuses this resolver: ask through one of your own (MAILSLUICE_DNS)",
                block_list.zone, has, has_not,
            )  # fmt: skip
        self.dead.add(block_list.zone)
        return False

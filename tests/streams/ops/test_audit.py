"""The audit beside mail that moves while it reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agents import Out
from schemas.codec import Record, encode
from schemas.identity import origin_of
from schemas.outcome import Outcome
from schemas.send import Send
from schemas.topology import Topology
from streams.ops import audit as books
from streams.settings import Settings
from tests.support.brokers import Broker
from tests.support.published import applied, fact, published


@pytest.mark.parametrize("dead", [False, True])
async def test_what_ends_between_the_two_looks_is_neither_lost_nor_dead(
    broker: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    settings = await applied(broker, prefix)
    send = Send(campaign="c", to="anna@example.org")
    [(offset, stamp)] = await published(settings, [Out("mail-sends", encode(send), {}, None, 1)])
    origin = origin_of("mail-sends", 1, offset, stamp)
    if dead:  # and was replayed since
        headers = {"origin": origin.encode(), "dlq_topic": b"mail-screened", "dlq_stage": b"render"}
        await published(settings, [Out("mail-dlq", b"", headers, None, 0)])

    async def late(*arguments: Any) -> None:
        """All of its way while the audit looks elsewhere: nothing of it is pending any more."""
        end = Outcome(id="0" * 32, origin=origin, state="delivered", attempt=1)
        await published(settings, [fact("mail-outcomes", end, b"0" * 32, 1)])

    monkeypatch.setattr(books, "_read_pending", late)
    found = await books.audit(settings)
    assert (found.received, found.counts["delivered"], found.strangers) == (1, 1, 0)
    assert found.balanced


class Moving:
    """Topics in memory. Stage wait moves its mail on when the lanes were looked at, and before the rungs are."""

    def __init__(self) -> None:
        self.at = ("mail-wait-1m", 0)
        origin = {"origin": origin_of("mail-sends", 0, 0, 1000).encode()}
        self.logs = {
            "mail-sends": [Record("mail-sends", 0, 0, 1000, None, b"{}", {})],
            "mail-wait-1m": [Record("mail-wait-1m", 0, 0, 2000, None, b"", origin)],
        }

    async def check(self, settings: Settings) -> Topology:
        return Topology(partitions=1, lanes=())

    async def committed(
        self, settings: Settings, stage: str, topics: list[str], partitions: int
    ) -> dict[str, dict[int, int]]:
        if stage == "wait" and self.at == ("mail-wait-1m", 0):
            slip = self.logs["mail-wait-1m"][0]
            self.logs["mail-lane-google"] = [Record("mail-lane-google", 0, 0, 3000, None, b"", slip.headers)]
            self.at = ("mail-wait-1m", 1)
        done = {"mail-sends": 1, self.at[0]: self.at[1]}
        return {topic: {0: done.get(topic, 0)} for topic in topics}

    async def read_topic(
        self, settings: Settings, topic: str, partitions: int, start: dict[int, int] | None = None
    ) -> AsyncIterator[Record]:
        for record in self.logs.get(topic, [])[(start or {}).get(0, 0) :]:
            yield record


async def test_what_leaves_the_ladder_between_two_stages_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    topics = Moving()
    for name in ("check", "committed", "read_topic"):
        monkeypatch.setattr(books, name, getattr(topics, name))
    found = await books.audit(Settings())
    assert (found.received, found.counts["pending"]) == (1, 1)

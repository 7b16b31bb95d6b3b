"""The audit beside mail that moves while it reads."""

from __future__ import annotations

from typing import Any

import pytest

from agents import Out
from schemas.codec import encode
from schemas.identity import origin_of
from schemas.outcome import Outcome
from schemas.send import Send
from streams.ops import audit as books
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

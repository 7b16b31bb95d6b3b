"""The golden sends on their way through enqueue, screen, render and sign: what each stage makes of them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Sequence

import schemas.mail
from agents import Agent, Out, Stage
from agents.enqueue import policy as enqueue
from agents.enqueue.agent import Enqueue
from agents.render.agent import Render
from agents.screen import policy as screen
from agents.screen.agent import Screen
from agents.shape.agent import STAGE as SHAPE
from agents.sign.agent import Sign
from agents.sign.keys import new_keys
from schemas.codec import Record, decode
from schemas.hosts import NULL_MX, MailHosts, MxHost
from schemas.ladder import RUNGS
from schemas.lanes import lane_names, lane_topic
from schemas.mail import base_topic
from schemas.token import Tokens
from streams.pipeline import STAGES
from streams.topics import BY_NAME
from tests.support.agents import FakeTicket, MemoryState, MemoryStates
from tests.support.examples import examples_of, headers_of, read

P = 8
STAGE = {stage.name: stage for stage in (*STAGES, SHAPE)}
NOW = 1_790_000_600.0
"""Ten minutes after the examples' sends."""
CAMPAIGNS = {  # of two with one key the active one
    f"{found.tenant}/{found.id}": found
    for found in map(read, sorted(examples_of("campaign"), key=lambda path: path.stem != "cancelled"))
}
TOKENS = Tokens([b"0123456789abcdef0123456789abcdef"])
DOCUMENTED = set(re.findall(r"``(\w+)``", schemas.mail.__doc__ or ""))


class Dns:
    """Knows the examples' domains; one of them takes no mail."""

    def cached(self, domain: str) -> MailHosts:
        return NULL_MX if domain.startswith("xn--") else MailHosts((MxHost(10, "mx1.example.org"),), "ok")

    async def mail_hosts(self, domain: str) -> MailHosts:
        return self.cached(domain)

    async def addresses(self, host: str) -> tuple[str, ...]:
        raise AssertionError("no stage before deliver asks for addresses")


async def nothing_more() -> None:
    """The campaigns are read to their end."""


def examples(event: str, topic: str) -> list[Record]:
    """The examples of an event as records of a topic."""
    stamp = int(NOW * 1000) - 600_000
    return [
        Record(topic, 0, offset, stamp, None, path.read_bytes(), headers_of(path))
        for offset, path in enumerate(examples_of(event))
    ]


async def through(agent: Agent, stage: Stage, records: Sequence[Record]) -> list[Out]:
    """What an agent makes of records. Every one is done, none is rejected, every output is what it should be."""
    assert records
    await agent.assigned(0)
    tickets = [FakeTicket(record) for record in records]
    await agent.batch(tickets, 0)
    async with asyncio.timeout(5):
        while not all(ticket.said_done for ticket in tickets):
            assert all(ticket.said_done or ticket.kept for ticket in tickets)
            await asyncio.sleep(0.005)
    await agent.revoked(0)
    assert [ticket.rejected for ticket in tickets if ticket.rejected] == []
    found = [out for ticket in tickets for out in ticket.outs]
    for out in found:
        check(stage, out)
    return found


def check(stage: Stage, out: Out) -> None:
    """An output goes where the stage says it writes, and the next stage can read it."""
    topic = BY_NAME[out.topic]
    assert base_topic(out.topic) in {*stage.emits, stage.state}
    if topic.event in ("accepted", "mail"):
        assert set(out.headers) <= DOCUMENTED, "describe the header in schemas/mail.py"
    elif topic.event != "inbound" and out.value is not None:
        decode(Record(out.topic, 0, 0, 0, out.key, out.value, out.headers), topic.event)


def of(topic: str, found: Iterable[Out]) -> list[Record]:
    """What the next stage reads from a topic and its twin."""
    return [
        Record(out.topic, 0, offset, int(NOW * 1000), out.key, out.value, out.headers)
        for offset, out in enumerate(found)
        if base_topic(out.topic) == topic
    ]


# --- mail on its way


async def enqueued() -> list[Record]:
    agent = Enqueue(
        enqueue.Settings(hold=0.01), P, CAMPAIGNS, nothing_more, Dns(), lambda: NOW, time.monotonic
    )
    found = await through(agent, STAGE["enqueue"], examples("send", "mail-sends"))
    records = of("mail-enqueued", found)
    assert len(records) == len(examples_of("send"))
    return records


def screener(rows: MemoryStates, suppressions: MemoryState, contacts: MemoryState) -> Screen:
    return Screen(screen.Settings(), rows, lambda _: suppressions, lambda _: contacts, RUNGS, lambda: NOW)


def filled(topic: str, event: str) -> MemoryState:
    """A state that holds all examples of an event."""
    state = MemoryState(topic)
    for path in examples_of(event):
        found = read(path)
        state.rows[found.key if isinstance(found.key, bytes) else found.key.encode()] = path.read_bytes()
    return state


async def screened() -> list[Record]:
    rows, nobody = MemoryStates("mail-screen-log"), MemoryState("mail-suppressions")
    agent = screener(rows, nobody, filled("mail-contacts", "contact"))
    return of("mail-screened", await through(agent, STAGE["screen"], await enqueued()))


async def rendered() -> list[Record]:
    agent = Render(CAMPAIGNS, TOKENS, "https://t.shop.test", "bounces.shop.test", lambda: NOW)
    return of("mail-rendered", await through(agent, STAGE["render"], await screened()))


async def signed() -> list[Record]:
    keys = {"shop.test": new_keys("shop.test", "r1", "e1"), "acme.test": new_keys("acme.test", "r1", "e1")}
    found = await through(Sign(keys, lambda: NOW), STAGE["sign"], await rendered())
    return [record for lane in lane_names() for record in of(lane_topic(lane), found)]

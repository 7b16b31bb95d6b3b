"""A campaign, a send and the agent that renders them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from agents import Out, Retry
from agents.render.agent import Render
from schemas.campaign import Campaign
from schemas.codec import Record
from schemas.token import Tokens
from tests.support.agents import FakeTicket

NOW = 1_700_000_000.0
HTML = """<html><body>
<p>Hello {{ name }}, your {{ product }} is <a href="https://shop.example/p?a=1&amp;b=2">here</a>.</p>
<p><a href="{{ unsubscribe_url }}">Unsubscribe</a></p>
</body></html>
"""


@pytest.fixture
def tokens() -> Tokens:
    return Tokens([b"0123456789abcdef0123456789abcdef"])


@pytest.fixture
def campaign() -> Callable[..., Campaign]:
    def make(**changes: Any) -> Campaign:
        fields: dict[str, Any] = {
            "id": "spring",
            "tenant": "acme",
            "sender": "Shop <news@shop.example>",
            "reply_to": "help@shop.example",
            "subject": "{{ product }} for {{ name }}",
            "html": HTML,
            "list_id": "Shop news <news.shop.example>",
        }
        return Campaign(**{**fields, **changes})

    return make


@pytest.fixture
def record() -> Callable[..., Record]:
    def make(send: dict[str, Any] | bytes | None = None, **headers: str) -> Record:
        body: dict[str, Any] = {
            "campaign": "spring",
            "tenant": "acme",
            "to": "Anna@x.example",
            "name": "Anna",
            "variables": {"product": "Kettle"},
        }
        if isinstance(send, dict):
            body.update(send)
        for part in body.get("attachments", ()):
            if isinstance(part.get("data"), bytes):
                part["data"] = base64.b64encode(part["data"]).decode()
        found = {
            "type": b"accepted",
            "version": b"1",
            "id": b"0123456789abcdef" * 2,
            "origin": b"mail-sends/3/17/1700000000000/0",
            "tenant": b"acme",
            "campaign": b"spring",
            "stream": b"marketing",
            "to": b"anna@x.example",
            "attempt": b"1",
            "expires": b"1700000600",
            "lane": b"google",
            "provider": b"google",
        }
        found.update({name: text.encode() for name, text in headers.items()})
        value = send if isinstance(send, bytes) else orjson.dumps(body)
        return Record("mail-screened", 3, 17, 0, b"anna@x.example", value, found)

    return make


@pytest.fixture
def agent(tokens: Tokens) -> Callable[..., Render]:
    """A new agent that knows one campaign: ``agent(campaign, settings=...)``."""

    def make(held: Campaign, **changes: Any) -> Render:
        known = {f"{held.tenant}/{held.id}": held}
        return Render(known, tokens, "https://t.example", "bounce.example", lambda: NOW, **changes)

    return make


@pytest.fixture
def render(agent: Callable[..., Render], campaign: Callable[..., Campaign]) -> Callable[..., Out]:
    """One record through a new agent: ``render(record, campaign, settings=...)``."""

    def run(given: Record, found: Campaign | None = None, **changes: Any) -> Out:
        stage = agent(found or campaign(), **changes)
        try:
            (out,) = stage.step(given)
        except Retry:
            out = asyncio.run(watched(stage, given))
        return out

    return run


async def watched(agent: Render, given: Record) -> Out:
    """What comes of a record whose template is rendered in a process of its own."""
    ticket = FakeTicket(given)
    await agent.batch([ticket], 3)
    await asyncio.gather(*agent._waiting)
    await agent.close()
    assert ticket.said_done
    (out,) = ticket.outs
    return out

"""The HTTP edge over real sockets: what is published, what is answered, what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from agents import Out
from schemas.codec import parse
from schemas.engagement import Engagement
from schemas.identity import partition_of
from schemas.token import Tokens
from streams.edge.http import PIXEL, HttpEdge, HttpSettings

TOKENS = Tokens([b"a secret of the tests, long enough"])
ID, TO, NOW = "00112233445566778899aabbccddeeff", "ada@example.org", 1_750_000_000.25
TOKEN = TOKENS.mail_token(ID, "acme", "spring", "marketing", TO, 3, "gmx")
URL = 'https://shop.example/caf\u00e9?a=1&b="><script>alert(1)</script>#x'
SETTINGS = HttpSettings(partitions=8, ack=0.3)


class Broker:
    """Collects what is published; can fail or hang."""

    def __init__(self) -> None:
        self.outs: list[Out] = []
        self.mood = "well"
        self.gate = asyncio.Event()

    async def publish(self, out: Out) -> None:
        if self.mood == "down":
            raise ConnectionError("no broker")
        if self.mood == "hangs":
            await self.gate.wait()
        self.outs.append(out)

    @property
    def events(self) -> list[Engagement]:
        return [parse(out.value, Engagement) for out in self.outs]


@asynccontextmanager
async def running(broker: Broker, settings: HttpSettings = SETTINGS, **more: Any) -> AsyncIterator[str]:
    edge = HttpEdge(broker.publish, TOKENS, settings, lambda: NOW, **more)
    port = await edge.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await edge.stop()


@pytest.fixture
async def broker() -> Broker:
    return Broker()


@pytest.fixture
async def base(broker: Broker) -> AsyncIterator[str]:
    async with running(broker) as url:
        yield url


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


def click(base: str, url: str = URL) -> str:
    return TOKENS.click_url(base, TOKEN, url)


async def test_an_open_is_published_before_the_pixel_comes(
    base: str, broker: Broker, client: aiohttp.ClientSession
) -> None:
    headers = {"User-Agent": "Mail/1.0 " + "x" * 400, "X-Forwarded-For": "203.0.113.9"}
    async with client.get(TOKENS.open_url(base, TOKEN), headers=headers) as answer:
        assert (answer.status, answer.content_type, await answer.read()) == (200, "image/gif", PIXEL)
        assert answer.headers["Cache-Control"] == "no-store"
    (event,) = broker.events
    assert (event.kind, event.mail, event.tenant, event.campaign, event.to) == (
        "opened",
        ID,
        "acme",
        "spring",
        TO,
    )
    assert (event.stream, event.provider, event.time, event.address) == ("marketing", "gmx", NOW, "127.0.0.1")
    assert len(event.agent) == 200
    (out,) = broker.outs
    assert (out.topic, out.partition) == ("mail-engagement", partition_of(TO, 8))
    assert out.headers == {"type": b"engagement", "version": b"1"}


async def test_a_click_goes_where_the_mail_said(
    base: str, broker: Broker, client: aiohttp.ClientSession
) -> None:
    async with client.get(click(base), allow_redirects=False) as answer:
        assert answer.status == 302
        assert answer.headers["Location"] == URL.replace("\u00e9", "%C3%A9")
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    (event,) = broker.events
    assert (event.kind, event.url) == ("clicked", URL)


async def test_a_link_that_was_changed_is_a_clear_page_and_no_event(
    base: str, broker: Broker, client: aiohttp.ClientSession
) -> None:
    mac = parse_qs(urlsplit(click(base)).query)["s"][0]
    bad = TOKEN[:20] + ("A" if TOKEN[20] != "A" else "B") + TOKEN[21:]
    for path, params in [
        (f"/c/{TOKEN}", {"u": "https://evil.example/<b>", "s": mac}),
        (f"/c/{TOKEN}", {"u": URL}),
        (f"/c/{TOKEN}", {}),
        (f"/c/{bad}", {"u": URL, "s": mac}),
        (f"/o/{bad}.gif", {}),
        (f"/u/{bad}", {}),
        ("/u/%00%ff", {}),
    ]:
        async with client.get(base + path, params=params, allow_redirects=False) as answer:
            text = await answer.text()
            assert (answer.status, answer.content_type) == (400, "text/html")
            assert "does not work" in text
            assert "evil" not in text
    async with client.post(f"{base}/u/{bad}") as answer:
        assert answer.status == 400
    assert broker.outs == []


async def test_looking_at_the_unsubscribe_page_changes_nothing(
    base: str, broker: Broker, client: aiohttp.ClientSession
) -> None:
    url = TOKENS.unsubscribe_url(base, TOKEN)
    for method in ("GET", "HEAD", "GET"):
        async with client.request(method, url) as answer:
            text = await answer.text()
            assert answer.status == 200
            assert ('method="post"' in text) is (method == "GET")
            assert TO not in text  # the mail may have been forwarded
    assert broker.outs == []


@pytest.mark.parametrize(
    ("body", "kind", "one_click"),
    [
        ({"data": {"List-Unsubscribe": "One-Click"}}, "unsubscribed", True),
        ({"data": {"action": "unsubscribe"}}, "unsubscribed", False),
        ({"data": b""}, "unsubscribed", False),
        ({"data": b"\xff\xfe=%zz&&&;;"}, "unsubscribed", False),
        ({"data": {"action": "subscribe"}}, "subscribed", False),
    ],
)
async def test_a_post_unsubscribes_whatever_its_body(
    base: str, broker: Broker, client: aiohttp.ClientSession, body: dict[str, Any], kind: str, one_click: bool
) -> None:
    async with client.post(TOKENS.unsubscribe_url(base, TOKEN), **body) as answer:
        assert answer.status == 200
        assert ("subscribed again" in await answer.text()) is (kind == "subscribed")
    (event,) = broker.events
    assert (event.kind, event.one_click, event.to) == (kind, one_click, TO)


async def test_the_same_word_again_is_answered_and_not_written_again(
    base: str, broker: Broker, client: aiohttp.ClientSession
) -> None:
    """A link can be pressed any number of times; what it says anew is written, and nobody comes and goes for ever."""

    async def says(action: str) -> int:
        async with client.post(TOKENS.unsubscribe_url(base, TOKEN), data={"action": action}) as answer:
            return answer.status

    for action in ("unsubscribe", "untrack_opens", "untrack_clicks"):
        assert {await says(action) for _ in range(20)} == {200}
    told = [(event.kind, event.tracking) for event in broker.events]
    assert told == [("unsubscribed", ""), ("consent_revoked", "o"), ("consent_revoked", "c")]
    broker.outs.clear()
    answers = [(await says("subscribe"), await says("unsubscribe")) for _ in range(8)]
    assert answers == [(200, 200)] * 5 + [(503, 200)] * 3
    assert [event.kind for event in broker.events] == ["subscribed", "unsubscribed"] * 5


async def test_a_word_that_is_not_on_record_is_written_when_it_comes_again(
    base: str, broker: Broker, client: aiohttp.ClientSession
) -> None:
    broker.mood = "down"
    async with client.post(TOKENS.unsubscribe_url(base, TOKEN)) as answer:
        assert answer.status == 503
    broker.mood = "well"
    async with client.post(TOKENS.unsubscribe_url(base, TOKEN)) as answer:
        assert answer.status == 200
    assert [event.kind for event in broker.events] == ["unsubscribed"]


async def test_one_click_as_multipart(base: str, broker: Broker, client: aiohttp.ClientSession) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("List-Unsubscribe", "One-Click")
    async with client.post(TOKENS.unsubscribe_url(base, TOKEN), data=form) as answer:
        assert answer.status == 200
    assert [(event.kind, event.one_click) for event in broker.events] == [("unsubscribed", True)]


@pytest.mark.parametrize("mood", ["down", "hangs"])
async def test_without_an_acknowledgement_everybody_is_asked_to_come_again(
    base: str, broker: Broker, client: aiohttp.ClientSession, mood: str
) -> None:
    broker.mood = mood
    for method, url in [
        ("GET", TOKENS.open_url(base, TOKEN)),
        ("GET", click(base)),
        ("POST", TOKENS.unsubscribe_url(base, TOKEN)),
    ]:
        async with client.request(method, url, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
            text = await answer.text()
            assert "You are unsubscribed" not in text
            assert ('href="https://shop.example/' in text) is ("/c/" in url)
            assert "<script>" not in text
    broker.mood = "well"
    async with client.post(TOKENS.unsubscribe_url(base, TOKEN)) as answer:
        assert answer.status == 200
    assert [event.kind for event in broker.events] == ["unsubscribed"]


async def test_the_answer_waits_for_the_acknowledgement(
    broker: Broker, client: aiohttp.ClientSession
) -> None:
    async with running(broker, replace(SETTINGS, ack=5.0)) as base:
        broker.mood = "hangs"
        asked = asyncio.ensure_future(client.post(TOKENS.unsubscribe_url(base, TOKEN)))
        await asyncio.sleep(0.1)
        assert not asked.done()
        broker.gate.set()
        async with await asked as answer:
            assert answer.status == 200


async def test_head_answers_and_counts_nothing(
    base: str, broker: Broker, client: aiohttp.ClientSession
) -> None:
    async with client.head(TOKENS.open_url(base, TOKEN)) as answer:
        assert answer.status == 200
    async with client.head(click(base), allow_redirects=False) as answer:
        assert answer.status == 302
    assert broker.outs == []


async def test_every_answer_has_the_headers_of_a_careful_server(
    base: str, broker: Broker, client: aiohttp.ClientSession
) -> None:
    for path, status in [(f"/u/{TOKEN}", 200), ("/u/x", 400), ("/nothing", 404), ("/healthz", 200)]:
        async with client.get(base + path) as answer:
            assert answer.status == status
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Server"] == "mailsluice"
            assert answer.headers["Cache-Control"] == "no-store"
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
    async with client.put(f"{base}/u/{TOKEN}", data=b"x") as answer:
        assert answer.status == 405
        assert "POST" in answer.headers["Allow"]
    assert broker.outs == []


async def test_a_large_body_is_refused(base: str, broker: Broker, client: aiohttp.ClientSession) -> None:
    async with client.post(TOKENS.unsubscribe_url(base, TOKEN), data=b"x" * 100_000) as answer:
        assert answer.status == 413
    assert broker.outs == []


async def test_a_user_agent_that_is_no_text_is_stored_all_the_same(base: str, broker: Broker) -> None:
    parts = urlsplit(base)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET /o/{TOKEN}.gif HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode())
    writer.write(b"User-Agent: \xff\xfe caf\xe9\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert len(broker.events) == 1


async def test_ready_is_the_processs_word(broker: Broker, client: aiohttp.ClientSession) -> None:
    state = {"ready": False}
    async with running(broker, ready=lambda: state["ready"]) as base:
        for ready, status in [(False, 503), (True, 200)]:
            state["ready"] = ready
            async with client.get(f"{base}/readyz") as answer:
                assert answer.status == status


async def test_a_header_that_never_ends_is_cut_off_and_one_connection_too_many_is_closed(
    broker: Broker,
) -> None:
    async with running(broker, replace(SETTINGS, life=0.4, connections=2)) as base:
        parts = urlsplit(base)
        slow = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(2)]
        for _, writer in slow:
            writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()
        for reader, writer in slow:
            await asyncio.wait_for(reader.read(), 3)
            writer.close()
        await asyncio.sleep(0.05)
        async with aiohttp.ClientSession() as session, session.get(f"{base}/healthz") as answer:
            assert answer.status == 200

"""Readers: what they find in a message, whom they contact, and what they do with a real HTTP edge."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from streams.lab.ledger import Take
from streams.lab.providers import load
from streams.lab.readers import BROWSER, GATEWAY, GOOGLE_PROXY, PRIVACY_PROXY, Readers, content_of
from tests.lab.letters import letter

HTML = (
    '<a href="https://track.shop.test/c/1?u=x&amp;s=y">buy</a> <a href="http://track.shop.test/c/2">more</a>'
    '<a href="mailto:x@shop.test">write</a> <a href="https://example.com/real">site</a>'
    '<a href="https://track.shop.test/u/1">leave</a><IMG SRC="https://track.shop.test/o/1.gif">'
)
LETTER = letter(html=HTML, unsubscribe="https://track.shop.test/u/1", sign="")


class Edge:
    """A small HTTP edge that remembers its requests; it fails the first ``broken`` of them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, str, str]] = []
        self.broken = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        """Remember, redirect clicks."""
        if self.broken:
            self.broken -= 1
            raise web.HTTPServiceUnavailable
        body = (await request.read()).decode()
        agent = request.headers["User-Agent"]
        self.seen.append((request.method, request.path_qs, body, agent, request.headers["Host"]))
        if request.path.startswith("/c/"):
            raise web.HTTPFound("https://example.com/must-not-be-followed")
        return web.Response(text="ok")


@pytest.fixture
async def edge():
    found = Edge()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", found.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = "http://127.0.0.1:{}".format(*site._server.sockets[0].getsockname()[1:2])
    yield found
    await runner.cleanup()


@asynccontextmanager
async def reading(edge: Edge, readers: str, dialect: str = "plain"):
    world = load(
        f'[providers.p]\ndomains = ["gmail.test"]\nmx = ["mx.gmail.test"]\naddress = "127.0.0.11"\nshare = 1.0\n'
        f'dialect = "{dialect}"\nreaders = {{ delay = 0.02, {readers} }}'
    )
    acts: list[str] = []
    async with Readers(
        1, edge.url, lambda host: host.endswith("shop.test"), lambda what, take: acts.append(what)
    ) as found:

        async def read(raw: bytes = LETTER, number: int = 1, marketing: bool = True) -> None:
            message = f"<{number}@shop.test>"
            take = Take(
                1, 1, "127.0.0.1", str(number), message, "ann@gmail.test", "b@x.test", 1, marketing=marketing
            )
            found.read(take, raw, world.providers[0])
            async with asyncio.timeout(10):
                while found.waiting:
                    await asyncio.sleep(0.01)

        yield read, acts, found


def test_finds_what_a_message_offers():
    found = content_of(LETTER)
    assert found.images == ("https://track.shop.test/o/1.gif",)
    assert found.links == (
        "https://track.shop.test/c/1?u=x&s=y",
        "http://track.shop.test/c/2",
        "https://example.com/real",
    )
    assert found.unsubscribe == "https://track.shop.test/u/1"
    assert found.unsubscribe_links == ("https://track.shop.test/u/1",)


@pytest.mark.parametrize(
    "raw", [b"", b"no header\r\n", b"Content-Type: text/html; charset=klingon\r\n\r\n<a>\r\n"]
)
def test_broken_messages_offer_nothing(raw):
    found = content_of(raw)
    assert (found.images, found.links, found.unsubscribe) == ((), (), "")


def test_urls_that_are_none_are_not_followed():
    raw = letter(html='<a href="http://[">x</a><img src="https://">', unsubscribe="https://[oops", sign="")
    found = content_of(raw)
    assert (found.images, found.links, found.unsubscribe) == ((), (), "")


async def test_a_reader_opens_clicks_and_unsubscribes(edge):
    async with reading(edge, "open = 1, click = 1, unsubscribe = 1", "google") as (read, acts, found):
        for number in range(12):
            await read(number=number)
        assert acts.count("open") == 12
        assert acts.count("unsubscribe") == 12
        # Who chose the link to somebody real went nowhere.
        assert found.foreign >= 1
        assert acts.count("click") == 12 - found.foreign
    opens = [entry for entry in edge.seen if entry[1].startswith("/o/")]
    assert opens[0] == ("GET", "/o/1.gif", "", GOOGLE_PROXY, "track.shop.test")
    posts = [entry for entry in edge.seen if entry[0] == "POST"]
    assert posts[0] == ("POST", "/u/1", "List-Unsubscribe=One-Click", BROWSER, "track.shop.test")
    assert ("GET", "/c/1?u=x&s=y", "", BROWSER, "track.shop.test") in edge.seen
    assert not any("followed" in entry[1] for entry in edge.seen)


async def test_machines_come_first_and_touch_everything(edge):
    async with reading(edge, "scanner = 1, prefetch = 1") as (read, acts, _):
        await read()
        assert acts == ["scan", "prefetch"]
    assert [entry[:2] for entry in edge.seen] == [
        ("GET", "/c/1?u=x&s=y"),
        ("GET", "/c/2"),
        ("GET", "/u/1"),
        ("GET", "/o/1.gif"),
    ]
    assert [entry[3] for entry in edge.seen] == [GATEWAY] * 3 + [PRIVACY_PROXY]


async def test_shares_are_kept_and_transactional_mail_is_not_unsubscribed(edge):
    async with reading(edge, "open = 0.5, unsubscribe = 1") as (read, acts, _):
        for number in range(60):
            await read(number=number, marketing=False)
        assert 15 < acts.count("open") < 45
        assert acts.count("unsubscribe") == 0


async def test_tries_again_while_the_edge_is_down(edge):
    edge.broken = 1
    async with reading(edge, "open = 1") as (read, acts, found):
        await read()
        assert acts == ["open"]
        assert found.failed == 0


async def test_contacts_nobody_outside_of_the_lab(edge):
    async with reading(edge, "open = 1") as (_, __, found):
        assert found.target("https://example.com/x") is None
        assert found.target("http://192.0.2.1/x") is None
        assert found.target("https://track.shop.test/x?y=1") == f"{edge.url}/x?y=1"
        found.edge = ""
        assert found.target("https://track.shop.test/x") is None
        assert found.target("http://127.0.0.1:9/x") == "http://127.0.0.1:9/x"

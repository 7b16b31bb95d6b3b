"""Subscriptions over real sockets: what is published, what is answered, what is limited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from agents import Out
from schemas.codec import parse
from schemas.consent_rules import ConsentRule, ConsentRules
from schemas.engagement import Engagement
from schemas.hosts import UNKNOWN, MailHosts, MxHost
from schemas.identity import partition_of
from schemas.token import ConfirmToken, Tokens
from streams.edge.http import HttpEdge, HttpSettings
from streams.edge.limits import Limit, network_of, source_of
from streams.edge.subscribe import SubscribeSettings

TOKENS = Tokens([b"a secret of the tests, long enough"])
TO, NOW = "ada@example.org", 1_750_000_000.25
RULES = ConsentRules(
    {
        ("acme", "marketing"): ConsentRule(sender="a@acme.test", wording="I agree"),
        ("tracks", "marketing"): ConsentRule(tracking="consent"),
        ("tracked", "marketing"): ConsentRule(
            sender="a@b.test", wording="<b>I</b> agree", tracking="consent"
        ),
    }
)
FORM = {"email": "Ada@Example.org", "tenant": "acme"}


class World:
    """An edge, what it publishes, and a clock."""

    def __init__(self, **limits: float) -> None:
        self.outs: list[Out] = []
        self.well, self.now = True, NOW
        settings = HttpSettings(
            partitions=8, proxies=("127.0.0.1/32",), subscribe=SubscribeSettings(**limits)
        )
        self.edge = HttpEdge(self.publish, TOKENS, settings, lambda: self.now, consents=RULES, hosts=Hosts())
        self.base = ""

    async def publish(self, out: Out) -> None:
        if not self.well:
            raise ConnectionError("no broker")
        self.outs.append(out)

    @property
    def events(self) -> list[Engagement]:
        return [parse(out.value, Engagement) for out in self.outs]


@asynccontextmanager
async def world(**limits: float) -> AsyncIterator[World]:
    made = World(**limits)
    made.base = f"http://127.0.0.1:{await made.edge.start('127.0.0.1', 0)}"
    try:
        yield made
    finally:
        await made.edge.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


async def post(
    client: aiohttp.ClientSession, w: World, path: str = "/subscribe", **more: Any
) -> tuple[int, str]:
    async with client.post(w.base + path, **more) as answer:
        return answer.status, await answer.text()


async def test_a_form_is_recorded_with_what_was_shown_from_where_before_the_answer(
    client: aiohttp.ClientSession,
) -> None:
    async with world() as w:
        headers = {"Referer": "https://acme.test/news", "X-Forwarded-For": "192.0.2.1, 203.0.113.7"}
        status, text = await post(client, w, data={**FORM, "opens": "1", "clicks": "0"}, headers=headers)
        assert (status, "look into your mailbox" in text, TO in text) == (202, True, False)
        (event,), (out,) = w.events, w.outs
        assert (event.kind, event.to, event.tenant, event.stream) == (
            "subscription_requested", TO, "acme", "marketing",
        )  # fmt: skip
        assert (event.wording, event.url, event.address) == (
            "I agree",
            "https://acme.test/news",
            "203.0.113.7",
        )
        assert (event.tracking, event.time) == ("o", NOW)
        assert (out.topic, out.partition) == ("mail-engagement", partition_of(TO, 8))


async def test_only_a_yes_is_a_consent_to_be_tracked(client: aiohttp.ClientSession) -> None:
    async with world(address=100) as w:
        for no in ("no", "false", "0", "off", "perhaps", ""):
            await post(client, w, json={**FORM, "opens": no, "clicks": False})
            await post(client, w, data={**FORM, "opens": no})
        for yes in ("on", "1", "Yes", "true"):
            await post(client, w, json={**FORM, "opens": yes, "clicks": True})
            await post(client, w, data={**FORM, "opens": yes, "clicks": yes})
        assert [event.tracking for event in w.events] == [""] * 12 + ["oc"] * 8


async def test_the_form_of_our_own_shows_the_words_that_go_on_record(client: aiohttp.ClientSession) -> None:
    async with world() as w:
        found = {}
        for tenant in ("acme", "tracked", "other"):
            async with client.get(w.base + "/subscribe", params={"tenant": tenant}) as answer:
                found[tenant] = (answer.status, await answer.text())
        assert [status for status, _ in found.values()] == [200, 200, 404]
        assert "I agree" in found["acme"][1]
        assert ("opens" in found["acme"][1], "opens" in found["tracked"][1]) == (False, True)
        assert "&lt;b&gt;I&lt;/b&gt; agree" in found["tracked"][1]
        assert w.outs == []


async def test_json_is_taken_and_every_address_gets_the_same_answer(client: aiohttp.ClientSession) -> None:
    async with world(address=2) as w:
        answers = {
            await post(client, w, json={"email": to, "tenant": "acme", "clicks": True})
            for to in (TO, "eve@example.org", TO, TO, "a.d.a+x@gmail.com")
        }
        assert answers == {(202, '{"status":"accepted"}')}
        assert [event.to for event in w.events].count(TO) == 2  # the third is dropped in silence
        assert w.events[0].tracking == "c"


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ({"data": {"email": TO, "tenant": "other"}}, 404, "no subscriptions are taken"),
        ({"data": {**FORM, "stream": "transactional"}}, 404, "no subscriptions are taken"),
        ({"data": {**FORM, "email": "ada"}}, 400, "there is no @"),
        ({"data": {"tenant": "acme"}}, 400, "the address is empty"),
        ({"data": {**FORM, "email": "<script>@x.y"}}, 400, "dot-atom"),
        ({"json": ["x"]}, 415, "send a form"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 415, "send a form"),
        ({"data": b"\xff=1", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415, "send"),
        ({"data": b"x" * 5000}, 413, ""),
        ({"json": {"email": 7, "tenant": "acme"}}, 400, "empty"),
    ],
)
async def test_what_is_no_subscription_is_told_and_not_recorded(
    client: aiohttp.ClientSession, more: dict[str, Any], status: int, says: str
) -> None:
    async with world() as w:
        found = await post(client, w, **more)
        assert found[0] == status, found
        assert says in found[1]
        assert "<script>" not in found[1]
        assert w.outs == []


async def test_without_the_broker_nobody_is_told_that_it_worked(client: aiohttp.ClientSession) -> None:
    async with world() as w:
        w.well = False
        for more in ({"data": FORM}, {"json": FORM}):
            async with client.post(w.base + "/subscribe", **more) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "30")


async def test_a_source_and_a_domain_are_limited_and_may_come_again_later(
    client: aiohttp.ClientSession,
) -> None:
    async with world(source=3, domain=5) as w:

        async def asks(n: int, source: str, domain: str = "example.org") -> int:
            headers = {"X-Forwarded-For": source}
            return (await post(client, w, data={**FORM, "email": f"p{n}@{domain}"}, headers=headers))[0]

        assert [await asks(n, "2001:db8::1") for n in range(4)] == [202, 202, 202, 429]
        assert await asks(9, "2001:db8::2") == 429  # the same /64
        assert [await asks(n, f"198.51.100.{n}") for n in range(10, 13)] == [202, 202, 429]
        assert [await asks(n, f"203.0.113.{n}", "gmail.com") for n in range(20, 40)] == [202] * 20
        w.now += 3600
        assert await asks(50, "2001:db8::1") == 202


async def test_who_has_many_networks_or_many_domains_is_limited_too(client: aiohttp.ClientSession) -> None:
    """A /48 has 65,536 networks, a wildcard MX any number of domains."""
    async with world(source=3, domain=5) as w:

        async def asks(n: int, domain: str, source: str = "") -> int:
            headers = {"X-Forwarded-For": source or f"198.51.100.{n}"}
            return (await post(client, w, data={**FORM, "email": f"p{n}@{domain}"}, headers=headers))[0]

        network = [await asks(n, f"{n}.example", f"2001:db8:7:{n:x}::1") for n in range(16)]
        assert network == [202] * 15 + [429]
        assert await asks(20, "20.example", "2001:db8:8::1") == 202
        host = [await asks(n, f"a{n}.example.net") for n in range(30, 41)]
        assert host == [202] * 10 + [429]
        # Of domains that DNS does not tell a host of, the name says whose they are; a provider serves many.
        unknown = [await asks(n, f"a{n}.unknown.example.com") for n in range(50, 61)]
        assert unknown == [202] * 10 + [429]
        assert {await asks(n, f"google{n}.example") for n in range(70, 90)} == {202}


class Hosts:
    """A wildcard MX at example.net, customers of Google, one host a domain elsewhere."""

    def cached(self, domain: str) -> MailHosts | None:
        return None

    async def mail_hosts(self, domain: str) -> MailHosts:
        if domain.endswith(".unknown.example.com"):
            return UNKNOWN
        host = "aspmx.l.google.com" if domain.startswith("google") else f"mx.{domain}"
        return MailHosts((MxHost(10, host),), "ok")

    async def addresses(self, host: str) -> tuple[str, ...]:
        return ()


# -- confirming


def link(w: World, **changes: Any) -> str:
    values = {"id": "e1", "tenant": "acme", "stream": "marketing", "to": TO, "asked": NOW - 60,
              "until": NOW + 60, "tracking": "o"} | changes  # fmt: skip
    return TOKENS.confirm_url("", ConfirmToken(**values))


async def test_looking_changes_nothing_and_the_button_confirms(client: aiohttp.ClientSession) -> None:
    async with world() as w:
        for method in ("GET", "HEAD"):
            async with client.request(method, w.base + link(w)) as answer:
                text = await answer.text()
                assert answer.status == 200
                assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert w.outs == []
        async with client.get(w.base + link(w)) as answer:
            text = await answer.text()
        assert ('method="post"' in text, TO in text) == (True, False)
        status, text = await post(client, w, link(w))
        assert (status, "You are subscribed" in text) == (200, True)
        (event,) = w.events
        assert (event.kind, event.mail, event.asked, event.time, event.tracking) == (
            "subscribed", "e1", NOW - 60, NOW, "o",
        )  # fmt: skip


async def test_an_old_or_changed_link_says_so_and_confirms_nothing(client: aiohttp.ClientSession) -> None:
    async with world() as w:
        for path, status, says in (
            (link(w, until=NOW - 1), 410, "too old"),
            (link(w)[:-4] + "AAAA", 400, "does not work"),
            (
                "/confirm/" + TOKENS.mail_token("00" * 16, "acme", "c", "marketing", TO, 0),
                400,
                "does not work",
            ),
        ):
            async with client.get(w.base + path) as answer:
                assert (answer.status, says in await answer.text()) == (status, True)
            found = await post(client, w, path)
            assert (found[0], says in found[1]) == (status, True)
        assert w.outs == []


# -- tracking


async def test_who_may_be_tracked_by_consent_ends_that_alone_on_the_unsubscribe_page(
    client: aiohttp.ClientSession,
) -> None:
    async with world() as w:
        pages = {}
        for tenant in ("acme", "tracks"):
            path = "/u/" + TOKENS.mail_token("00" * 16, tenant, "c", "marketing", TO, 0)
            async with client.get(w.base + path) as answer:
                pages[tenant] = await answer.text()
        assert ("untrack_opens" in pages["acme"], "untrack_opens" in pages["tracks"]) == (False, True)
        for action in ("untrack_opens", "untrack_clicks"):
            status, text = await post(client, w, path, data={"action": action})
            assert (status, "no longer be recorded" in text) == (200, True)
        await post(client, w, path, data={"List-Unsubscribe": "One-Click"})
        assert [(e.kind, e.tracking, e.tenant) for e in w.events] == [
            ("consent_revoked", "o", "tracks"),
            ("consent_revoked", "c", "tracks"),
            ("unsubscribed", "", "tracks"),
        ]


# -- whose request it is


def test_only_our_proxies_are_believed() -> None:
    ours = ("10.0.0.0/8", "127.0.0.1")
    assert source_of("203.0.113.5", "1.2.3.4", ours) == "203.0.113.5"
    assert source_of("10.0.0.1", "1.2.3.4, 203.0.113.5", ours) == "203.0.113.5"
    assert source_of("10.0.0.1", "1.2.3.4, 203.0.113.5, 10.2.2.2", ours) == "203.0.113.5"
    assert source_of("10.0.0.1", "", ours) == "10.0.0.1"
    assert source_of("10.0.0.1", "x<script>", ours) == "10.0.0.1"
    assert source_of("10.0.0.1", "10.0.0.2", ours) == "10.0.0.2"
    assert source_of("", "1.2.3.4", ours) == ""
    assert source_of("::ffff:10.0.0.1", "2001:db8::1", ours) == "2001:db8::1"
    assert source_of("10.0.0.1", "203.0.113.5:4711, 10.2.2.2:80", ours) == "203.0.113.5"
    assert source_of("10.0.0.1", "[2001:db8::1]:4711", ours) == "2001:db8::1"
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert (network_of("2001:db8:0:1:ffff::1"), network_of("192.0.2.1")) == ("2001:db8:0:1::/64", "192.0.2.1")
    assert network_of("2001:db8:0:1:ffff::1", 48) == "2001:db8::/48"


def test_a_limit_forgets_whom_it_has_not_seen_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.edge.limits.MOST_KEYS", 3)
    now = [0.0]
    limit = Limit(1, 10, lambda: now[0])
    assert [limit.take(key) for key in "aab"] == [True, False, True]
    assert [limit.take(key) for key in "cd"] == [True, True]
    assert limit.take("a")  # forgotten
    now[0] = 9.9
    assert not limit.take("d")
    now[0] = 20.0
    assert [limit.take("d") for _ in range(2)] == [True, False]

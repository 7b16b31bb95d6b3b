"""The resolver against a real DNS server on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from schemas.hosts import MailHosts, MxHost
from streams.lab.dns import DnsServer, Trouble, Zone
from streams.resolver import Limits, Resolver, host_port

RECORDS = {
    "shop.test": {"MX": ["20 MX2.shop.test", "10 mx1.shop.test"]},
    "mx1.shop.test": {"A": ["127.0.0.11", "127.0.0.12"], "AAAA": "::1"},
    "plain.test": {"A": "127.0.0.13"},
    "six.test": {"AAAA": "::1"},
    "null.test": {"MX": "0 .", "A": "127.0.0.14"},
    "text.test": {"TXT": "nothing else"},
    "alias.test": {"CNAME": "shop.test"},
    "odd.test": {"MX": ["5 .", r"10 bad\032name.test"]},
    "mixed.test": {"MX": ["5 .", "10 mx1.shop.test"]},
    "many.test": {"MX": [f"{n} mx{n}.many.test" for n in range(60)]},
}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    zone = Zone(RECORDS, apexes=["shop.test"], ttl=120)
    zone.trouble("dead.test", Trouble(silent=True))
    zone.trouble("broken.test", Trouble(rcode="SERVFAIL"))
    async with DnsServer(zone) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(server: DnsServer, clock: Clock) -> Callable[..., Resolver]:
    def build(**limits: float) -> Resolver:
        bounds = Limits(**{"timeout": 0.5, **limits})  # type: ignore[arg-type]
        return Resolver("{}:{}".format(*server.address), bounds, clock)

    return build


SHOP = MailHosts((MxHost(10, "mx1.shop.test"), MxHost(20, "mx2.shop.test")), "ok")


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("shop.test", SHOP),
        ("alias.test", SHOP),
        ("plain.test", MailHosts((MxHost(0, "plain.test"),), "implicit")),
        ("six.test", MailHosts((MxHost(0, "six.test"),), "implicit")),
        ("null.test", MailHosts((), "null_mx")),
        ("text.test", MailHosts((), "no_domain")),
        ("nobody.test", MailHosts((), "no_domain")),
        ("odd.test", MailHosts((), "no_domain")),
        ("mixed.test", MailHosts((MxHost(10, "mx1.shop.test"),), "ok")),
        ("dead.test", MailHosts((), "unknown")),
        ("broken.test", MailHosts((), "unknown")),
        ("a" * 64 + ".test", MailHosts((), "no_domain")),
    ],
)
async def test_where_mail_goes(make: Callable[..., Resolver], domain: str, expected: MailHosts) -> None:
    resolver = make()
    assert resolver.cached(domain) is None
    assert await resolver.mail_hosts(domain) == expected
    assert resolver.cached(domain) == expected


async def test_a_list_of_hosts_is_cut(make: Callable[..., Resolver]) -> None:
    found = await make().mail_hosts("many.test")
    assert [host.preference for host in found.hosts] == list(range(20))


async def test_addresses(make: Callable[..., Resolver]) -> None:
    resolver = make()
    found = await resolver.addresses("MX1.shop.test.")
    # DNS servers turn the order of a name's addresses; the families keep theirs.
    assert (sorted(found[:2]), found[2:]) == (["127.0.0.11", "127.0.0.12"], ("::1",))
    assert await resolver.addresses("nobody.test") == ()
    assert await resolver.addresses("dead.test") == ()


async def test_a_question_is_asked_once(make: Callable[..., Resolver], server: DnsServer) -> None:
    resolver = make()
    found = await asyncio.gather(*(resolver.mail_hosts("shop.test") for _ in range(50)))
    assert found == [SHOP] * 50
    await resolver.mail_hosts("shop.test")
    assert server.asked[("shop.test", "MX", "udp")] == 1


async def test_a_caller_that_gives_up_does_not_end_it_for_the_others(make: Callable[..., Resolver]) -> None:
    resolver = make()
    first = asyncio.create_task(resolver.mail_hosts("shop.test"))
    second = asyncio.create_task(resolver.mail_hosts("shop.test"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == SHOP


async def test_an_answer_lives_as_long_as_its_ttl(
    make: Callable[..., Resolver], clock: Clock, server: DnsServer
) -> None:
    resolver = make()
    await resolver.mail_hosts("shop.test")
    clock.now += 119
    assert resolver.cached("shop.test") == SHOP
    clock.now += 2
    assert resolver.cached("shop.test") is None
    assert await resolver.mail_hosts("shop.test") == SHOP
    assert server.asked[("shop.test", "MX", "udp")] == 2


@pytest.mark.parametrize(("shortest", "longest", "life"), [(500.0, 3600.0, 500.0), (1.0, 10.0, 10.0)])
@pytest.mark.parametrize("domain", ["shop.test", "nobody.test"])
async def test_ttls_are_clamped(
    make: Callable[..., Resolver], clock: Clock, domain: str, shortest: float, longest: float, life: float
) -> None:
    resolver = make(shortest=shortest, longest=longest)
    await resolver.mail_hosts(domain)
    clock.now += life - 0.5
    assert resolver.cached(domain) is not None
    clock.now += 1
    assert resolver.cached(domain) is None


async def test_a_dead_server_is_not_asked_for_every_mail(
    make: Callable[..., Resolver], clock: Clock, server: DnsServer
) -> None:
    resolver = make(timeout=0.2)
    start = time.monotonic()
    assert (await resolver.mail_hosts("dead.test")).status == "unknown"
    assert time.monotonic() - start < 1.5
    asked = server.asked[("dead.test", "MX", "udp")]
    await resolver.mail_hosts("dead.test")
    assert server.asked[("dead.test", "MX", "udp")] == asked
    clock.now += 31
    await resolver.mail_hosts("dead.test")
    assert server.asked[("dead.test", "MX", "udp")] > asked


async def test_old_knowledge_serves_while_dns_fails(
    make: Callable[..., Resolver], clock: Clock, server: DnsServer
) -> None:
    resolver = make()
    await resolver.mail_hosts("shop.test")
    server.zone.trouble("shop.test", Trouble(rcode="SERVFAIL"))
    clock.now += 200
    assert await resolver.mail_hosts("shop.test") == SHOP
    assert resolver.cached("shop.test") == SHOP
    clock.now += 2 * 86400
    assert (await resolver.mail_hosts("shop.test")).status == "unknown"
    server.zone.trouble("shop.test", None)
    clock.now += 31
    assert await resolver.mail_hosts("shop.test") == SHOP


async def test_one_dead_domain_does_not_slow_the_others(make: Callable[..., Resolver]) -> None:
    resolver = make(timeout=1.5)
    dead = asyncio.create_task(resolver.mail_hosts("dead.test"))
    start = time.monotonic()
    await asyncio.gather(*(resolver.mail_hosts(f"x{n}.test") for n in range(50)))
    assert time.monotonic() - start < 1.2
    assert not dead.done()
    assert (await dead).status == "unknown"


async def test_memory_is_bounded(make: Callable[..., Resolver]) -> None:
    resolver = make(entries=10)
    await resolver.mail_hosts("shop.test")
    for n in range(9):
        await resolver.mail_hosts(f"x{n}.test")
    assert resolver.cached("shop.test") == SHOP  # used just now, so the next to go is x0
    await resolver.mail_hosts("x9.test")
    assert resolver.cached("x0.test") is None
    assert resolver.cached("shop.test") == SHOP


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:53", ("127.0.0.1", 53)), ("[::1]:5353", ("::1", 5353)), ("127.0.0.1", ("127.0.0.1", 53))],
)
def test_server_setting(text: str, expected: tuple[str, int]) -> None:
    assert host_port(text) == expected


@pytest.mark.parametrize("text", ["", ":53", "::1:53", "127.0.0.1:x", "127.0.0.1:99999"])
def test_bad_server_setting(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        host_port(text)

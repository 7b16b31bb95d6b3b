"""Our own names asked of block lists, through a real name server."""

import asyncio

from agents.watch.policy import block_lists
from streams.lab.dns import DnsServer, Trouble, Zone
from streams.resolver import Resolver
from streams.watching import AT_ONCE, Watch


def zone() -> Zone:
    found = Zone({}, apexes=["bl.test", "dbl.test", "gone.test", "lapsed.test"])
    for name in ("2.0.0.127.bl.test", "test.dbl.test", "10.2.0.192.bl.test", "spam.example.dbl.test"):
        found.add(name, "A", "127.0.0.2")
    for name in ("2.0.0.127", "1.0.0.127", "10.2.0.192"):
        found.add(f"{name}.lapsed.test", "A", "127.0.0.9")  # whatever is asked for: somebody bought the name
    found.trouble("2.0.0.127.gone.test", Trouble("SERVFAIL"))
    return found


async def test_names_are_told_with_their_lists_and_dead_lists_are_not_believed() -> None:
    async with DnsServer(zone()) as dns:
        resolver = Resolver("{}:{}".format(*dns.address))
        lists = block_lists(["bl.test", "domain:dbl.test", "gone.test", "lapsed.test"])
        watch = Watch(lists, resolver.codes)
        found = await watch.look(["192.0.2.10", "192.0.2.11", "spam.example", "news.example", "default"])
        assert found == {"192.0.2.10": ("bl.test",), "spam.example": ("dbl.test",)}
        assert watch.dead == {"gone.test", "lapsed.test"}


async def test_a_list_that_nobody_answers_for_lists_nobody() -> None:
    async def silent(name: str) -> None:
        return None

    watch = Watch(block_lists(["bl.test"]), silent)
    assert await watch.look(["192.0.2.10"]) == {}
    assert watch.dead == {"bl.test"}


async def test_thousands_of_names_are_asked_about_some_at_a_time() -> None:
    asking, most = 0, 0

    async def ask(name: str) -> tuple[str, ...]:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0)
        asking -= 1
        return () if name == "invalid.dbl.test" else ("127.0.0.2",)

    watch = Watch(block_lists(["domain:dbl.test"]), ask)
    found = await watch.look(f"n{n}.example" for n in range(1000))
    assert len(found) == 1000
    assert most == AT_ONCE


async def test_an_answer_that_cannot_be_read_ends_nobody(monkeypatch) -> None:
    resolver = Resolver("127.0.0.1:53")

    async def trip(*_args: object, **_more: object) -> None:
        raise AttributeError("dnspython tripped")

    monkeypatch.setattr(resolver._dns, "resolve", trip)
    assert await resolver.codes("2.0.0.127.bl.test") is None

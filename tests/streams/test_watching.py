"""Our own names asked of block lists, through a real name server."""

from agents.watch.policy import block_lists
from streams.lab.dns import DnsServer, Trouble, Zone
from streams.resolver import Resolver
from streams.watching import Watch


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

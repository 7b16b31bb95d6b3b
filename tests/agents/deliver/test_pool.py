"""The pool: reuse, limits, MX order and fallback, dead hosts, tarpits, draining."""

import asyncio
import socket
import time

import pytest

from agents.deliver.connect import ConnectFailed, Networks, connect
from agents.deliver.pool import Limits, MxHost, Pool, Settings
from agents.deliver.smtp import Session
from agents.deliver.sources import Source
from tests.support.smtp_mail import Letter, post, settings, until
from tests.support.smtp_server import CLOSE, SILENCE, Turns, Wait, self_signed, smtp_server

FEW = Limits(2, 100)


class World:
    """A pool with a clock that a test can move, real connections, and chance that keeps the given order."""

    def __init__(self, **changes):
        self.ahead = 0.0
        self.freed = []
        self.tried = []
        pool = {name: changes.pop(name) for name in ("idle", "cooldown", "total", "tries") if name in changes}
        found = settings(**changes)

        async def dial(target, source):
            self.tried.append(target.ip)
            return await connect(target, found, Source(source, source), self.clock)

        self.pool = Pool(dial, Settings(**pool), self.clock, lambda: 0.5, self.freed.append)

    def clock(self):
        return time.monotonic() + self.ahead

    async def get(self, *hosts, site="site", group="group", source="", limits=FEW):
        return await self.pool.acquire(site, group, hosts, source, limits)


def mx(server, host="mx.test", preference=10):
    return MxHost(host, preference, (server.host,), server.port)


def dead(address="127.0.0.99", preference=5):
    return MxHost("dead.test", preference, (address,), 9)


async def test_a_released_connection_is_taken_again():
    async with smtp_server() as server:
        world = World()
        session = await world.get(mx(server))
        assert (await post(session)).state == "accepted"
        assert world.pool.take("site", 100) is None
        world.pool.release(session)
        assert world.pool.take("other", 100) is None
        assert await world.get(mx(server)) is session
        assert (await post(session)).state == "accepted"
        assert len(server.seen) == 1


async def test_released_twice_is_taken_once():
    async with smtp_server() as server:
        world = World()
        session = await world.get(mx(server))
        world.pool.release(session)
        world.pool.release(session)
        assert world.pool.take("site", 100) is session
        assert world.pool.take("site", 100) is None


async def test_a_connection_carries_no_more_than_its_share():
    async with smtp_server() as server:
        world = World()
        session = await world.get(mx(server), limits=Limits(1, 2))
        for _ in range(2):
            await post(session)
            world.pool.release(session)
        assert world.pool.take("site", 2) is None
        await until(lambda: world.freed == ["group"])
        assert server.seen[0].commands[-1] == "QUIT"
        assert world.pool.count("group") == 0
        assert await world.get(mx(server), limits=Limits(1, 2)) is not session


async def test_a_lowered_share_holds_for_idle_connections_too():
    async with smtp_server() as server:
        world = World()
        session = await world.get(mx(server))
        await post(session)
        world.pool.release(session)
        assert world.pool.take("site", 1) is None


async def test_the_limit_of_the_group_counts_connections_being_made():
    async with smtp_server(banner=[Wait(0.1), "220 ok"]) as server:
        world = World()
        got = await asyncio.gather(*(world.get(mx(server), site=n) for n in range(5)))
        assert [type(found) for found in got].count(Session) == 2
        assert got.count(None) == 3
        assert world.pool.count("group") == 2
        assert isinstance(await world.get(mx(server), group="other"), Session)


async def test_an_idle_connection_makes_room_for_another_site():
    async with smtp_server() as server:
        world = World()
        first, second = await world.get(mx(server), site="a"), await world.get(mx(server), site="b")
        world.pool.release(first)
        world.pool.release(second)
        assert await world.get(mx(server), site="c") is None
        await until(lambda: world.freed)
        assert first.closed
        assert not second.closed
        assert isinstance(await world.get(mx(server), site="c"), Session)


async def test_a_failed_connection_gives_its_place_back():
    world = World()
    for n in range(4):
        found = await world.get(dead(f"127.0.0.{90 + n}"))
        assert found.why == "unreachable"
    assert world.pool.count("group") == 0
    assert world.freed == ["group"] * 4


async def test_a_cancelled_connection_gives_its_place_back():
    async with smtp_server(banner=SILENCE) as server:
        world = World()
        task = asyncio.ensure_future(world.get(mx(server)))
        await until(lambda: server.seen)
        assert world.pool.count("group") == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert world.pool.count("group") == 0


async def test_hosts_are_tried_by_preference_and_the_next_one_answers():
    async with smtp_server() as server:
        world = World()
        far = MxHost("far.test", 30, ("127.0.0.97",), 9)
        session = await world.get(far, mx(server, preference=20), dead())
        assert world.tried == ["127.0.0.99", "127.0.0.1"]
        assert session.facts.host == "mx.test"


async def test_hosts_of_one_preference_are_mixed():
    async def none(target, source):
        tried.append(target.host)
        return ConnectFailed("connect", 0, "no", True, "unreachable")

    tried = []
    draws = iter([0.9, 0.1, 0.5, 0.0])
    pool = Pool(none, Settings(), time.monotonic, lambda: next(draws))
    hosts = [MxHost(name, 10, (name,)) for name in "abc"] + [MxHost("d", 20, ("d",))]
    await pool.acquire("s", "g", hosts, "", FEW)
    assert tried == ["b", "c", "a", "d"]


@pytest.mark.parametrize("banner", ["421 4.3.2 busy", "554 5.3.2 not here", CLOSE, b"rubbish\r\n"])
async def test_a_host_that_refuses_us_is_passed_over(banner):
    async with smtp_server(banner=banner) as bad, smtp_server() as good:
        session = await World().get(mx(bad, preference=1), mx(good, preference=2))
        assert (await post(session)).state == "accepted"
        assert len(good.mails) == 1


async def test_the_failure_of_all_hosts_is_temporary_if_any_was():
    async with smtp_server(banner="451 4.3.2 later") as later, smtp_server(banner="554 5.7.1 no") as never:
        found = await World().get(mx(later, preference=1), mx(never, preference=2))
        assert (found.code, found.temporary) == (451, True)
        found = await World().get(mx(never))
        assert (found.code, found.temporary) == (554, False)


async def test_no_host_at_all():
    found = await World().get()
    assert (found.why, found.temporary) == ("no_hosts", True)
    found = await World().get(MxHost("six.test", 1, ("::1",)), source="127.0.0.1")
    assert found.why == "no_hosts"


async def test_a_dead_host_is_left_alone_for_a_while():
    async with smtp_server() as server:
        world = World(cooldown=30.0)
        hosts = (dead(), mx(server))
        for n in range(5):
            assert isinstance(await world.get(*hosts, site=n, group=n), Session)
        assert world.tried.count("127.0.0.99") == 1
        first = await world.get(dead())
        assert (first.cached, first.why) == (True, "unreachable")
        assert 0 < first.retry_at - world.clock() <= 30
        world.ahead = 31.0
        assert not (await world.get(dead())).cached
        assert world.tried.count("127.0.0.99") == 2


async def test_a_host_that_came_back_is_used_again():
    async with smtp_server(banner=Turns("421 4.3.2 busy", "220 ok")) as server:
        world = World(cooldown=10.0)
        assert (await world.get(mx(server))).code == 421
        assert (await world.get(mx(server))).cached
        world.ahead = 11.0
        assert isinstance(await world.get(mx(server), site="a"), Session)
        assert isinstance(await world.get(mx(server), site="b"), Session)


async def test_a_hostile_list_of_hosts_is_not_followed_to_its_end():
    world = World(tries=3)
    await world.get(*(dead(f"127.0.1.{n}", n) for n in range(1, 50)))
    assert world.tried == ["127.0.1.1", "127.0.1.2", "127.0.1.3"]


async def test_one_tarpit_among_a_hundred_does_not_slow_the_others():
    async with smtp_server(banner=SILENCE) as tarpit, smtp_server() as server:
        world = World(ehlo=30.0)

        async def one(n):
            session = await world.get(mx(tarpit if n == 50 else server), site=n, group=n)
            return (await post(session)).state if isinstance(session, Session) else session.why

        tarpitted = asyncio.ensure_future(one(50))
        others = [one(n) for n in range(100) if n != 50]
        assert await asyncio.wait_for(asyncio.gather(*others), 8.0) == ["accepted"] * 99
        assert not tarpitted.done()
        tarpitted.cancel()


async def test_idle_connections_are_closed_after_a_while():
    async with smtp_server() as server:
        world = World(idle=0.1)
        sessions = [await world.get(mx(server), site=n) for n in range(2)]
        world.pool.release(sessions[0])
        await until(lambda: sessions[0].closed)
        assert not sessions[1].closed
        assert server.seen[0].commands[-1] == "QUIT"
        assert world.pool.count("group") == 1


async def test_an_idle_connection_that_the_server_closed_is_forgotten():
    async with smtp_server(ehlo=["250 mx.test", Wait(0.05), CLOSE]) as server:
        world = World()
        session = await world.get(mx(server))
        world.pool.release(session)
        await until(lambda: session.closed)
        assert world.pool.take("site", 100) is None
        assert world.pool.count("group") == 0
        world.pool.release(session)
        assert world.pool.take("site", 100) is None


async def test_drain_keeps_only_what_is_past_its_dot_and_tells_its_reply():
    async with smtp_server(dot=[Wait(0.2), "250 2.0.0 ok"]) as past, smtp_server(rcpt=SILENCE) as before:
        world = World()
        idle = await world.get(mx(past), site="idle", group="idle")
        world.pool.release(idle)
        sent, unsent = Letter(), Letter()
        (await world.get(mx(past), site="a")).start(sent)
        (await world.get(mx(before), site="b")).start(unsent)
        await until(lambda: past.mails and len(before.seen[0].commands) > 1)
        assert world.pool.drain() == 1
        assert [attempt.state for attempt in (*sent.attempts, *unsent.attempts)] == ["lost", "held"]
        assert (await world.get(mx(past))).why == "stopping"
        await world.pool.close(5.0)
        assert [attempt.reply for attempt in sent.lates] == ["250 2.0.0 ok"]
        assert unsent.lates == []
        assert idle.closed
        assert world.pool.count("group") == 0


async def test_close_does_not_wait_longer_than_its_grace():
    async with smtp_server(dot=SILENCE) as server:
        world = World()
        session, letter = await world.get(mx(server)), Letter()
        session.start(letter)
        await until(lambda: server.mails)
        await asyncio.wait_for(world.pool.close(0.1), 2)
        assert session.closed
        assert (len(letter.attempts), letter.lates) == (1, [])
        assert world.pool.count("group") == 0


async def test_a_connection_that_comes_while_stopping_is_not_handed_out():
    async with smtp_server(banner=[Wait(0.1), "220 ok"]) as server:
        world = World()
        task = asyncio.ensure_future(world.get(mx(server)))
        await until(lambda: server.seen)
        assert world.pool.drain() == 0
        assert (await task).why == "stopping"
        await until(lambda: world.pool.count("group") == 0)
        assert server.seen[0].commands[-1] == "QUIT"


async def test_the_pool_takes_connect_with_its_settings_bound():
    """What the composition root does."""
    async with smtp_server() as server:
        bound = settings()
        pool = Pool(
            lambda target, source: connect(target, bound, Source(source, source)),
            Settings(),
            time.monotonic,
            lambda: 0.0,
        )
        assert isinstance(await pool.acquire("s", "g", [mx(server)], "127.0.0.3", FEW), Session)
        await pool.close(1.0)
        assert server.seen[0].peer == "127.0.0.3"


async def test_one_connection_too_many_is_tried_at_no_other_host_and_no_failure_of_this_one():
    async with smtp_server(banner=Turns("220 ok", "421 4.7.0 too many", "220 ok")) as server:
        world = World()
        hosts = mx(server), mx(server, host="mx2.test", preference=20)
        assert isinstance(await world.get(*hosts), Session)
        refused = await world.get(*hosts)
        assert (refused.code, refused.cached, len(world.tried)) == (421, False, 2)
        assert world.pool.count("group") == 1
        assert isinstance(await world.get(*hosts), Session)


async def test_a_smaller_limit_closes_idle_connections_only():
    async with smtp_server() as server:
        world = World()
        found = [await world.get(mx(server), limits=Limits(4, 100)) for _ in range(4)]
        for session in found[:3]:
            world.pool.release(session)
        world.pool.trim("group", 4)
        world.pool.trim("group", 2)
        world.pool.trim("group", 2)  # two are leaving already
        await until(lambda: world.pool.count("group") == 2)
        world.pool.trim("group", 0)
        await until(lambda: world.pool.count("group") == 1)
        assert not found[3].closed


BOTH = Networks.parse("127.0.0.0/8, ::1/128")


def has_six() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_six(), reason="this machine has no ::1")
async def test_mail_goes_over_ipv6_from_a_source_of_that_family_and_over_ipv4_from_the_other(tmp_path):
    context, _ = self_signed(tmp_path)
    async with smtp_server(host="::1", tls=context) as six, smtp_server(port=six.port) as four:
        both = MxHost("mx.test", 10, ("127.0.0.1", "::1"), six.port)
        world = World(networks=BOTH)
        session = await world.get(both, site="six", source="::1")
        assert (session.facts.ip, session.facts.source, session.facts.security) == (
            "::1",
            "::1",
            "encrypted",
        )
        assert (await post(session)).state == "accepted"
        assert (six.seen[0].peer, len(six.mails), four.seen) == ("::1", 1, [])
        session = await world.get(both, site="four", source="127.0.0.1")
        assert (session.facts.ip, session.facts.source) == ("127.0.0.1", "127.0.0.1")
        assert (await post(session)).state == "accepted"
        assert len(four.mails) == 1
        # Whoever may use both takes the next address when the first does not answer.
        free = World(networks=BOTH)
        session = await free.get(MxHost("mx.test", 10, ("127.0.0.99", "::1"), six.port))
        assert (session.facts.ip, free.tried) == ("::1", ["127.0.0.99", "::1"])
        assert (await post(session)).state == "accepted"


@pytest.mark.skipif(not has_six(), reason="this machine has no ::1")
async def test_an_ipv6_source_that_is_not_ours_and_a_host_of_the_other_family_are_told_apart():
    async with smtp_server(host="::1") as six:
        found = await World(networks=BOTH).get(
            MxHost("mx.test", 10, ("::1",), six.port), source="2001:db8::1"
        )
        assert (found.why, found.temporary) == ("source", True)
        found = await World(networks=BOTH).get(MxHost("mx.test", 10, ("127.0.0.1",), six.port), source="::1")
        assert (found.why, found.temporary) == ("no_hosts", True)
        assert six.seen == []

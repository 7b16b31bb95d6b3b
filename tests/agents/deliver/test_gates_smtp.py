"""Gate two over real connections: pool, connect and sessions as they are, servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from agents.deliver.allowance import Rate
from agents.deliver.connect import connect
from agents.deliver.policy import Settings
from agents.deliver.pool import Pool
from agents.deliver.pool import Settings as PoolSettings
from agents.deliver.sources import Source
from tests.support.gates import Broker, GateTwo, hosts_of, mail, woken
from tests.support.smtp_mail import settings, until
from tests.support.smtp_server import CLOSE, EXTENSIONS, SILENCE, SmtpServer, Turns, Wait, smtp_server

QUICK = Settings(settle=0.1)
FAST = Rate(5000.0, 4, 100, 0.0, "")


@contextlib.asynccontextmanager
async def worker(*servers: SmtpServer, hold: bool = False, rate: Rate = FAST, policy=QUICK):
    """A worker to whom domain dN.example is server N, on its address."""
    where = settings(port=servers[0].port)
    free: list[GateTwo] = []
    pool = Pool(
        lambda target, source: connect(target, where, Source(source, source)),
        PoolSettings(),
        asyncio.get_running_loop().time,
        lambda: 0.5,
        lambda group: free[0].agent.feeds.group_free(group) if free else None,
    )
    made = GateTwo(Broker(hold), pool, policy, rate=rate)
    free.append(made)
    for n, server in enumerate(servers):
        made.names.ips[f"mx.d{n}.example"] = (server.host,)
    await made.agent.assigned(0)
    try:
        yield made
    finally:
        made.agent.feeds.stop()
        await pool.close(0)


def to(name: str, server: int = 0, **headers):
    return mail(name, f"{name}@d{server}.example", **headers)


def states(made: GateTwo) -> Counter[str]:
    return Counter(outcome.state for outcome in made.broker.outcomes())


def verbs(server: SmtpServer) -> list[list[str]]:
    """The commands of each connection, without EHLO and QUIT."""
    return [[c.split(" ")[0] for c in seen.commands if c[:4] not in ("EHLO", "QUIT")] for seen in server.seen]


async def test_a_lane_of_mail_arrives_once_each_with_no_more_than_the_allowed_connections():
    async with smtp_server() as server, worker(server) as made:
        tickets = await made.take(*(to(f"m{n}", body=b"Subject: %d\r\n\r\n.dot\r\n" % n) for n in range(60)))
        await until(lambda: states(made)["delivered"] == 60)
        assert all(ticket.committable for ticket in tickets)
        assert sorted(m.body for m in server.mails) == sorted(
            b"Subject: %d\r\n\r\n.dot\r\n" % n for n in range(60)
        )
        assert {tuple(m.rcpts) for m in server.mails} == {(f"m{n}@d0.example",) for n in range(60)}
        assert len(server.seen) <= 4
        assert {outcome.attempt for outcome in made.broker.outcomes()} == {1}


async def test_a_connection_carries_no_more_mails_than_allowed():
    async with smtp_server() as server, worker(server, rate=Rate(5000.0, 1, 3, 0.0, "")) as made:
        await made.take(*(to(f"m{n}") for n in range(7)))
        await until(lambda: states(made)["delivered"] == 7)
        assert max(c.count("MAIL") for c in verbs(server)) == 3
        assert len(server.seen) == 3


async def test_nobody_listens_and_the_mail_is_deferred_then_the_second_host_takes_it():
    async with smtp_server() as server, worker(server) as made:
        made.names.ips["dead.example"] = ("127.0.0.98",)
        made.names.found["lone.example"] = hosts_of("dead.example")
        made.names.found["two.example"] = hosts_of("dead.example", "mx.d0.example")
        await made.take(mail("lone", "x@lone.example"))
        await until(lambda: made.broker.outcomes())
        [outcome] = made.broker.outcomes()
        assert (outcome.state, outcome.phase, outcome.attempt) == ("deferred", "connect", 1)
        assert "no connection" in outcome.reply
        [copy] = made.broker.ladder()
        assert copy.headers["attempt"] == b"2"
        await made.take(mail("two", "x@two.example"))
        await until(lambda: len(server.mails) == 1)


async def test_one_connection_too_many_is_no_attempt():
    banner = Turns("220 mx.test", "421 4.7.0 too many connections")
    async with smtp_server(banner=banner, dot=(Wait(0.3), "250 ok")) as server, worker(server) as made:
        await made.take(*(to(f"m{n}") for n in range(3)))
        await until(lambda: states(made)["delivered"] == 3)
        assert {outcome.attempt for outcome in made.broker.outcomes()} == {1}
        assert made.broker.ladder() == []
        assert sum(c.count("MAIL") > 0 for c in verbs(server)) == 1
        made.agent.tick()
        assert b"too many connections" in (made.broker.landed["mail-lane-reports"][-1].value or b"")


async def test_a_connection_that_the_server_had_closed_is_no_attempt():
    said = Turns("250 ok", CLOSE, "250 ok")
    async with smtp_server(mail=said) as server, worker(server, rate=Rate(5000.0, 1, 100, 0.0, "")) as made:
        await made.take(to("a"), to("b"))
        await until(lambda: states(made)["delivered"] == 2)
        assert [outcome.attempt for outcome in made.broker.outcomes()] == [1, 1]
        assert len(server.seen) == 2
        assert len(server.mails) == 2


async def test_a_tarpit_among_thirty_sites_slows_none_of_them():
    async with contextlib.AsyncExitStack() as stack:
        tar = await stack.enter_async_context(smtp_server(banner=SILENCE, host="127.0.0.2"))
        good = await stack.enter_async_context(smtp_server(port=tar.port))
        made = await stack.enter_async_context(worker(tar, good))
        for n in range(30):
            made.names.found[f"s{n}.example"] = hosts_of(f"mx.s{n}.example")
        stuck = await made.take(*(to(f"t{n}") for n in range(5)))
        await made.take(*(mail(f"m{n}", f"x@s{n}.example") for n in range(30)))
        await until(lambda: states(made)["delivered"] == 30)
        assert len(made.broker.outcomes()) == 30
        made.ahead += 11
        made.agent.tick()
        assert sum(ticket.committable for ticket in stuck) == 4
        assert {copy.headers["attempt"] for copy in made.broker.ladder()} == {b"1"}


async def test_ownership_lost_while_the_body_is_on_its_way_no_dot_is_written():
    async with smtp_server(data=(Wait(0.2), "354 go"), slow=(4096, 0.01)) as server, worker(server) as made:
        await made.take(to("a", body=b"x" * 70 + b"\r\n"))
        await until(lambda: server.seen and "DATA" in verbs(server)[0])
        made.is_fresh = False
        await until(lambda: any(seen.partial for seen in server.seen))
        assert server.mails == []
        await asyncio.sleep(0.1)
        assert len(server.seen) == 1  # nothing is tried
        made.is_fresh = True
        await until(lambda: states(made)["delivered"] == 1)
        assert len(server.mails) == 1


async def test_without_pipelining_the_view_is_looked_at_again_before_data():
    plain = tuple(e for e in EXTENSIONS if e != "PIPELINING")
    said = Turns((Wait(0.2), "250 ok"), "250 ok")
    async with smtp_server(extensions=plain, rcpt=said) as server, worker(server) as made:
        await made.take(to("a"))
        await until(lambda: server.seen and "RCPT" in verbs(server)[0])
        made.suppressed.is_fresh = False
        await asyncio.sleep(0.4)
        assert "DATA" not in verbs(server)[0]
        made.suppressed.is_fresh = True
        await until(lambda: states(made)["delivered"] == 1)
        assert verbs(server)[0] == ["MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"]
        assert [outcome.attempt for outcome in made.broker.outcomes()] == [1]


async def test_closed_after_the_dot_is_unknown():
    async with smtp_server(dot=CLOSE) as server, worker(server) as made:
        [ticket] = await made.take(to("a"))
        await until(lambda: states(made)["unknown"] == 1)
        assert len(server.mails) == 1
        assert [copy.headers["attempt"] for copy in made.broker.ladder()] == [b"2"]
        assert ticket.committable


async def test_nonsense_before_the_dot_is_an_attempt_that_may_be_repeated():
    async with smtp_server(rcpt=Turns(b"\xff\xfe gibberish\r\n", "250 ok")) as server, worker(server) as made:
        await made.take(to("a"))
        await until(lambda: states(made)["deferred"] == 1)
        await made.take(woken(made.broker.ladder()[0]))
        await until(lambda: states(made)["delivered"] == 1)
        assert len(server.mails) == 1


async def test_at_most_once_says_nothing_before_its_intent_is_acknowledged():
    async with smtp_server(dot=CLOSE) as server, worker(server, hold=True) as made:
        [ticket] = await made.take(to("a", guarantee="at_most_once"))
        await until(lambda: made.broker.flight)
        await asyncio.sleep(0.1)
        assert verbs(server) == [[]]
        made.broker.ack()
        await until(lambda: made.broker.flight)
        made.broker.ack()
        assert [(o.state, o.final) for o in made.broker.outcomes()] == [("intent", False), ("unknown", True)]
        assert made.broker.ladder() == []
        assert ticket.committable


async def test_revoke_with_mails_before_and_past_their_dot():
    async with contextlib.AsyncExitStack() as stack:
        slow = await stack.enter_async_context(
            smtp_server(dot=(Wait(0.6), "250 2.0.0 after all"), host="127.0.0.2")
        )
        stuck = await stack.enter_async_context(smtp_server(rcpt=SILENCE, port=slow.port))
        made = await stack.enter_async_context(worker(slow, stuck))
        [past, before] = await made.take(to("past", 0), to("before", 1))
        await until(lambda: slow.mails and stuck.seen and "RCPT" in verbs(stuck)[0])
        await made.agent.revoked(0)
        assert [(o.id, o.state) for o in made.broker.outcomes()] == [("past", "unknown")]
        assert past.committable
        assert not before.said_done
        assert [copy.headers["id"] for copy in made.broker.ladder()] == [b"past"]
        await until(lambda: states(made)["delivered"] == 1)
        assert made.broker.outcomes()[-1].reply == "250 2.0.0 after all"
        assert made.broker.rows[("mail-outcomes", 0)] == {b"past": b"D1"}


async def test_stop_journals_the_replies_that_come_within_its_grace():
    async with smtp_server(dot=(Wait(0.4), "250 2.0.0 late")) as server, worker(server) as made:
        await made.take(to("a"))
        await until(lambda: server.mails)
        await made.agent.revoked(0)
        await made.agent.stop(5.0)
        assert [outcome.state for outcome in made.broker.outcomes()] == ["unknown", "delivered"]


async def test_eight_bit_mail_to_a_server_that_takes_none_bounces_and_the_others_go_on():
    plain = tuple(e for e in EXTENSIONS if e != "8BITMIME")
    async with smtp_server(extensions=plain) as server, worker(server) as made:
        await made.take(*(to(f"m{n}", body=b"x\xc3\xa9\r\n" if n % 2 else b"x\r\n") for n in range(40)))
        await until(lambda: len(made.broker.outcomes()) == 40)
        assert states(made) == {"delivered": 20, "bounced": 20}
        assert len(server.mails) == 20


async def test_a_server_that_blocks_us_with_a_554_greeting_bounces_nobody():
    async with smtp_server(banner="554 5.7.1 Your IP 127.0.0.1 is blocked") as server, worker(server) as made:
        [ticket] = await made.take(to("a"))
        await until(lambda: ticket.committable)
        [outcome] = made.broker.outcomes()
        assert (outcome.state, outcome.phase, outcome.reply) == (
            "deferred",
            "connect",
            "554 5.7.1 Your IP 127.0.0.1 is blocked",
        )
        [copy] = made.broker.ladder()
        assert copy.headers["attempt"] == b"2"

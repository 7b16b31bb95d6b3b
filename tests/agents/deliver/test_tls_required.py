"""Domains that require TLS, in stories of gate two and with real connections of the pool."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from agents.deliver.connect import ConnectFailed
from agents.deliver.pool import MxHost
from agents.deliver.requirement import Requirement
from schemas.lanes import lane_topic
from tests.agents.deliver.test_agent import settled, states, story, world
from tests.agents.deliver.test_pool import World
from tests.support.gates import hosts_of, mail
from tests.support.smtp_mail import asked
from tests.support.smtp_server import self_signed, smtp_server

VERIFY = Requirement("verify", "sts")
NAMES = ("alt1.aspmx.l.google.com", "aspmx.l.google.com")


def insecure(cached: bool = False) -> ConnectFailed:
    text = (
        "4.7.5 not sent: the domain's MTA-STS policy asks for TLS with a verified certificate and it failed"
    )
    return ConnectFailed("starttls", 0, text, True, "sts", "mx.test", "127.0.0.1", 30.0, cached)


@pytest.mark.parametrize("cached", [False, True])
@story
async def test_a_domain_without_the_tls_it_asks_for_waits_and_its_neighbours_do_not(cached):
    made = await world(answer=lambda line: line.say(250, "ok"))
    for domain in ("strict.test", "free.test"):
        made.names.found[domain] = hosts_of(*NAMES)
    made.asked.found["strict.test"] = (VERIFY, VERIFY)
    made.servers.refuse = lambda group, site: insecure(cached) if site[-1] == (VERIFY, VERIFY) else None
    topic = lane_topic("google")
    await made.take(
        *(mail(f"s{n}", f"s{n}@strict.test", topic=topic) for n in range(3)),
        *(mail(f"f{n}", f"f{n}@free.test", topic=topic) for n in range(3)),
    )
    await settled()
    await asyncio.sleep(0.5)
    for n in range(3):
        [outcome] = made.broker.outcomes(f"s{n}")
        assert (outcome.state, outcome.reason, outcome.klass, outcome.action, outcome.phase) == (
            "deferred",
            "sts",
            "tls",
            "retry",
            "starttls",
        )
        assert outcome.next_at > outcome.time
        assert states(made, f"f{n}") == ["delivered"]
    # What a domain asks for and does not give says nothing about how fast the provider takes mail.
    assert outcome.source == ""


@story
async def test_connections_are_not_shared_between_different_requirements():
    made = await world(answer=lambda line: line.say(250, "ok"))
    for domain in ("strict.test", "free.test", "also.test"):
        made.names.found[domain] = hosts_of("mx.shared.test")
    made.asked.found["strict.test"] = (VERIFY,)
    for n, domain in enumerate(("free.test", "strict.test", "also.test", "strict.test")):
        await made.take(mail(f"m{n}", f"m{n}@{domain}"))
        await asyncio.sleep(1)
    assert [line.site[1] for line in made.servers.lines] == [
        ("mx.shared.test",),
        (("mx.shared.test",), (VERIFY,)),
    ]
    assert [line.carried for line in made.servers.lines] == [2, 2]


@story
async def test_a_mail_waits_for_the_answer_about_its_domain():
    made = await world(answer=lambda line: line.say(250, "ok"))
    made.asked.slow["b.example"] = 3.0
    made.asked.found["b.example"] = (VERIFY,)
    await made.take(mail("a"))
    await asyncio.sleep(2.9)
    assert made.servers.lines == []
    await asyncio.sleep(0.3)
    assert [line.site[1][1] for line in made.servers.lines] == [(VERIFY,)]


async def test_a_failure_of_one_requirement_is_remembered_for_that_one(tmp_path):
    """The same host, the same address: only what one domain asks for is missing."""
    context, _ = self_signed(tmp_path)
    async with smtp_server(tls=context) as server:
        pool = World()
        plain = (await pool.get(_mx(server, Requirement()), site="free")).facts
        assert (plain.tls[:3], plain.security) == ("TLS", "encrypted")
        strict = _mx(server, VERIFY)
        first, second = await pool.get(strict, site="strict"), await pool.get(strict, site="strict")
        assert [(f.why, f.cached) for f in (first, second)] == [("sts", False), ("sts", True)]
        assert not isinstance(await pool.get(_mx(server, Requirement()), site="other"), ConnectFailed)


async def test_the_next_host_may_have_what_is_asked(tmp_path):
    good, _ = self_signed(tmp_path)
    bad = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with smtp_server(tls=bad) as first, smtp_server(tls=good) as second:
        pool = World()
        require = asked("require")
        hosts = [_mx(first, require), _mx(second, require)._replace(preference=20)]
        assert (await pool.get(*hosts)).facts.tls
        found = await pool.get(_mx(first, require), dead(), site="other")
        assert found.why == "tls_required", "a dead host beside it is not the reason"


def _mx(server, requires):
    return MxHost("mx.test", 10, (server.host,), server.port, requires)


def dead():
    return MxHost("dead.test", 30, ("127.0.0.99",), 9)

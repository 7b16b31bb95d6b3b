"""A simulated provider, driven by aiosmtplib: budgets, refusals, what it looks at, what it records."""

from contextlib import asynccontextmanager
from pathlib import Path

import aiosmtplib
import pytest

from streams.lab.dns import Zone
from streams.lab.ledger import Ledger, read
from streams.lab.provider import Provider
from streams.lab.providers import load
from streams.lab.site import Fault
from streams.lab.smtp import SmtpServer
from tests.lab.letters import letter, publish

BASE = 'domains = ["gmail.test"]\nmx = ["mx.gmail.test"]\naddress = "127.0.0.11"\nshare = 1.0\n'


class Clock:
    """Unix seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def provider(text: str, clock: Clock | None = None, directory: Path | None = None):
    world = load("seed = 3\n[providers.gmail]\n" + BASE + text)
    zone = Zone()
    publish(zone)
    clock = clock or Clock()
    ledger = Ledger(directory, "gmail")
    site = Provider(world.providers[0], world.seed, ledger, zone.txt, clock)
    async with SmtpServer(site, clock=clock) as server:
        yield server, ledger
    ledger.close()


@asynccontextmanager
async def connected(server: SmtpServer, source: str = "127.0.0.1"):
    host, port = server.address
    client = aiosmtplib.SMTP(hostname=host, port=port, timeout=3, start_tls=False, source_address=(source, 0))
    await client.connect()
    try:
        yield client
    finally:
        client.close()


async def reply(client: aiosmtplib.SMTP, to: str = "ann@gmail.test", message: bytes | None = None) -> str:
    """How it went: ``250 ...`` or the refusal."""
    try:
        await client.sendmail("b-1@bounces.shop.test", [to], message or letter(sign=""))
    except aiosmtplib.SMTPRecipientsRefused as error:
        return f"{error.recipients[0].code} {error.recipients[0].message}"
    except aiosmtplib.SMTPResponseException as error:
        return f"{error.code} {error.message}"
    return "250"


async def test_the_budget_is_kept_per_source_and_fills_up_again():
    clock = Clock()
    async with provider('dialect = "yahoo"\nrate = 5\nburst = 1\nverify = 0', clock) as (server, ledger):
        async with connected(server) as one, connected(server, "127.0.0.2") as two:
            assert [await reply(one) for _ in range(5)] == ["250"] * 5
            assert "[TSS04]" in await reply(one)
            assert await reply(two) == "250"
        clock.now += 0.41
        async with connected(server) as one:
            assert [await reply(one) for _ in range(2)] == ["250"] * 2
            assert (await reply(one)).startswith("421 4.7.0 [TSS04] Mail from 127.0.0.1 ")
    assert ledger.sources() == ["127.0.0.1", "127.0.0.2"]
    assert ledger.windows("127.0.0.1", 10) == 7
    assert ledger.attempts("127.0.0.1") == 9
    assert ledger.throttled("127.0.0.1") == 2
    assert ledger.first_throttle("127.0.0.1") == 1_000_000.0
    assert ledger.first_throttle("127.0.0.2") is None


async def test_gmail_says_so_only_after_the_message():
    text = 'dialect = "google"\nrate = 1\nburst = 1\nverify = 0\nthrottle_at = "dot"'
    async with provider(text) as (server, ledger), connected(server) as client:
        assert await reply(client) == "250"
        said = await reply(client)
        assert said.startswith("421 4.7.28 ")
        assert "unusual rate" in said
    assert ledger.refused == {"rate": 1}


async def test_connections_and_messages_on_them_are_limited():
    async with provider("connections = 2\nper_connection = 3\nverify = 0") as (server, ledger):
        async with connected(server) as one, connected(server):
            with pytest.raises(aiosmtplib.SMTPException):
                async with connected(server):
                    pass
            async with connected(server, "127.0.0.2") as other:
                assert await reply(other) == "250"
            assert [await reply(one) for _ in range(3)] == ["250"] * 3
            assert "4.7.0 Too many messages on this connection" in await reply(one)
        async with connected(server), connected(server):
            pass
    assert ledger.refused == {"connections": 1, "messages": 1}
    assert ledger.throttled("127.0.0.1") == 1


async def test_unknown_and_full_and_foreign_recipients():
    text = 'dialect = "orange"\nunknown_pattern = "^gone"\nfull = 1.0\nfull_tries = 2\nverify = 0'
    async with provider(text) as (server, ledger), connected(server) as client:
        assert "OFR_416" in await reply(client, "Gone.Ann@gmail.test")
        assert (await reply(client, "ann@elsewhere.test")).startswith("550 5.7.1 Relaying denied")
        assert [(await reply(client, "ann@gmail.test"))[:9] for _ in range(3)] == [
            "552 5.1.1",
            "552 5.1.1",
            "250",
        ]
    assert ledger.refused == {"unknown": 1, "relay": 1, "full": 2}
    assert [take.rcpt for take in ledger.taken()] == ["ann@gmail.test"]


async def test_greylisting_and_the_rate_of_one_user():
    clock = Clock()
    text = "greylist = 30\nrecipient_rate = 2\nverify = 0"
    async with provider(text, clock) as (server, ledger), connected(server) as client:
        assert (await reply(client)).startswith("451 4.7.1 Greylisted")
        clock.now += 31
        assert [(await reply(client))[:9] for _ in range(3)] == ["250", "250", "450 4.2.1"]
        clock.now += 60
        assert await reply(client) == "250"
    assert ledger.refused == {"greylist": 1, "recipient": 1}


async def test_dkim_is_verified_with_both_algorithms_and_may_be_required():
    good, bad = letter(1), letter(2)
    async with provider("require_dkim = true") as (server, ledger), connected(server) as client:
        assert await reply(client, message=good) == "250"
        assert (await reply(client, message=bad.replace(b"<p>hi", b"<p>HI"))).startswith("550 5.7.20")
        assert (await reply(client, message=letter(3, sign=""))).startswith("550 5.7.20")
        tampered = letter(4).replace(b"a=rsa-sha256; c=relaxed", b"a=rsa-sha256; c=sample")
        assert await reply(client, message=tampered) == "250"
    assert ledger.dkim == {"rsa=pass": 1, "ed25519=pass": 2, "rsa=fail": 1}
    assert ledger.refused == {"dkim": 2}
    assert not ledger.flaws


async def test_only_a_share_is_verified():
    async with provider("verify = 0.5\nrate = 1000") as (server, ledger), connected(server) as client:
        for number in range(60):
            assert await reply(client, message=letter(number, sign="e")) == "250"
    assert ledger.dkim["ed25519=pass"] + ledger.dkim["unchecked"] == 60
    assert 15 < ledger.dkim["ed25519=pass"] < 45


async def test_what_a_strict_provider_would_hold_against_it():
    cases = {
        "no_one_click": letter(1).replace(b"=One-Click", b"=Two-Clicks"),
        "one_click_unsigned": letter(2, sign="").replace(
            b"From:", b"DKIM-Signature: v=1; d=shop.test; h=from\r\nFrom:", 1
        ),
        "unaligned": letter(3).replace(b"news@shop.test", b"news@other.test"),
        "no_date": letter(4, extra="Date: Sat, 22 Nov 2025 11:00:00 +0000"),
        "no_message_id": letter(5).replace(b"Message-ID", b"X-Message-ID"),
        "long_line": letter(6, html="x" * 999),
        "bare_lf": letter(7).replace(b"<p>", b"<p>\n"),
    }
    async with provider("verify = 0") as (server, ledger):
        for message in cases.values():
            async with connected(server) as client:
                await client.ehlo()
                for command in (
                    (b"MAIL", b"FROM:<b@shop.test>"),
                    (b"RCPT", b"TO:<ann@gmail.test>"),
                    (b"DATA",),
                ):
                    await client.execute_command(*command)
                client.transport.write(message + b".\r\n")
                await client.execute_command(b"NOOP")
        transactional = letter(8, unsubscribe="")
        async with connected(server) as client:
            assert await reply(client, message=transactional) == "250"
    takes = ledger.taken()
    for flaw, take in zip(cases, takes, strict=False):
        assert take.flaws == (flaw,)
    assert len(takes) == len(cases) + 1
    assert takes[-1].flaws == ()
    assert not takes[-1].marketing


async def test_it_is_recorded_before_the_reply_and_duplicates_count(tmp_path):
    async with provider("verify = 0", directory=tmp_path) as (server, ledger):
        server.site.script(Fault("dot", "reset"))
        async with connected(server) as client:
            with pytest.raises((aiosmtplib.SMTPException, OSError)):
                await client.sendmail("b@shop.test", ["ann@gmail.test"], letter(sign=""))
        on_disk = read(tmp_path)["gmail"].taken()
        assert [(take.id, take.rcpt, take.replied) for take in on_disk] == [("id1", "ann@gmail.test", False)]
        async with connected(server) as client:
            assert await reply(client) == "250"
            assert not ledger.duplicates(counting_unreplied=False)
            assert await reply(client) == "250"
    assert read(tmp_path)["gmail"].duplicates() == {("<id1@shop.test>", "ann@gmail.test"): 2}
    assert ledger.duplicates(counting_unreplied=False) == {("<id1@shop.test>", "ann@gmail.test"): 1}


async def test_tls_may_be_required():
    async with (
        provider('require_tls = true\ndialect = "google"') as (server, ledger),
        connected(server) as client,
    ):
        assert (await reply(client)).startswith("530 5.7.0")
    assert ledger.refused == {"tls": 1}

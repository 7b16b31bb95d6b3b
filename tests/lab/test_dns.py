"""The lab's DNS server, asked by dnspython's own stub resolver and by raw messages."""

import asyncio
import time

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import pytest

from streams.lab.dns import DnsServer, Trouble, Zone, ZoneError

RECORDS = {
    "shop.test": {"MX": ["10 mx1.shop.test", "20 mx2.shop.test."], "TXT": "v=spf1 ip4:127.0.0.1 -all"},
    "mx1.shop.test": {"A": "127.0.0.21", "AAAA": "::1"},
    "www.shop.test": {"CNAME": "mx1.shop.test"},
    "null.test": {"MX": "0 ."},
    "loop.test": {"CNAME": "loop.test"},
    "deep.one.two.test": {"A": "127.0.0.1"},
}


@pytest.fixture
async def server():
    async with DnsServer(Zone(RECORDS, apexes=["shop.test"])) as running:
        yield running


def resolver(server: DnsServer, lifetime: float = 2.0) -> dns.asyncresolver.Resolver:
    found = dns.asyncresolver.Resolver(configure=False)
    found.nameservers = [server.address[0]]
    found.port = server.address[1]
    found.lifetime = lifetime
    return found


async def test_answers_every_kind_of_record(server):
    ask = resolver(server)
    server.zone.host("mx3.shop.test", "127.0.0.23", "::23")
    assert {(r.preference, str(r.exchange).lower()) for r in await ask.resolve("SHOP.test", "MX")} == {
        (10, "mx1.shop.test."),
        (20, "mx2.shop.test."),
    }
    assert str((await ask.resolve("mx1.shop.test", "AAAA"))[0]) == "::1"
    assert str((await ask.resolve("www.shop.test", "A"))[0]) == "127.0.0.21"
    assert str((await ask.resolve_address("127.0.0.23"))[0]) == "mx3.shop.test."
    assert str((await ask.resolve_address("::23"))[0]) == "mx3.shop.test."
    assert str((await ask.resolve("null.test", "MX"))[0].exchange) == "."
    assert server.asked["shop.test", "MX", "udp"] == 1


async def test_says_no_with_the_soa_that_negative_caches_need(server):
    ask = resolver(server)
    with pytest.raises(dns.resolver.NXDOMAIN) as missing:
        await ask.resolve("nobody.shop.test", "MX")
    response = next(iter(missing.value.responses().values()))
    assert str(response.authority[0].name) == "shop.test."
    with pytest.raises(dns.resolver.NoAnswer) as empty:
        await ask.resolve("mx1.shop.test", "MX")
    assert str(empty.value.response().authority[0].name) == "shop.test."
    # A name above an existing one exists (RFC 8020): no data, not no domain.
    with pytest.raises(dns.resolver.NoAnswer):
        await ask.resolve("one.two.test", "A")
    # Real names do not exist here.
    with pytest.raises(dns.resolver.NXDOMAIN):
        await ask.resolve("gmail.com", "MX")


async def test_a_long_answer_is_truncated_and_comes_over_tcp(server):
    key = "v=DKIM1; k=rsa; p=" + "A" * 1400
    server.zone.add("s1._domainkey.shop.test", "TXT", key)
    assert server.zone.txt(b"s1._domainkey.shop.test.") == key.encode()
    query = dns.message.make_query("s1._domainkey.shop.test", "TXT")
    host, port = server.address
    short = await dns.asyncquery.udp(query, host, 2, port)
    assert short.flags & dns.flags.TC
    assert not short.answer
    answer = (await resolver(server).resolve("s1._domainkey.shop.test", "TXT"))[0]
    assert b"".join(answer.strings).decode() == key
    assert server.asked["s1._domainkey.shop.test", "TXT", "tcp"] == 1


async def test_fits_512_bytes_for_an_asker_without_edns(server):
    server.zone.add("mid.shop.test", "TXT", "x" * 700)
    host, port = server.address
    plain = await dns.asyncquery.udp(dns.message.make_query("mid.shop.test", "TXT"), host, 2, port)
    assert plain.flags & dns.flags.TC
    edns = dns.message.make_query("mid.shop.test", "TXT", use_edns=0, payload=4096)
    assert (await dns.asyncquery.udp(edns, host, 2, port)).answer


async def test_scripted_servfail_and_loop(server):
    server.zone.trouble("shop.test", Trouble(rcode="SERVFAIL"))
    with pytest.raises(dns.resolver.NoNameservers):
        await resolver(server).resolve("shop.test", "MX")
    server.zone.trouble("shop.test", None)
    assert len(await resolver(server).resolve("shop.test", "MX")) == 2
    with pytest.raises(dns.resolver.NoNameservers):
        await resolver(server).resolve("loop.test", "A")


async def test_silence_and_delay_hold_up_only_their_own_name(server):
    server.zone.trouble("null.test", Trouble(silent=True))
    server.zone.trouble("shop.test", Trouble(delay=0.15))
    start = time.monotonic()
    silent = asyncio.create_task(resolver(server, lifetime=0.5).resolve("null.test", "MX"))
    late = asyncio.create_task(resolver(server).resolve("shop.test", "MX"))
    await resolver(server).resolve("www.shop.test", "A")
    assert time.monotonic() - start < 0.15
    assert len(await late) == 2
    assert time.monotonic() - start >= 0.15
    with pytest.raises(dns.exception.Timeout):
        await silent
    host, port = server.address
    with pytest.raises(dns.exception.Timeout):
        await dns.asyncquery.tcp(dns.message.make_query("null.test", "MX"), host, 0.2, port)


async def test_nonsense_is_dropped_and_the_next_question_answered(server):
    loop = asyncio.get_running_loop()
    host, port = server.address
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(host, port))
    for junk in (b"", b"\0", b"\xff" * 30, b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1"):
        transport.sendto(junk)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"\0\4junk")
    assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()
    transport.close()
    assert await resolver(server).resolve("shop.test", "TXT")


async def test_removed_records_are_gone(server):
    server.zone.remove("shop.test", "TXT")
    with pytest.raises(dns.resolver.NoAnswer):
        await resolver(server).resolve("shop.test", "TXT")
    server.zone.remove("null.test")
    with pytest.raises(dns.resolver.NXDOMAIN):
        await resolver(server).resolve("null.test", "MX")


def test_a_bad_zone_names_all_its_faults():
    with pytest.raises(ZoneError) as error:
        Zone({"a.test": {"A": "300.1.1.1"}, "b.test": {"MX": "ten mx.b.test", "NONSUCH": "x"}})
    text = str(error.value)
    assert "a.test A" in text
    assert "b.test MX" in text
    assert "b.test NONSUCH" in text

"""Connecting: addresses that are not allowed, banners, EHLO, STARTTLS, and every way they go wrong."""

import asyncio
import hashlib
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agents.deliver.connect import ConnectFailed, Networks, Target, connect
from agents.deliver.dane import Tlsa
from agents.deliver.requirement import Requirement
from agents.deliver.sources import Source
from agents.deliver.tls import contexts
from tests.support.pki import issue
from tests.support.smtp_mail import asked, dial, post, settings
from tests.support.smtp_server import (
    CLOSE,
    RESET,
    SILENCE,
    Endless,
    Turns,
    Wait,
    self_signed,
    smtp_server,
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


async def fail(server, **changes):
    mode = changes.pop("tls_mode", "opportunistic")
    found = await connect(Target("mx.test", server.host, server.port, asked(mode)), settings(**changes))
    assert isinstance(found, ConnectFailed)
    return found


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "2002:7f00:1::1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "mx.example",
        "",
        "1.2.3",
    ],
)
def test_only_public_addresses_are_allowed(address):
    assert not Networks.parse("public").allow(address)


def test_public_addresses_and_named_networks_are_allowed():
    assert all(
        Networks.parse("public").allow(ip) for ip in ("8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808")
    )
    lab = Networks.parse("127.0.0.0/8, ::1/128")
    assert lab.allow("127.0.0.9")
    assert lab.allow("::1")
    assert not lab.allow("8.8.8.8")
    assert Networks.parse("public,10.0.0.0/8").allow("10.2.3.4")
    with pytest.raises(ValueError, match="nonsense"):
        Networks.parse("nonsense")


async def test_a_forbidden_destination_gets_not_even_a_connection():
    async with smtp_server() as server:
        found = await fail(server, networks=Networks())
        assert (found.why, found.temporary, found.phase) == ("network", False, "connect")
        assert "mx.test [127.0.0.1]" in found.text
        assert server.seen == []


async def test_the_facts_of_a_connection():
    async with smtp_server(extensions=("PIPELINING", "size 1234", "8BITMIME")) as server:
        session = await dial(server)
        facts = session.facts
        assert (facts.host, facts.ip, facts.source) == ("mx.test", "127.0.0.1", "127.0.0.1")
        assert facts.banner == "mx.test ESMTP"
        assert facts.extensions == {"PIPELINING", "SIZE", "8BITMIME"}
        assert (facts.size, facts.tls, facts.cipher, facts.security) == (1234, "", "", "clear")
        assert server.seen[0].commands == ["EHLO client.test"]


async def test_the_source_address_is_ours_to_choose():
    async with smtp_server() as server:
        target = Target("mx.test", server.host, server.port)
        session = await connect(target, settings(), Source("a", "127.0.0.7", "seven.client.test"))
        assert session.facts.source == "127.0.0.7"
        assert server.seen[0].peer == "127.0.0.7"
        assert server.seen[0].commands == ["EHLO seven.client.test"]


async def test_a_source_that_is_not_ours_is_a_failure():
    async with smtp_server() as server:
        found = await connect(
            Target("mx.test", server.host, server.port), settings(), Source("b", "192.0.2.1")
        )
        assert (found.why, found.temporary) == ("source", True)


async def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = await connect(Target("mx.test", *free.getsockname()), settings())
    assert (found.phase, found.why, found.temporary, found.code) == ("connect", "unreachable", True, 0)
    assert found.text


async def test_a_host_that_never_completes_the_connection():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fill = []
        for _ in range(4):  # its queue of connections is full now
            peer = socket.socket()
            peer.setblocking(False)
            peer.connect_ex(deaf.getsockname())
            fill.append(peer)
        found = await connect(Target("mx.test", *deaf.getsockname()), settings(connect=0.2, ehlo=0.2))
        for peer in fill:
            peer.close()
    assert (found.phase, found.why) == ("connect", "timeout")


@pytest.mark.parametrize(
    ("banner", "why", "code", "temporary"),
    [
        ("554 5.7.1 we do not take mail from you", "reply", 554, False),
        ("421-4.7.0 too many\n421 4.7.0 connections", "reply", 421, True),
        ("451 later", "reply", 451, True),
        ("250 wrong kind", "nonsense", 0, True),
        ("HTTP/1.1 400 Bad Request", "nonsense", 0, True),
        (b"\x15\x03\x01\0\x02\x02F\n", "nonsense", 0, True),
        (b"\0" * 40_000, "nonsense", 0, True),
        (Endless(b"220-x\r\n"), "nonsense", 0, True),
        (CLOSE, "closed", 0, True),
        (RESET, "closed", 0, True),
        (SILENCE, "timeout", 0, True),
        ([b"22", SILENCE], "timeout", 0, True),
    ],
)
async def test_banners_that_give_no_session(banner, why, code, temporary):
    async with smtp_server(banner=banner) as server:
        found = await fail(server, ehlo=0.3 if why == "timeout" else 10.0)
        assert (found.phase, found.why, found.code, found.temporary) == ("connect", why, code, temporary)
        assert found.text
        assert "\n" not in found.text
        assert (found.host, found.ip) == ("mx.test", "127.0.0.1")


@pytest.mark.parametrize(
    ("ehlo", "why", "code", "temporary"),
    [
        ("421 4.3.2 shutting down", "reply", 421, True),
        ("451 4.7.1 not yet", "reply", 451, True),
        (["550 5.7.1 bad HELO", CLOSE], "reply", 550, False),
        (b"\xff\xfe\n", "nonsense", 0, True),
        (CLOSE, "closed", 0, True),
        (SILENCE, "timeout", 0, True),
        (b"250-mx.test\r\n250 PIPELINING\r\n250 and more\r\n", "nonsense", 0, True),
    ],
)
async def test_ehlo_that_gives_no_session(ehlo, why, code, temporary):
    async with smtp_server(ehlo=ehlo) as server:
        found = await fail(server, ehlo=0.3 if why == "timeout" else 10.0)
        assert (found.phase, found.why, found.code, found.temporary) == ("ehlo", why, code, temporary)


async def test_helo_where_ehlo_is_unknown():
    async with smtp_server(ehlo="502 5.5.1 what") as server:
        session = await dial(server)
        assert session.facts.extensions == frozenset()
        assert (await post(session)).state == "accepted"
        assert server.seen[0].commands[:3] == [
            "EHLO client.test",
            "HELO client.test",
            "MAIL FROM:<from@a.example>",
        ]


async def test_both_greetings_refused():
    async with smtp_server(ehlo="550 5.7.1 no", helo="554 5.7.1 never") as server:
        found = await fail(server)
        assert (found.phase, found.code, found.temporary) == ("ehlo", 554, False)


async def test_starttls_is_used_where_offered_and_ehlo_said_again(certificate):
    async with smtp_server(tls=certificate[0]) as server:
        session = await dial(server)
        assert session.facts.tls in ("TLSv1.2", "TLSv1.3")
        assert session.facts.cipher
        assert session.facts.security == "encrypted"
        assert server.seen[0].commands == ["EHLO client.test", "STARTTLS", "EHLO client.test"]
        assert (await post(session)).state == "accepted"


async def test_a_certificate_is_verified_when_asked_for(certificate):
    async with smtp_server(tls=certificate[0]) as server:
        found = await fail(server, tls_mode="verify")
        assert (found.phase, found.why, found.temporary) == ("starttls", "tls_required", True)
        assert "CERTIFICATE_VERIFY_FAILED" in found.text
        trusting = contexts(str(certificate[1]))
        session = await dial(server, tls_mode="verify", tls=trusting)
        assert session.facts.security == "verified"
        target = Target("other.test", server.host, server.port, asked("verify"))
        assert isinstance(await connect(target, settings(tls=trusting)), ConnectFailed)


@pytest.mark.parametrize(
    "starttls",
    ["454 4.7.0 not now", "220 go", b"220 go\r\nnot TLS at all\r\n", CLOSE, SILENCE, "501 5.5.4 no"],
)
async def test_starttls_that_fails_is_followed_by_clear_text_once(starttls, certificate):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # has no certificate: every handshake fails
    steps = [starttls, CLOSE] if starttls in ("220 go", b"220 go\r\nnot TLS at all\r\n") else starttls
    async with smtp_server(tls=old, starttls=steps) as server:
        session = await dial(server, starttls=0.3)
        assert session.facts.tls == ""
        assert (await post(session)).state == "accepted"
        assert [seen.commands[:2][-1].split(" ")[0] for seen in server.seen] == ["STARTTLS", "MAIL"]


async def test_a_handshake_that_fails_is_followed_by_clear_text_for_three_days():
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    where, now = settings(), 1000.0
    async with smtp_server(tls=old) as server:

        async def said(mode: str = "opportunistic") -> tuple[str, list[str]]:
            server.seen.clear()
            found = await connect(
                Target("mx.test", server.host, server.port, asked(mode)), where, clock=lambda: now
            )
            security = "" if isinstance(found, ConnectFailed) else found.facts.security
            return security, [seen.commands[-1].split(" ")[0] for seen in server.seen]

        assert await said() == ("broken", ["STARTTLS", "EHLO"])
        assert await said() == ("broken", ["EHLO"])
        assert await said("require") == ("", ["STARTTLS"])
        now += 3 * 86400 - 1
        assert await said() == ("broken", ["EHLO"])
        now += 1
        assert await said() == ("broken", ["STARTTLS", "EHLO"])


async def test_the_fallback_is_remembered_only_where_clear_text_went_through():
    where = settings()
    async with smtp_server(
        tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), banner=Turns("220 hello", "554 no")
    ) as server:
        found = await connect(Target("mx.test", server.host, server.port), where)
        assert isinstance(found, ConnectFailed)
        assert (found.phase, found.code) == ("connect", 554)
        assert not where.tls.broken


async def test_a_session_is_taken_up_again_under_the_context_that_made_it(certificate):
    where = settings(tls=contexts(str(certificate[1])))
    async with smtp_server(tls=certificate[0]) as server:
        target = Target("mx.test", server.host, server.port, asked("verify"))
        for again in (False, True):
            session = await connect(target, where)
            assert session.ssl_object.session_reused is again
            assert (await post(session)).state == "accepted"
            session.close()
        # What was verified for one name, and what was not verified at all, is not taken up for another.
        session = await connect(Target("mx.test", server.host, server.port), where)
        assert not session.ssl_object.session_reused
        found = await connect(Target("other.test", server.host, server.port, asked("verify")), where)
        assert isinstance(found, ConnectFailed)


async def test_opportunistic_tls_says_what_verification_would_have_said(tmp_path):
    root = issue("Root", authority=True)
    (tmp_path / "root.pem").write_bytes(root.pem)
    mine = root.issue("Middle", authority=True).issue("mx.test").server(tmp_path)
    trusting = settings(tls=contexts(str(tmp_path / "root.pem")))
    async with smtp_server(tls=mine) as server:
        for host, expected in (("mx.test", "verified"), ("other.test", "encrypted"), ("mx.test", "verified")):
            session = await connect(Target(host, server.host, server.port), trusting)
            assert session.facts.security == expected
    async with smtp_server(tls=issue("mx.test").server(tmp_path)) as server:
        session = await connect(Target("mx.test", server.host, server.port), trusting)
        assert session.facts.security == "encrypted"


async def test_a_chain_under_the_authority_of_a_record(tmp_path):
    root = issue("Root", authority=True)
    mine = root.issue("Middle", authority=True).issue("mx.test").server(tmp_path)
    where, digest = settings(), hashlib.sha256(root.spki).digest()
    async with smtp_server(tls=mine) as server:
        for names, expected in ((("mx.test",), "dane"), (("a.test", "b.test"), "")):
            asks = Requirement("dane", "dane", (Tlsa(2, 1, 1, digest),), names)
            found = await connect(Target("mx.test", server.host, server.port, asks), where)
            assert ("" if isinstance(found, ConnectFailed) else found.facts.security) == expected


def _key_of(path) -> bytes:
    found = x509.load_pem_x509_certificate(path.read_bytes()[path.read_bytes().index(b"-----BEGIN CERT") :])
    key = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).digest()


async def test_dane_takes_the_certificate_of_its_record_and_no_other(certificate):
    """DANE-EE with SHA-256 of the key, the common form; on a session taken up again too."""
    where, good = settings(), Tlsa(3, 1, 1, _key_of(certificate[1]))
    async with smtp_server(tls=certificate[0]) as server:

        async def dane(*records: Tlsa):
            asks = Requirement("dane", "dane", records)
            return await connect(Target("any.test", server.host, server.port, asks), where)

        first, second = await dane(good), await dane(good)
        assert (first.facts.security, second.facts.security) == ("dane", "dane")
        assert second.ssl_object.session_reused
        found = await dane(Tlsa(3, 1, 1, bytes(32)))
        assert (found.phase, found.why, found.temporary) == ("starttls", "dane", True)
        assert "no TLSA record matches" in found.text
        assert server.seen[-1].commands == ["EHLO client.test", "STARTTLS"]  # not even EHLO to a stranger


async def test_a_host_that_may_not_have_the_mail_gets_no_connection():
    async with smtp_server() as server:
        for why in ("sts", "dane"):
            found = await fail(server, tls_mode=Requirement("never", why))
            assert (found.why, found.temporary, found.insecure) == (why, True, True)
        assert server.seen == []


@pytest.mark.parametrize("mode", ["require", "verify"])
async def test_required_tls_never_falls_back(mode):
    async with smtp_server(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as server:
        found = await fail(server, tls_mode=mode)
        assert (found.phase, found.temporary) == ("starttls", True)
        assert len(server.seen) == 1
    async with smtp_server() as server:
        found = await fail(server, tls_mode=mode)
        assert (found.phase, found.why) == ("starttls", "tls_required")
        assert "does not offer STARTTLS" in found.text


async def test_what_an_attacker_slips_in_before_tls_is_forgotten(certificate):
    """RFC 3207 4.2: bytes behind the 220 are not part of the encrypted session, nor is the first EHLO."""
    clear = "250-mx.test\n250-STARTTLS\n250 PIPELINING"
    inner = "250-mx.test\n250 8BITMIME"
    async with smtp_server(tls=certificate[0], ehlo=Turns(clear, inner)) as server:
        session = await dial(server)
        assert session.facts.extensions == {"8BITMIME"}
        assert session.facts.tls


async def test_no_tls_when_it_is_off(certificate):
    async with smtp_server(tls=certificate[0]) as server:
        session = await dial(server, tls_mode="off")
        assert session.facts.tls == ""


async def test_nothing_stays_open_when_connecting_is_cancelled():
    async with smtp_server(ehlo=SILENCE) as server:
        task = asyncio.ensure_future(connect(Target("mx.test", server.host, server.port), settings()))
        while not (server.seen and server.seen[0].commands):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(3):
            while server.open:
                await asyncio.sleep(0.01)


async def test_a_slow_server_is_waited_for():
    async with smtp_server(
        banner=[Wait(0.1), "220 slow"], ehlo=[Wait(0.1), "250 mx.test"], split=3
    ) as server:
        assert (await dial(server)).ready


async def test_small_writes_do_not_wait_for_acknowledgements():
    """Nagle's algorithm would hold each final dot back for a delayed ACK: 40 ms a mail."""
    async with smtp_server() as server:
        session = await dial(server)
        sock = session._raw.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

"""What recipient domains require of TLS, against a real signed zone, a validating resolver and real servers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.deliver.connect import ConnectFailed, connect
from agents.deliver.delivery import Asks
from agents.deliver.pool import Limits, MxHost, Pool, Settings
from agents.deliver.tls import contexts
from streams.resolver import Limits as DnsLimits
from streams.resolver import Resolver
from streams.sts import Sts
from streams.tls_policies import TlsPolicies
from tests.support.dnssec import Servers, dnssec
from tests.support.pki import Issued, issue
from tests.support.policy_host import policy_host, policy_text
from tests.support.ports import free_port
from tests.support.smtp_mail import LOOPBACK, Letter, post, settings
from tests.support.smtp_server import SmtpServer, smtp_server


def digest(of: Issued) -> str:
    return hashlib.sha256(of.spki).hexdigest()


@dataclass
class World:
    """Zones with every kind of domain; ``port`` is that of all mail hosts.

    Mail hosts: 127.0.0.21 has a certificate of its own making, .22 one for ``ta`` and its authority, .23 no
    TLS at all, .24 a certificate by an authority that everybody knows.
    """

    dns: Servers
    port: int
    home: Path
    own: Issued
    ta: Issued
    known: Issued
    policies: Issued


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("dnssec")
    port = free_port()
    private, public = issue("Private root", authority=True), issue("Public root", authority=True)
    own = issue("whoever.test", days=(-20, -10))
    ta = private.issue("Middle", authority=True).issue(
        "mx-ta.signed.test", hosts=["mx-ta.signed.test", "name.signed.test"]
    )
    known = public.issue("mx.plain.test", hosts=["mx.plain.test", "mx-sts.signed.test"])
    names = [f"mta-sts.{name}.plain.test" for name in ("good", "self", "other", "testing", "gone")]
    policies = public.issue("policies", hosts=[*names, "mta-sts.both.signed.test"])
    (home / "root.pem").write_bytes(public.pem)
    stranger = issue("stranger.test")

    def tlsa(host: str, *records: str) -> str:
        return "".join(f"_{port}._tcp.{host} TLSA {record}\n" for record in records)

    signed = "\n".join(
        [
            "ee MX 10 mx-ee\nmx-ee A 127.0.0.21" + "\n" + tlsa("mx-ee", f"3 1 1 {digest(own)}"),
            "ta MX 10 mx-ta\nmx-ta A 127.0.0.22" + "\n" + tlsa("mx-ta", f"2 1 1 {digest(private)}"),
            "name MX 10 mx-name\nmx-name A 127.0.0.22" + "\n" + tlsa("mx-name", f"2 1 1 {digest(private)}"),
            "alias MX 10 mx-alias\nmx-alias A 127.0.0.22"
            + "\n"
            + tlsa("mx-alias", f"2 1 1 {digest(private)}"),
            "wrong MX 10 mx-wrong\nmx-wrong A 127.0.0.21"
            + "\n"
            + tlsa("mx-wrong", f"3 1 1 {digest(stranger)}"),
            "new MX 10 mx-new\nmx-new A 127.0.0.21\n"
            + tlsa("mx-new", f"3 1 1 {digest(stranger)}", f"3 1 1 {digest(own)}"),
            "clear MX 10 mx-clear\nmx-clear A 127.0.0.23" + "\n" + tlsa("mx-clear", f"3 1 1 {digest(own)}"),
            "unusable MX 10 mx-un\nmx-un A 127.0.0.21" + "\n" + tlsa("mx-un", f"1 1 1 {digest(own)}"),
            "unclear MX 10 mx-unc\nmx-unc A 127.0.0.23" + "\n" + tlsa("mx-unc", f"1 1 1 {digest(own)}"),
            "none MX 10 mx-none\nmx-none A 127.0.0.23",
            "two MX 10 mx-wrong\ntwo MX 20 mx-ee",
            f"half MX 10 mx-half\nmx-half A 127.0.0.21\n_{port}._tcp.mx-half CNAME tlsa.bogus.test.",
            "cname MX 10 mx-cname\nmx-cname CNAME mx-ee",
            "itself A 127.0.0.21\n" + tlsa("itself", f"3 1 1 {digest(own)}"),
            "outside MX 10 mx-own.plain.test.",
            "bad MX 10 mx.bogus.test.",
            "old MX 10 mx.expired.test.",
            # MTA-STS that fails and DANE that does not: the certificate is its own.
            "both MX 10 mx-both\nmx-both A 127.0.0.21\n" + tlsa("mx-both", f"3 1 1 {digest(own)}"),
            '_mta-sts.both TXT "v=STSv1; id=1"\nmta-sts.both A 127.0.0.1',
        ]
    )
    plain = "\n".join(
        [
            # A TLSA record that nobody vouches for is none, and this one would not match.
            "insecure MX 10 mx-own\nmx-own A 127.0.0.21\n" + tlsa("mx-own", f"3 1 1 {digest(stranger)}"),
            "clear MX 10 mx-clear\nmx-clear A 127.0.0.23",
            "mx A 127.0.0.24",
            *(
                f'{name} MX 10 {mx}\n_mta-sts.{name} TXT "v=STSv1; id=1"\nmta-sts.{name} A 127.0.0.1'
                for name, mx in {
                    "good": "mx", "self": "mx-own", "other": "mx", "testing": "mx-own", "gone": "mx-clear",
                    "liar": "mx-clear",
                }.items()
            ),
        ]
    )  # fmt: skip
    elsewhere = f"@ MX 10 mx\nmx A 127.0.0.21\n_{port}._tcp.mx TLSA 3 1 1 {digest(own)}"
    zones = {"signed.test": signed, "plain.test": plain, "bogus.test": elsewhere, "expired.test": elsewhere}
    with dnssec(
        home, zones, unsigned=["plain.test"], bogus=["bogus.test"], expired=["expired.test"]
    ) as found:
        yield World(found, port, home, own, ta, known, policies)


class Sender:
    """Resolver, policies and pool as deliver composes them."""

    def __init__(self, world: World, sts_port: int, validates: bool = True, asks: Asks | None = None) -> None:
        self.resolver = Resolver(world.dns.resolver, DnsLimits(timeout=5.0), validates=validates)
        self.sts = Sts(
            self.resolver, LOOPBACK.allow, time.time, port=sts_port, cafile=str(world.home / "root.pem")
        )
        self.policies = TlsPolicies(self.resolver, self.sts, asks or Asks(), world.port)
        found = settings(port=world.port, tls=contexts(str(world.home / "root.pem")))
        self.pool = Pool(
            lambda target, source: connect(target, found), Settings(), time.monotonic, random.random
        )

    async def send(self, domain: str) -> str:
        """The security of the connection that took the mail, or why there was none."""
        hosts = await self.resolver.mail_hosts(domain)
        if not hosts.hosts:
            return hosts.status
        requires = await self.policies.look_up(domain, hosts)
        assert self.policies.cached(domain, hosts) == requires
        found = [
            MxHost(host.name, host.preference, await self.resolver.addresses(host.name), 0, *asked)
            for host, *asked in zip(hosts.hosts, requires or (), strict=False)
        ] or [MxHost(h.name, h.preference, await self.resolver.addresses(h.name)) for h in hosts.hosts]
        session = await self.pool.acquire((hosts.names, requires), "group", found, "", Limits(50, 1))
        if isinstance(session, ConnectFailed):
            assert session.temporary, "TLS that is missing never ends a mail"
            return f"{session.why}: {session.text}"
        assert session is not None
        attempt = await post(session, Letter(rcpt=f"to@{domain}"))
        assert attempt.state == "accepted"
        self.pool.release(session)
        return session.facts.security


@contextlib.asynccontextmanager
async def servers(world: World, **changes: object):
    """(sender, mail hosts by address, policy host)."""
    async with contextlib.AsyncExitStack() as stack:
        hosts: dict[str, SmtpServer] = {}
        for ip, certificate in (("21", world.own), ("22", world.ta), ("23", None), ("24", world.known)):
            tls = certificate.server(world.home) if certificate else None
            hosts[ip] = await stack.enter_async_context(
                smtp_server(tls=tls, host=f"127.0.0.{ip}", port=world.port)
            )
        files = await stack.enter_async_context(policy_host(world.policies, world.home))
        files.files = {
            "good.plain.test": policy_text("*.plain.test"),
            "self.plain.test": policy_text("mx-own.plain.test"),
            "other.plain.test": policy_text("mx-other.plain.test"),
            "testing.plain.test": policy_text("mx-own.plain.test", mode="testing"),
            "liar.plain.test": policy_text("mx.plain.test"),  # no certificate for this name
            "both.signed.test": policy_text("mx-both.signed.test"),
        }
        sender = Sender(world, files.port, **changes)  # type: ignore[arg-type]
        try:
            yield sender, hosts, files
        finally:
            await sender.pool.close(1)
            await sender.sts.close()


DANE = {
    "ee.signed.test": "dane",
    "ta.signed.test": "dane",
    "new.signed.test": "dane",
    "two.signed.test": "dane",
    "cname.signed.test": "dane",
    "itself.signed.test": "dane",
    # The recipient's domain is one of the names that its certificate may be for (RFC 7672 section 3.2.2).
    "name.signed.test": "dane",
    "alias.signed.test": "dane: 4.7.5 not sent: the host's TLSA records ask for TLS with their certificate and"
    " it failed: the chain does not lead to the authority of the TLSA record",
    "wrong.signed.test": "dane: 4.7.5 not sent: the host's TLSA records ask for TLS with their certificate and"
    " it failed: no TLSA record matches",
    "clear.signed.test": "dane: 4.7.5 not sent: the host's TLSA records ask for TLS with their certificate and"
    " it failed: the server does not offer STARTTLS",
    "unusable.signed.test": "encrypted",
    "unclear.signed.test": "dane: 4.7.5 not sent",
    "none.signed.test": "clear",
    "outside.signed.test": "encrypted",
    "insecure.plain.test": "encrypted",
    # Signatures that fail hide the addresses too; "half" has an address that is good.
    "bad.signed.test": "no_hosts: no address",
    "old.signed.test": "no_hosts: no address",
    "half.signed.test": "dane: 4.7.5 not sent: nobody can vouch for the host's TLSA records",
    "bogus.test": "unknown",
    "expired.test": "unknown",
    "both.signed.test": "dane",
}


async def test_dane_is_obeyed_where_the_resolver_vouches_for_it(world: World) -> None:
    async with servers(world) as (sender, hosts, _):
        found = dict(zip(DANE, await asyncio.gather(*map(sender.send, DANE)), strict=True))
        wrong = {name: (found[name], want) for name, want in DANE.items() if not found[name].startswith(want)}
        assert wrong == {}
        assert {
            name for name, want in found.items() if want in ("dane", "encrypted", "clear", "verified")
        } == {mail.rcpts[0].partition("@")[2] for host in hosts.values() for mail in host.mails}


async def test_without_a_validating_resolver_there_is_no_dane(world: World) -> None:
    """The same answers, AD bit and all: only the operator can know whether to believe it."""
    async with servers(world, validates=False) as (sender, _, _):
        assert await sender.send("wrong.signed.test") == "encrypted"
        assert await sender.send("clear.signed.test") == "clear"


async def test_mta_sts_is_obeyed(world: World) -> None:
    async with servers(world) as (sender, hosts, files):
        assert await sender.send("good.plain.test") == "sts"
        found = await sender.send("self.plain.test")
        assert found.startswith("sts: 4.7.5 not sent: the domain's MTA-STS policy asks for TLS")
        assert "certificate verify failed" in found.lower()
        found = await sender.send("other.plain.test")
        assert found == "sts: 4.7.5 not sent: the domain's MTA-STS policy does not name this host"
        assert await sender.send("testing.plain.test") == "encrypted"
        # A policy that cannot be had for certain is none yet (RFC 8461 section 5.1).
        assert await sender.send("gone.plain.test") == "clear"
        assert await sender.send("liar.plain.test") == "clear"
        assert await sender.send("insecure.plain.test") == "encrypted"
        assert sorted(files.asked) == [
            f"{name}.plain.test" for name in ("gone", "good", "other", "self", "testing")
        ]
        assert len(hosts["24"].mails) == 1


async def test_what_our_own_settings_ask_for(world: World) -> None:
    asks = Asks(
        default="opportunistic", domains={"clear.plain.test": "require", "insecure.plain.test": "verify"}
    )
    async with servers(world, asks=asks) as (sender, hosts, _):
        assert (await sender.send("clear.plain.test")).startswith(
            "tls_required: 4.7.5 not sent: TLS is required"
        )
        assert (await sender.send("insecure.plain.test")).startswith("tls_required: 4.7.5 not sent")
        assert await sender.send("none.signed.test") == "clear"
        assert len(hosts["23"].mails) == 1

"""From an address to a Session: TCP, banner, EHLO, STARTTLS by aiosmtplib, which then hands over.

Where mail goes is said by other people's DNS, so the address is checked against the allowed networks
first: an MX that points to 127.0.0.1 or into a private network gets nothing from us.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import cast

import aiosmtplib

from agents.deliver import dane
from agents.deliver.attempt import Facts, Timeouts
from agents.deliver.proxy import ProxyFailed, through
from agents.deliver.requirement import OPPORTUNISTIC, Requirement
from agents.deliver.smtp import Session
from agents.deliver.sources import Source
from agents.deliver.tls import Tls, contexts, facts
from agents.deliver.wire import clean

_BIND_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
_CHUNKING = frozenset({"CHUNKING"})
_NAT64 = ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Networks:
    """Where mail may go: every globally routable address (``public``) and these networks."""

    public: bool = True
    extra: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Networks:
        """From a setting: ``public``, networks in CIDR notation, or both, separated by commas.

        Raises ValueError for anything else."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        return cls("public" in words, tuple(ip_network(word) for word in words if word != "public"))

    def allow(self, address: str) -> bool:
        """Whether mail may be sent to the address. An IPv4 address inside an IPv6 one counts as itself."""
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(found, IPv6Address):
            inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
            found = inner or (ip_address(found.packed[-4:]) if found in _NAT64 else found)
        if any(found in network for network in self.extra):
            return True
        return self.public and found.is_global and not (found.is_multicast or found.is_reserved)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to connect. Times in seconds, each for one phase.

    ``hostname``: said in EHLO; must be the name that the source's PTR record gives. ``ehlo``: for the
    banner and for each EHLO. ``clock``: Unix seconds, for the dates of certificates.
    """

    hostname: str
    port: int = 25
    connect: float = 30.0
    ehlo: float = 120.0
    starttls: float = 120.0
    networks: Networks = field(default_factory=Networks)
    timeouts: Timeouts = field(default_factory=Timeouts)
    tls: Tls = field(default_factory=contexts)
    clock: Callable[[], float] = time.time
    unchunked: set[str] = field(default_factory=set)
    """Addresses whose EHLO offers CHUNKING for a server that does not know BDAT: they get DATA."""

    def no_bdat(self, ip: str) -> None:
        """Remember one."""
        if len(self.unchunked) < 10_000:
            self.unchunked.add(ip)

    def today(self) -> datetime:
        """Now, as certificates count."""
        return datetime.fromtimestamp(self.clock(), UTC)


ANY = Source()
"""The system's choice."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one MX host. ``port`` 0: the setting's."""

    host: str
    ip: str
    port: int = 0
    tls: Requirement = OPPORTUNISTIC


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """No connection, and why.

    ``phase``: connect (with the banner), ehlo, starttls. ``code``: of the server's reply, else 0.
    ``why``: bounded: network (not an allowed destination), unreachable, timeout, closed, reply (it said
    ``code``), nonsense, tls, no_hosts, stopping, source (our address or proxy is of no use just now: no
    fault of the host), and where somebody requires TLS that there is not: sts,
    dane, tls_required. ``retry_at``: monotonic seconds before which the pool
    does not try this address again, 0 unknown; ``cached``: it was not tried now for that reason.
    """

    phase: str
    code: int
    text: str
    temporary: bool
    why: str
    host: str = ""
    ip: str = ""
    retry_at: float = 0.0
    cached: bool = False

    @property
    def insecure(self) -> bool:
        """Whether it failed for what the recipient's domain requires: nothing that concerns another one."""
        return self.why in ("sts", "dane", "tls_required")


_WHY = {"sts": "sts", "dane": "dane"}


def forbidden(requires: Requirement) -> str:
    """Why a host whose requirement is ``never`` gets no connection, in the words of a reply (RFC 3463)."""
    if requires.why == "sts":
        return "4.7.5 not sent: the domain's MTA-STS policy does not name this host"
    return "4.7.5 not sent: nobody can vouch for the host's TLSA records"


class _Failed(Exception):
    def __init__(self, phase: str, why: str, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.phase, self.why, self.text, self.code = phase, why, text, code


async def connect(
    target: Target, settings: Settings, source: Source = ANY, clock: Callable[[], float] = time.monotonic
) -> Session | ConnectFailed:
    """A Session after EHLO and, where offered, STARTTLS; or why not. Never raises for what a server does.

    ``source``: where it goes out. Where STARTTLS fails and TLS is
    not required, connects once more, stays in clear (RFC 7435) and does so for three days.
    """
    if not settings.networks.allow(target.ip):
        text = f"{target.host} [{target.ip}] is not in a network that mail may go to"
        return ConnectFailed("connect", 0, text, False, "network", target.host, target.ip)
    if target.tls.mode == "never":
        text, why = forbidden(target.tls), target.tls.why
        return ConnectFailed("starttls", 0, text, True, why, target.host, target.ip)
    try:
        mode = target.tls.mode
        if mode == "opportunistic" and settings.tls.is_broken(target.ip, clock()):
            mode = "off"
        try:
            return await _open(target, mode, settings, source, clock)
        except _Failed as failed:
            if failed.phase != "starttls" or mode != "opportunistic":
                raise
            session = await _open(target, "off", settings, source, clock)
            settings.tls.broke(target.ip, clock())
            return session
    except _Failed as failed:
        return _failure(failed, target)


def _failure(failed: _Failed, target: Target) -> ConnectFailed:
    temporary, why, text = not 500 <= failed.code < 600, failed.why, failed.text
    if failed.phase == "starttls":
        # Whatever went wrong there, also a 5xx: it is no answer about any recipient.
        temporary, why = True, _WHY.get(target.tls.why, "tls_required")
        said = f"{failed.code} {text}" if failed.code else text
        text = clean(f"4.7.5 not sent: {_ASKS[why]} and it failed: {said}")
        return ConnectFailed(failed.phase, 0, text, temporary, why, target.host, target.ip)
    return ConnectFailed(failed.phase, failed.code, text, temporary, why, target.host, target.ip)


_ASKS = {
    "sts": "the domain's MTA-STS policy asks for TLS with a verified certificate",
    "dane": "the host's TLSA records ask for TLS with their certificate",
    "tls_required": "TLS is required here",
}


async def _open(
    target: Target, mode: str, settings: Settings, source: Source, clock: Callable[[], float]
) -> Session:
    sock = await _dial(target, settings, source)
    client = aiosmtplib.SMTP(
        hostname=target.ip, local_hostname=source.helo or settings.hostname, start_tls=False, sock=sock
    )
    try:
        with _phase("connect"):
            banner = await client.connect(timeout=settings.ehlo)
        await _greet(client, settings)
        raw = cast(asyncio.Transport, client.transport)
        if mode != "off":
            await _encrypt(client, target, settings)
        session = _hand_over(client, raw, target, source, banner.message, settings, clock)
        session.on_no_bdat = lambda: settings.no_bdat(target.ip)
        worth = _security(session, target, mode, settings)
        session.facts = replace(session.facts, security=worth, asked=target.tls.why)
        return session
    except BaseException:
        if client.transport is not None:
            cast(asyncio.Transport, client.transport).abort()
        client.close()
        sock.close()
        raise


async def _dial(target: Target, settings: Settings, source: Source) -> socket.socket:
    """A connected socket, bound to the source's address, or through its proxy."""
    proxy, port = source.proxy, target.port or settings.port
    address = (proxy.host, proxy.port) if proxy else (target.ip, port)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY; without it each final dot waits 40 ms for an ACK.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        if source.address and proxy is None:
            _bind(sock, source)
        ours = proxy is not None
        async with asyncio.timeout(settings.connect):
            await asyncio.get_running_loop().sock_connect(sock, address)
            ours = False
            if proxy is not None:
                await through(source, proxy, sock, target.ip, port)
        return sock
    except TimeoutError:
        sock.close()
        why = "source" if ours else "timeout"
        raise _Failed("connect", why, f"no connection within {settings.connect:g} s") from None
    except OSError as error:
        sock.close()
        whose = "the proxy: " if ours else ""
        text = f"no connection: {whose}{error.strerror or error}"
        raise _Failed("connect", "source" if ours else "unreachable", text) from None
    except ProxyFailed as error:
        sock.close()
        raise _Failed(
            "connect", "source" if error.ours else "unreachable", f"no connection: {error}"
        ) from None
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, source: Source) -> None:
    try:
        if sys.platform == "linux":  # else each connection takes a port of its own, whatever its peer
            sock.setsockopt(socket.IPPROTO_IP, _BIND_NO_PORT, 1)
        sock.bind((source.address, 0))
    except OSError as error:
        raise _Failed(
            "connect", "source", f"cannot send from its address: {error.strerror or error}"
        ) from None


@contextlib.contextmanager
def _phase(name: str) -> Iterator[None]:
    """What aiosmtplib raises, as one exception of ours."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        text = clean(error.message.replace("\n", " "))
        if (200 if name != "connect" else 400) <= error.code < 600:
            raise _Failed(name, "reply", text, error.code) from None
        raise _Failed(name, "nonsense", f"unexpected reply: {error.code} {text}") from None
    except aiosmtplib.SMTPTimeoutError:
        raise _Failed(name, "timeout", f"no answer in phase {name} in time") from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        why = "tls" if name == "starttls" else "closed"
        raise _Failed(name, why, clean(f"{type(error).__name__}: {error}")) from None


async def _greet(client: aiosmtplib.SMTP, settings: Settings) -> None:
    """EHLO, and HELO where the server does not know it (RFC 5321 3.2)."""
    try:
        with _phase("ehlo"):
            await client.ehlo(timeout=settings.ehlo)
    except _Failed as failed:
        if not 500 <= failed.code < 600:
            raise
        try:
            with _phase("ehlo"):
                await client.helo(timeout=settings.ehlo)
        except _Failed as second:
            raise second if second.code else failed from None


async def _encrypt(client: aiosmtplib.SMTP, target: Target, settings: Settings) -> None:
    """STARTTLS and EHLO once more (RFC 3207)."""
    if not client.supports_extension("starttls"):
        if target.tls.mode == "opportunistic":
            return
        raise _Failed("starttls", "tls", "the server does not offer STARTTLS")
    context = settings.tls.context(target.tls.mode)
    with _phase("starttls"):
        name = target.host.rstrip(".") or None
        await client.starttls(tls_context=context, server_hostname=name, timeout=settings.starttls)
    found = cast(ssl.SSLObject, cast(asyncio.Transport, client.transport).get_extra_info("ssl_object"))
    if target.tls.mode == "dane":
        _authenticate(context.chain(found), target, settings)
    try:
        await _greet(client, settings)
    except _Failed as failed:  # TLS 1.3: the server's alert comes after our side of the handshake is done
        raise failed if failed.code else _Failed("starttls", "tls", failed.text) from None
    context.keep(found)


def _authenticate(chain: list[bytes], target: Target, settings: Settings) -> None:
    """Against the TLSA records, also on a session taken up again: the records may have changed."""
    why = dane.check(target.tls.tlsa, chain, target.tls.names, settings.today())
    if why:
        raise _Failed("starttls", "tls", why)


def _security(session: Session, target: Target, mode: str, settings: Settings) -> str:
    """What the connection is worth, in the words of ``schemas.outcome``."""
    if not session.facts.tls:
        return "broken" if mode == "off" else "clear"
    if mode == "dane":
        return "dane"
    if mode == "verify":
        return "sts" if target.tls.why == "sts" else "verified"
    found = cast(ssl.SSLObject, session.ssl_object)
    known = settings.tls.would_verify(settings.tls.context(mode).chain(found), target.host, settings.today())
    return "verified" if known else "encrypted"


def _hand_over(
    client: aiosmtplib.SMTP,
    raw: asyncio.Transport,
    target: Target,
    source: Source,
    banner: str,
    settings: Settings,
    clock: Callable[[], float],
) -> Session:
    """The transport goes from aiosmtplib's protocol to ours; nothing may be left in its buffer."""
    transport, protocol = cast(asyncio.Transport | None, client.transport), client.protocol
    if transport is None or protocol is None or transport.is_closing():
        raise _Failed("ehlo", "closed", "the server closed the connection after EHLO")
    if protocol._buffer:
        raise _Failed("ehlo", "nonsense", "the server sent more than the reply to EHLO")
    size = client.esmtp_extensions.get("size", "")
    local = transport.get_extra_info("sockname")
    version, cipher = facts(transport)
    known = Facts(
        host=target.host,
        ip=target.ip,
        source=local[0] if local else source.address,
        banner=clean(banner.replace("\n", " ")),
        extensions=frozenset(name.upper() for name in client.esmtp_extensions)
        - (_CHUNKING if target.ip in settings.unchunked else frozenset()),
        size=int(size) if size.isdigit() and len(size) < 16 else 0,
        tls=version,
        cipher=cipher,
    )
    client.transport = client.protocol = None
    return Session(transport, raw, known, settings.timeouts, clock)

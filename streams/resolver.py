"""Where a domain's mail goes: MX and address look-ups through dnspython, cached.

Nothing here raises and nothing takes longer than ``Limits.timeout``: what DNS cannot say in time is
``unknown``, and old knowledge is better than none. Answers are hostile until read: names that are no
host names are left out, lists are cut, TTLs are clamped.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.name
import dns.rdata
import dns.resolver
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.TLSA import TLSA
from dns.rdtypes.ANY.TXT import TXT

from agents.deliver.dane import Tlsa
from agents.deliver.requirement import HostTlsa
from schemas.hosts import NO_DOMAIN, NULL_MX, UNKNOWN, MailHosts, MxHost

log = logging.getLogger("mailsluice.resolver")
V = TypeVar("V")
_HOST = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}", re.IGNORECASE)
MAX_HOSTS = 20
"""MX hosts and addresses kept of one answer: more is no mail system but an attack on our connections."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the resolver. Times are in seconds."""

    timeout: float = 2.0
    """For all questions about one domain together, waiting for a free slot included."""
    shortest: float = 60.0
    """An answer is kept at least this long, whatever its TTL."""
    longest: float = 3600.0
    """And at most this long."""
    failed: float = 30.0
    """How long "nobody answered" is kept, so that a dead server is not asked for every mail."""
    stale: float = 86400.0
    """How long after its end an answer still serves while DNS fails (RFC 8767)."""
    entries: int = 200_000
    """Names kept, per kind; the least recently used go first."""
    questions: int = 256
    """Look-ups at once: each has a socket of its own."""


@dataclass(slots=True)
class _Kept(Generic[V]):
    value: V
    until: float
    stale_until: float


class _Cache(Generic[V]):
    """Answers by name: each for its time, bounded in number, asked for once however many want it."""

    def __init__(
        self,
        ask: Callable[[str], Awaitable[tuple[V, float]]],
        failed: V,
        limits: Limits,
        monotonic: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._failed = failed
        self._limits = limits
        self._monotonic = monotonic
        self._kept: OrderedDict[str, _Kept[V]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[V]] = {}

    def get(self, name: str) -> V | None:
        kept = self._kept.get(name)
        if kept is None or kept.until <= self._monotonic():
            return None
        self._kept.move_to_end(name)
        return kept.value

    async def look_up(self, name: str) -> V:
        found = self.get(name)
        if found is not None:
            return found
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._fill(name), name="dns")
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        # Shielded: one caller that gives up must not end the question for the others.
        return await asyncio.shield(task)

    async def _fill(self, name: str) -> V:
        limits = self._limits
        try:
            async with asyncio.timeout(limits.timeout):
                value, ttl = await self._ask(name)
        except (TimeoutError, OSError, dns.exception.DNSException):
            return self._keep_failure(name)
        except Exception:  # an answer that dnspython trips over is a failed answer, not our end
            log.exception("an answer from DNS could not be read; it counts as none")
            return self._keep_failure(name)
        now = self._monotonic()
        life = min(max(ttl, limits.shortest), limits.longest)
        self._store(name, _Kept(value, now + life, now + life + limits.stale))
        return value

    def _keep_failure(self, name: str) -> V:
        now = self._monotonic()
        old = self._kept.get(name)
        if old is None or old.stale_until <= now:
            # Its stale time is over at once: a failure never serves as an old answer.
            old = _Kept(self._failed, 0.0, 0.0)
        old.until = now + self._limits.failed
        self._store(name, old)
        return old.value

    def _store(self, name: str, kept: _Kept[V]) -> None:
        self._kept[name] = kept
        self._kept.move_to_end(name)
        while len(self._kept) > self._limits.entries:
            self._kept.popitem(last=False)


class Resolver:
    """DNS as agents ask it (``schemas.hosts.Hosts``). One per process; close over one event loop.

    ``server`` is HOST:PORT or [HOST]:PORT of a resolver; empty takes the system's. ``validates``: it checks
    DNSSEC, and nobody can change its answers on their way to us: its AD bit is believed (RFC 7672 section
    2.1). Raises ValueError for another form.
    """

    def __init__(
        self,
        server: str = "",
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        validates: bool = False,
    ) -> None:
        self._limits = limits or Limits()
        self._validates = validates
        self._dns = dns.asyncresolver.Resolver(configure=not server)
        if server:
            host, self._dns.port = host_port(server)
            self._dns.nameservers = [host]
        self._dns.lifetime = self._limits.timeout
        # A lost datagram is asked again twice within the lifetime.
        self._dns.timeout = self._limits.timeout / 3
        if validates:  # AD in the question asks for it in the answer (RFC 6840 section 5.7)
            self._dns.flags = dns.flags.RD | dns.flags.AD
        self._slots = asyncio.Semaphore(self._limits.questions)
        self._domains = _Cache(self._ask_domain, UNKNOWN, self._limits, monotonic)
        self._hosts: _Cache[tuple[str, ...]] = _Cache(self._ask_host, (), self._limits, monotonic)
        # What is old must not stand in for signatures that fail now.
        strict = replace(self._limits, stale=0.0)
        self._tlsa: _Cache[HostTlsa] = _Cache(self._ask_tlsa, HostTlsa("bogus"), strict, monotonic)
        self._texts: _Cache[Texts] = _Cache(self._ask_text, Texts((), False), strict, monotonic)

    def cached(self, domain: str) -> MailHosts | None:
        """What is known of ``domain`` at this moment, without asking."""
        return self._domains.get(domain)

    async def mail_hosts(self, domain: str) -> MailHosts:
        """The mail hosts of a normalised domain, best first; never raises."""
        return await self._domains.look_up(domain)

    async def addresses(self, host: str) -> tuple[str, ...]:
        """IPv4, then IPv6 addresses of ``host``; empty when it has none or nobody answers."""
        return await self._hosts.look_up(host.rstrip(".").lower())

    async def tlsa(self, host: str, port: int = 25) -> HostTlsa:
        """What DNS says about the certificates of an MX host (RFC 7672); never raises.

        ``none`` at once where the resolver is not said to validate.
        """
        if not self._validates:
            return HostTlsa()
        return await self._tlsa.look_up(f"{port} {host.rstrip('.').lower()}")

    async def texts(self, name: str) -> Texts:
        """The TXT records of a name; never raises."""
        return await self._texts.look_up(name)

    async def codes(self, name: str) -> tuple[str, ...] | None:
        """The A records of a block list's name: empty where it has none, None where nobody answers; never raises.
        Not kept: a list is asked seldom, to hear what it says now."""
        try:
            async with asyncio.timeout(self._limits.timeout):
                answer = await self._question(name, "A")
        except (TimeoutError, OSError, dns.exception.DNSException):
            return None
        except Exception:  # as for other questions: no answer ends us
            log.exception("an answer from DNS could not be read; it counts as none")
            return None
        return tuple(record.to_text() for record in answer.records[:MAX_HOSTS])

    async def _ask_tlsa(self, key: str) -> tuple[HostTlsa, float]:
        port, _, host = key.partition(" ")
        # A zone without signatures is not asked for TLSA: many a server trips over it (section 2.2.2).
        address = await self._question(host, "A")
        if not address.secure:
            return HostTlsa(), address.ttl
        for base in dict.fromkeys((address.name or host, host)):
            answer = await self._question(f"_{port}._tcp.{base}", "TLSA")
            found = [record for record in answer.records if isinstance(record, TLSA)]
            if found and answer.secure:
                records = tuple(Tlsa(r.usage, r.selector, r.mtype, r.cert) for r in found[:MAX_HOSTS])
                return HostTlsa("secure", records), min(answer.ttl, address.ttl)
        return HostTlsa(), min(answer.ttl, address.ttl)

    async def _ask_text(self, name: str) -> tuple[Texts, float]:
        answer = await self._question(name, "TXT")
        found = [record for record in answer.records if isinstance(record, TXT)]
        texts = tuple(b"".join(record.strings).decode("utf-8", "replace") for record in found[:MAX_HOSTS])
        return Texts(texts, True), answer.ttl

    async def _ask_domain(self, domain: str) -> tuple[MailHosts, float]:
        answer = await self._question(domain, "MX")
        if answer.exists is False:
            return NO_DOMAIN, answer.ttl
        if answer.records:
            return replace(_read_mx(answer.records), secure=answer.secure), answer.ttl
        addresses, ttl = await self._ask_host(domain)
        if not addresses:
            return NO_DOMAIN, min(answer.ttl, ttl)
        # RFC 5321 section 5.1: without MX, the domain itself is its mail host.
        return MailHosts((MxHost(0, domain),), "implicit", answer.secure), min(answer.ttl, ttl)

    async def _ask_host(self, host: str) -> tuple[tuple[str, ...], float]:
        found = await asyncio.gather(
            self._question(host, "A"), self._question(host, "AAAA"), return_exceptions=True
        )
        answers = [answer for answer in found if not isinstance(answer, BaseException)]
        addresses = tuple(record.to_text() for answer in answers for record in answer.records[:MAX_HOSTS])
        for answer in found:
            # One family that fails is no harm where the other has addresses.
            if isinstance(answer, BaseException) and not addresses:
                raise answer
        return addresses, min(answer.ttl for answer in answers)

    async def _question(self, name: str, kind: str) -> _Answer:
        try:
            absolute = dns.name.from_text(name + ".")
        except (dns.exception.DNSException, UnicodeError):
            return _Answer([], self._limits.longest, exists=False)
        async with self._slots:
            try:
                answer = await self._dns.resolve(absolute, kind, search=False, raise_on_no_answer=False)
            except dns.resolver.NXDOMAIN as missing:
                return _Answer([], _negative_ttl(missing, absolute), exists=False)
        return _Answer(
            list(answer.rrset or ()),
            answer.chaining_result.minimum_ttl,
            secure=self._validates and bool(answer.response.flags & dns.flags.AD),
            name=answer.canonical_name.to_text(omit_final_dot=True).lower(),
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """``ttl``: the smallest of the chain, or the SOA's negative one (RFC 2308). ``secure``: validated.
    ``name``: where CNAMEs led to, empty where nothing is."""

    records: list[dns.rdata.Rdata]
    ttl: float
    exists: bool = True
    secure: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Texts:
    """TXT records, each joined. ``answered``: somebody could say, also that there are none."""

    texts: tuple[str, ...]
    answered: bool


def host_port(text: str) -> tuple[str, int]:
    """HOST:PORT or [HOST]:PORT (port 53 where absent). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, "53"
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"expected HOST:PORT or [IPV6]:PORT, not {text[:60]!r}")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"expected HOST:PORT, not {text[:60]!r}")
    return host, int(port)


def _read_mx(records: list[dns.rdata.Rdata]) -> MailHosts:
    found = [record for record in records if isinstance(record, MX)]
    if all(record.exchange == dns.name.root for record in found):
        return NULL_MX
    pairs = sorted((r.preference, r.exchange.to_text(omit_final_dot=True).lower()) for r in found)
    hosts = tuple(MxHost(preference, name) for preference, name in pairs if _HOST.fullmatch(name))
    # RFC 5321 section 5.1: where MX records exist but none can be used, the address is no fallback.
    return MailHosts(hosts[:MAX_HOSTS], "ok") if hosts else NO_DOMAIN


def _negative_ttl(missing: dns.resolver.NXDOMAIN, name: dns.name.Name) -> float:
    response = missing.responses().get(name)
    return response.resolve_chaining().minimum_ttl if response is not None else 0.0

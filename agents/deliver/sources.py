"""The addresses that mail is sent from, and which of them a mail may use. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

ProxyKind = Literal["socks5", "proxy-v1", "proxy-v2"]
Family = Literal["ipv4", "ipv6"]
MOST_CHOICES = 10_000
"""Streams, tenants and providers whose sources are kept at hand."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """Something that connects for us. socks5: RFC 1928, with user and password by RFC 1929. proxy-v1 and
    proxy-v2: it reads a PROXY header (HAProxy's) with the source's address and the host to connect to."""

    kind: ProxyKind
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """From ``socks5://[USER:PASSWORD@]HOST:PORT`` or ``proxy-v1://`` or ``proxy-v2://HOST:PORT``, HOST an
        IP address. Raises ValueError with what is wrong, without the password."""
        parts = urlsplit(url)
        if parts.scheme not in ("socks5", "proxy-v1", "proxy-v2"):
            raise ValueError("a proxy is socks5://, proxy-v1:// or proxy-v2://HOST:PORT")
        if not parts.hostname or not parts.port or parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError("a proxy needs HOST:PORT and nothing behind it")
        try:
            ip_address(parts.hostname)
        except ValueError:
            raise ValueError("a proxy's HOST must be an IP address") from None
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if parts.scheme != "socks5" and (user or password):
            raise ValueError("only socks5:// takes a user and a password")
        if bool(user) != bool(password) or max(len(user.encode()), len(password.encode())) > 255:
            raise ValueError("a user and a password of at most 255 bytes belong together")
        kind: ProxyKind = parts.scheme  # type: ignore[assignment]
        return cls(kind, parts.hostname, parts.port, user, password)


@dataclass(frozen=True, slots=True)
class Source:
    """``address``: the local one to send from, or behind a proxy the one it sends from; empty where the
    system or the proxy chooses. ``helo``: its name in EHLO, empty for the common one."""

    name: str = ""
    address: str = ""
    helo: str = ""
    proxy: Proxy | None = None

    @property
    def family(self) -> Family | None:
        """Of its address; None where it can reach both."""
        return None if not self.address else "ipv6" if ":" in self.address else "ipv4"


class Pool(NamedTuple):
    """Sources for some of the mail: of these streams and these tenants, an empty tuple being all."""

    name: str
    sources: tuple[str, ...]
    streams: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()


class Sources:
    """All sources, by name, and their pools."""

    @classmethod
    def at(cls, addresses: Sequence[str]) -> Sources:
        """Sources that are named by their addresses; none is the system's choice."""
        return cls([Source(address, address) for address in addresses])

    def __init__(
        self,
        sources: Sequence[Source] = (),
        pools: Sequence[Pool] = (),
        prefer: Family = "ipv4",
        providers: Mapping[str, Family] | None = None,
    ) -> None:
        """Without sources there is one, named "", of the system's choice. Without pools all may send all."""
        self.by_name = {source.name: source for source in sources} or {"": Source()}
        self.names = tuple(self.by_name)
        self.pools = len(pools)
        self._pools, self._prefer, self._providers = tuple(pools), prefer, dict(providers or {})
        self._choices: dict[tuple[str, str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._named: dict[tuple[str, str, str], tuple[str, ...]] = {}

    def become(self, other: Sources) -> None:
        """What ``other`` says from now on. Those that are gone send nothing more; mail that is on its way from them
        still finds them."""
        self.by_name = {**self.by_name, **other.by_name}
        self.names, self.pools = other.names, other.pools
        self._pools, self._prefer, self._providers = other._pools, other._prefer, other._providers
        self._choices, self._named = {}, {}

    def of(self, name: str) -> Source:
        """The source of that name."""
        return self.by_name[name]

    def preferred(self, provider: str) -> Family:
        """The family that is tried first at a provider."""
        return self._providers.get(provider, self._prefer)

    def choices(self, stream: str, tenant: str, provider: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(sources to try first, sources for the rest) of a mail: those of the first pool that takes it.

        Whoever has an allowance left sends: what a source that warms up may not take goes to the others of
        its pool. The second are of the family that the provider is less liked by.
        """
        key = (stream, tenant, provider)
        found = self._choices.get(key)
        if found is None:
            if len(self._choices) > MOST_CHOICES:
                self._choices.clear()
            names = self._pool(stream, tenant)
            wanted = self.preferred(provider)
            first = tuple(n for n in names if self.by_name[n].family in (None, wanted))
            found = self._choices[key] = (first, tuple(n for n in names if n not in first))
        return found

    def named(self, stream: str, tenant: str, provider: str) -> tuple[str, ...]:
        """All sources of ``choices``, as limits name them: the same object each time, for what is looked at often."""
        key = (stream, tenant, provider)
        found = self._named.get(key)
        if found is None:
            if len(self._named) > MOST_CHOICES:
                self._named.clear()
            first, rest = self.choices(*key)
            found = self._named[key] = tuple([name or "default" for name in (*first, *rest)])
        return found

    def family(self, name: str) -> Family | None:
        """Of a source's address; None where it can reach both."""
        return self.by_name[name].family

    def _pool(self, stream: str, tenant: str) -> tuple[str, ...]:
        for pool in self._pools:
            if (not pool.streams or stream in pool.streams) and (not pool.tenants or tenant in pool.tenants):
                return pool.sources
        return self.names

    def addresses(self, found: Sequence[str], provider: str) -> tuple[str, ...]:
        """A host's addresses, those of the preferred family first."""
        six = self.preferred(provider) == "ipv6"
        return tuple(sorted(found, key=lambda address: (":" in address) != six))

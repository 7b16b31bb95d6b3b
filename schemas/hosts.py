"""The mail hosts of a domain, as enqueue, screen and deliver speak of them (RFC 5321 section 5.1)."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Literal, Protocol

HostStatus = Literal["ok", "implicit", "null_mx", "no_domain", "unknown"]
"""ok: MX records. implicit: no MX, but an address. null_mx: takes no mail (RFC 7505). no_domain: neither
exists, or no MX names a host. unknown: nobody could say (SERVFAIL, no answer in time)."""


@dataclass(frozen=True, slots=True)
class MxHost:
    """One mail host: lower case, without trailing dot."""

    preference: int
    name: str


@dataclass(frozen=True, slots=True)
class MailHosts:
    """The hosts of a domain, best preference first; empty unless ``status`` is ok or implicit."""

    hosts: tuple[MxHost, ...]
    status: HostStatus
    secure: bool = False
    """Whether a validating resolver that we trust vouched for the answer (its AD bit)."""
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)
    """The host names, in the same order; made once, asked for by every mail."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(host.name for host in self.hosts))

    @property
    def refused(self) -> str:
        """The ``host`` header: null_mx or no_domain where the domain takes no mail, else empty."""
        return self.status if self.status in ("null_mx", "no_domain") else ""


UNKNOWN = MailHosts((), "unknown")
NULL_MX = MailHosts((), "null_mx")
NO_DOMAIN = MailHosts((), "no_domain")


class Hosts(Protocol):
    """What agents ask of DNS. Neither method raises; domains are normalised (``schemas.address``)."""

    def cached(self, domain: str) -> MailHosts | None:
        """What is known at this moment, or None: then ask ``mail_hosts``."""

    def mail_hosts(self, domain: str) -> Awaitable[MailHosts]:
        """The hosts, from the cache or by asking; ``unknown`` after 2 s at the latest."""

    def addresses(self, host: str) -> Awaitable[tuple[str, ...]]:
        """IPv4, then IPv6 addresses of a host; empty when it has none or nobody answers."""

"""What domains require of TLS, asked for once and kept: MTA-STS, DANE and our own settings together."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

from agents.deliver.delivery import Asks
from agents.deliver.requirement import HostTlsa, Requirement, requirements
from agents.deliver.sts import StsPolicy
from schemas.hosts import MailHosts
from schemas.lanes import provider_of


class Tlsas(Protocol):
    """What is asked of DNS (``streams.resolver.Resolver``)."""

    def tlsa(self, host: str, port: int) -> Awaitable[HostTlsa]:
        """About the certificates of an MX host at this port."""


class StsPolicies(Protocol):
    """``streams.sts.Sts``."""

    def policy(self, domain: str) -> Awaitable[StsPolicy | None]:
        """The MTA-STS policy in force."""


KEPT = 900.0
"""Seconds for which an answer serves. DNS answers behind it are kept by the resolver for as long as they
say, up to an hour; this spares the hot path the questions."""
UNSURE = 30.0
"""The same where nobody could say."""
ENTRIES = 200_000


class TlsPolicies:
    """``agents.deliver.agent.Policies``. ``sts`` None: MTA-STS is not asked for. ``port``: of the MX hosts."""

    def __init__(
        self,
        names: Tlsas,
        sts: StsPolicies | None,
        asks: Asks,
        port: int = 25,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names, self._sts, self._asks, self._monotonic = names, sts, asks, monotonic
        self._port = port
        self._kept: OrderedDict[str, tuple[MailHosts, float, tuple[Requirement, ...]]] = OrderedDict()
        self._asking: dict[tuple[str, MailHosts], asyncio.Task[tuple[Requirement, ...]]] = {}

    def ask_for(self, asks: Asks) -> None:
        """Go by other settings of ours from now on."""
        self._asks = asks
        self._kept.clear()

    def cached(self, domain: str, hosts: MailHosts) -> tuple[Requirement, ...] | None:
        """What is known at this moment for these hosts, or None."""
        kept = self._kept.get(domain)
        if kept is None or kept[1] <= self._monotonic() or not (kept[0] is hosts or kept[0] == hosts):
            return None
        return kept[2]

    async def look_up(self, domain: str, hosts: MailHosts) -> tuple[Requirement, ...]:
        """The requirement of each host, from the cache or by asking; never raises."""
        found = self.cached(domain, hosts)
        if found is not None:
            return found
        task = self._asking.get((domain, hosts))
        if task is None:
            task = asyncio.create_task(self._ask(domain, hosts), name="tls-policy")
            self._asking[(domain, hosts)] = task
            task.add_done_callback(lambda _: self._asking.pop((domain, hosts), None))
        return await asyncio.shield(task)

    async def _ask(self, domain: str, hosts: MailHosts) -> tuple[Requirement, ...]:
        sts, tlsa = await asyncio.gather(self._policy(domain), self._records(hosts))
        setting = self._asks.mode(domain, provider_of(hosts.names))
        found = requirements(domain, hosts.names, setting, sts, tlsa)
        unsure = any(one.state == "bogus" for one in tlsa.values())
        until = self._monotonic() + (UNSURE if unsure else KEPT)
        self._kept[domain] = (hosts, until, found)
        self._kept.move_to_end(domain)
        if len(self._kept) > ENTRIES:
            self._kept.popitem(last=False)
        return found

    async def _policy(self, domain: str) -> StsPolicy | None:
        return await self._sts.policy(domain) if self._sts is not None else None

    async def _records(self, hosts: MailHosts) -> dict[str, HostTlsa]:
        """By host, of those whose MX record was validated (RFC 7672 section 2.2.1)."""
        if not hosts.secure:
            return {}
        found = await asyncio.gather(*(self._names.tlsa(name, self._port) for name in hosts.names))
        return dict(zip(hosts.names, found, strict=True))

"""The demo's outside world in one object: DNS, providers, readers, feedback, all on loopback.

In a process of its own: ``python -m streams.lab.world --help`` (see ``process``).
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from streams.lab.audience import csv_rows, recipients
from streams.lab.certificate import certificate, server_context
from streams.lab.dns import DnsServer, Zone
from streams.lab.feedback import Feedback, arf, complaints_to, dsn
from streams.lab.ledger import Act, Ledger, Take
from streams.lab.provider import Provider
from streams.lab.providers import ProviderSettings, WorldSettings, chance
from streams.lab.readers import Readers
from streams.lab.report import report
from streams.lab.smtp import SmtpServer

FLUSH = 0.5
"""Seconds after which refused attempts are in the ledger's file, too."""


class World:
    """Six providers (or whatever ``settings`` says) at work: ``async with World(settings) as world``.

    All providers listen on the same ``port``, each on its own loopback address (0: a free one is found;
    ``world.port`` says which). ``edge_http`` is the base URL of the pipeline's HTTP edge, ``edge_smtp``
    HOST:PORT of its SMTP edge: without them nobody reads, clicks, bounces later or complains. ``ledger``
    is the directory of the providers' records, None keeps them in memory.
    """

    def __init__(
        self,
        settings: WorldSettings,
        *,
        port: int = 2525,
        dns_port: int = 0,
        edge_http: str = "",
        edge_smtp: str = "",
        ledger: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self.port = settings, port
        self.zone = zone_of(settings)
        self.dns = DnsServer(self.zone, port=dns_port)
        self.ledgers = {p.name: Ledger(ledger, p.name) for p in settings.providers}
        self.providers = {
            p.name: Provider(p, settings.seed, self.ledgers[p.name], self.zone.txt, clock, self._taken)
            for p in settings.providers
        }
        self.authority = b""
        """PEM of the certificate that signs itself: what a client must trust to verify the MX hosts."""
        self.readers = Readers(settings.seed, "", self._known, self._acted)
        self.feedback: Feedback | None = None
        self._clock, self._directory = clock, ledger
        self._names: dict[str, ProviderSettings] = {d: p for p in settings.providers for d in p.domains}
        self._stack = AsyncExitStack()
        self.edge(edge_http, edge_smtp)

    def edge(self, http: str, smtp: str) -> None:
        """Where the pipeline's edge is, from now on. Raises ValueError for an address that is none."""
        if http and not http.startswith(("http://", "https://")):
            raise ValueError(f"edge_http {http!r} is no URL; write http://HOST:PORT")
        self.readers.edge = http
        if smtp:
            host, port = host_port(smtp)
            if self.feedback is None:
                self.feedback = Feedback(host, port)
            self.feedback.host, self.feedback.port = host, port

    async def __aenter__(self) -> World:
        hosts = [host for p in self.settings.providers for host in p.mx]
        pem = certificate(hosts, datetime.datetime.now(datetime.UTC))
        self.authority, tls = pem[0], server_context(pem)
        await self._stack.enter_async_context(self.dns)
        await self._stack.enter_async_context(self.readers)
        self.port = await self._listen(tls)
        flusher = asyncio.ensure_future(self._flush())
        self._stack.callback(flusher.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.feedback is not None:
            await self.feedback.close()
        await self._stack.aclose()
        for ledger in self.ledgers.values():
            ledger.close()
        if self._directory is not None:
            (self._directory / "report.json").write_bytes(orjson.dumps(self.report()))

    async def _listen(self, tls: ssl.SSLContext) -> int:
        """Every provider on one port number; where any free one will do, one that is free on all."""
        for left in reversed(range(20)):
            port = self.port
            async with AsyncExitStack() as stack:
                try:
                    for site in self.providers.values():
                        context = tls if site.settings.starttls else None
                        server = SmtpServer(site, site.settings.address, port, context, self._clock)
                        port = (await stack.enter_async_context(server)).address[1]
                except OSError:
                    if self.port or not left:
                        raise
                    continue
                self._stack.push_async_exit(stack.pop_all())
            return port
        raise AssertionError("unreachable")

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            for ledger in self.ledgers.values():
                ledger.flush()

    def publish(self, records: Mapping[str, Mapping[str, str | Iterable[str]]]) -> None:
        """Add DNS records, at any time: the sender's MX, SPF, DKIM keys. Raises ZoneError."""
        for name, kinds in records.items():
            for kind, texts in kinds.items():
                self.zone.remove(name, kind)
                self.zone.add(name, kind, *([texts] if isinstance(texts, str) else texts))

    def recipients(self, count: int, seed: int = 1) -> Iterator[str]:
        """The audience as lines of CSV, the header first (see ``audience``)."""
        return csv_rows(recipients(self.settings, count, seed))

    def _known(self, host: str) -> bool:
        return bool(self.zone.texts(host, "A") or self.zone.texts(host, "AAAA"))

    def _acted(self, what: str, take: Take) -> None:
        provider = self._names[take.rcpt.rpartition("@")[2]]
        self.ledgers[provider.name].write(Act(self._clock(), what, take.id, take.rcpt))

    def _taken(self, take: Take, content: bytes) -> None:
        """A message is in its mailbox: now its reader, or its late fate, takes over."""
        provider = self._names[take.rcpt.rpartition("@")[2]]
        fate = provider.fate(self.settings.seed, take.rcpt)
        if fate == "late_bounce":
            self._bounce(provider, take, content)
        elif self.readers.edge:
            self.readers.read(take, content, provider)
        if fate == "complaint" and take.marketing:
            self._complain(provider, take, content)

    def _bounce(self, provider: ProviderSettings, take: Take, content: bytes) -> None:
        if self.feedback is None or "@" not in take.sender:
            return
        diagnostic = self.providers[provider.name].wording("bounce", take.source, take.rcpt)
        self.feedback.later(
            self._spread(provider.late_bounce_after, take),
            "",
            take.sender,
            lambda: dsn(take, content, provider.mx[0], diagnostic, self._clock()),
            lambda: self._acted("dsn", take),
        )

    def _complain(self, provider: ProviderSettings, take: Take, content: bytes) -> None:
        if self.feedback is None or "@" not in take.sender:
            return
        redacted = provider.dialect == "outlook"  # Microsoft's loop leaves the recipient out of its report
        self.feedback.later(
            self._spread(provider.complaint_after, take),
            f"feedback@{provider.domains[0]}",
            complaints_to(take),
            lambda: arf(take, content, provider.mx[0], redacted, self._clock()),
            lambda: self._acted("complaint", take),
        )

    def _spread(self, mean: float, take: Take) -> float:
        return mean * (0.5 + chance(self.settings.seed, "later", take.rcpt, take.message))

    def report(self) -> dict[str, Any]:
        """What the providers saw (see ``report.report``), and what is still on its way to the edge.

        ``reports_*`` are DSNs and complaints, ``readers_*`` messages being read, requests that failed,
        and URLs that were not followed because they are nobody's in the lab.
        """
        tallies = {name: (site.ledger, site.settings.rate) for name, site in self.providers.items()}
        return {
            **report(tallies),
            "reports_waiting": self.feedback.waiting if self.feedback else 0,
            "reports_lost": self.feedback.lost if self.feedback else 0,
            "readers_waiting": self.readers.waiting,
            "readers_failed": self.readers.failed,
            "readers_foreign": self.readers.foreign,
        }


def zone_of(settings: WorldSettings) -> Zone:
    """The zone of a world: its providers' domains, MX hosts, addresses and PTR, and the records of others."""
    zone = Zone(settings.records, apexes=[d for p in settings.providers for d in p.domains])
    for provider in settings.providers:
        for domain in provider.domains:
            zone.add(domain, "MX", *(f"{10 * n} {host}." for n, host in enumerate(provider.mx, 1)))
            zone.add(domain, "TXT", "v=spf1 -all")
        zone.host(provider.mx[0], provider.address)
        for host in provider.mx[1:]:
            zone.add(host, "AAAA" if ":" in provider.address else "A", provider.address)
    return zone


def host_port(text: str) -> tuple[str, int]:
    """HOST:PORT (an IPv6 host in brackets) as its parts. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no HOST:PORT")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    from streams.lab.process import main

    main()

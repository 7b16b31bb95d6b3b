"""MTA-STS policies of domains: found in DNS, fetched over HTTPS, kept for as long as they say (RFC 8461).

A policy that is kept holds until its max_age is over, also when its record has gone or its file cannot be
fetched any more: who could take those away for a moment could otherwise take the encryption away. So they are
kept in a file too, over restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from agents.deliver.sts import StsPolicy, read_policy, read_record
from streams.resolver import Texts

if TYPE_CHECKING:
    from streams.sts_fetch import Fetcher

log = logging.getLogger("mailsluice.sts")
V = TypeVar("V")


class Names(Protocol):
    """What is asked of DNS (``streams.resolver.Resolver``)."""

    def texts(self, name: str) -> Awaitable[Texts]:
        """TXT records."""

    def addresses(self, host: str) -> Awaitable[tuple[str, ...]]:
        """IPv4 and IPv6 addresses."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of fetching. Times in seconds."""

    fetch: float = 8.0
    """For one policy file, from the look-up of its host to its last byte."""
    largest: int = 65_536
    """Bytes of a policy file (RFC 8461 section 3.2 asks for at least 64 KB to be taken)."""
    refresh: float = 86_400.0
    """Age at which a policy is fetched again though its id is the same, or half its max_age if that is less."""
    again: float = 300.0
    """After a failed fetch the next one of the same domain is this much later (section 3.3)."""
    fetches: int = 32
    """At once."""
    entries: int = 200_000
    """Domains kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy with the id under which it was found; ``fetched`` in Unix seconds."""

    id: str
    policy: StsPolicy
    fetched: float

    @property
    def until(self) -> float:
        """When it is over, in Unix seconds."""
        return self.fetched + self.policy.max_age


class Sts:
    """The policies of one process. Open and close it on the event loop that uses it."""

    def __init__(
        self,
        names: Names,
        allow: Callable[[str], bool],
        clock: Callable[[], float],
        *,
        path: Path | None = None,
        port: int = 443,
        cafile: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        """``allow``: whether a connection may be made to an IP address. ``clock``: Unix seconds. ``path``:
        the file of kept policies, may be shared by processes. ``cafile``: PEM of other authorities."""
        self._names, self._clock, self._port = names, clock, port
        self._limits = limits or Limits()
        self._context = ssl.create_default_context(cafile=cafile)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._allow = allow
        self._slots = asyncio.Semaphore(self._limits.fetches)
        self._kept: dict[str, Kept] = {}
        self._failed: dict[str, float] = {}
        """Domains whose file could not be fetched: not before then (Unix seconds)."""
        self._file = _File(path) if path else None
        self._fetcher: Fetcher | None = None

    async def close(self) -> None:
        """Close connections and the file."""
        if self._fetcher is not None:
            await self._fetcher.close()
        if self._file is not None:
            self._file.close()

    async def policy(self, domain: str) -> StsPolicy | None:
        """The policy in force for the domain, None where there is none; never raises."""
        now = self._clock()
        kept = self._known(domain, now)
        found = await self._names.texts(f"_mta-sts.{domain}")
        identity = read_record(found.texts)
        if identity and self._to_fetch(domain, kept, identity, now):
            kept = await self._fetch(domain, identity) or kept
        return kept.policy if kept is not None and kept.policy.mode != "none" else None

    def _known(self, domain: str, now: float) -> Kept | None:
        kept = self._kept.get(domain)
        if kept is None and self._file is not None:
            kept = self._file.get(domain)
            if kept is not None:
                self._remember(self._kept, domain, kept)
        if kept is None or not kept.fetched - 86_400 <= now < kept.until:
            self._kept.pop(domain, None)
            return None
        return kept

    def _to_fetch(self, domain: str, kept: Kept | None, identity: str, now: float) -> bool:
        if now < self._failed.get(domain, 0.0):
            return False
        if kept is None or kept.id != identity:
            return True
        return now - kept.fetched > min(self._limits.refresh, kept.policy.max_age / 2)

    async def _fetch(self, domain: str, identity: str) -> Kept | None:
        try:
            async with self._slots, asyncio.timeout(self._limits.fetch):
                policy = read_policy(await self._read(domain))
        except (ValueError, OSError) as error:
            # Whose domain it is stays out of the log: it is half of an address.
            why = str(error).replace(domain, "<domain>")[:200]
            log.info("an MTA-STS policy cannot be had: %s: %s", type(error).__name__, why)
            self._remember(self._failed, domain, self._clock() + self._limits.again)
            return None
        kept = Kept(identity, policy, self._clock())
        self._failed.pop(domain, None)
        self._remember(self._kept, domain, kept)
        if self._file is not None:
            self._file.put(domain, kept)
        return kept

    def _remember(self, where: dict[str, V], domain: str, value: V) -> None:
        where.pop(domain, None)
        where[domain] = value
        if len(where) > self._limits.entries:
            del where[next(iter(where))]

    async def _read(self, domain: str) -> str:
        """The policy file's text. Raises ValueError, OSError or TimeoutError."""
        if self._fetcher is None:
            from streams.sts_fetch import Fetcher

            self._fetcher = Fetcher(self._names.addresses, self._allow, self._context, self._port)
        return await self._fetcher.read(domain, self._limits.largest)


class _File:
    """Kept policies on disk. Losing it costs a fetch; a fault in it is logged, and nothing is kept there."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            self._prepare()
        except sqlite3.Error as error:
            log.error("the kept MTA-STS policies cannot be used (%s): they are fetched anew", error)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS policies (domain TEXT PRIMARY KEY, id TEXT NOT NULL,"
            " mode TEXT NOT NULL, mx TEXT NOT NULL, max_age INTEGER NOT NULL, fetched REAL NOT NULL)"
            " WITHOUT ROWID"
        )

    def get(self, domain: str) -> Kept | None:
        try:
            row = self._db.execute(
                "SELECT id, mode, mx, max_age, fetched FROM policies WHERE domain = ?", (domain,)
            ).fetchone()
        except sqlite3.Error:
            return None
        if row is None:
            return None
        return Kept(row[0], StsPolicy(row[1], tuple(row[2].split()), row[3]), row[4])

    def put(self, domain: str, kept: Kept) -> None:
        policy = kept.policy
        row = (domain, kept.id, policy.mode, " ".join(policy.mx), policy.max_age, kept.fetched)
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("INSERT OR REPLACE INTO policies VALUES (?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("DELETE FROM policies WHERE fetched + max_age < unixepoch()")
        self._db.close()

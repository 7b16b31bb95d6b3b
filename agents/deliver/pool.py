"""Connections kept and counted: which are idle for a site, how many there may be, which MX to try next.

A *site* is what a connection may be used for again (source, set of MX hosts, what they have to show); a *group* is what
connections are counted by (source x lane). Nothing waits for another destination here: each ``acquire``
stands alone, and a host that failed is left alone for a while, so that it costs one time-out, not many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from agents.deliver.connect import ConnectFailed, Target
from agents.deliver.requirement import OPPORTUNISTIC, Requirement
from agents.deliver.smtp import Session

Connect = Callable[[Target, str], Awaitable[Session | ConnectFailed]]
"""``connect.connect`` with its settings and sources bound: (target, name of the source)."""


class MxHost(NamedTuple):
    """One MX host of a destination and its addresses, in the order to try. ``port`` 0: the setting's."""

    host: str
    preference: int
    addresses: tuple[str, ...]
    port: int = 0
    tls: Requirement = OPPORTUNISTIC


class Limits(NamedTuple):
    """What the lane allows just now: connections of the group in all, and mails per connection."""

    connections: int
    per_connection: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Seconds. ``idle``: an unused connection is closed. ``cooldown``: a failed address is left alone.

    ``total``: after it ``acquire`` begins with no further address; ``tries``: addresses in one ``acquire``
    (RFC 5321 5.1 asks for at least two).
    """

    idle: float = 30.0
    cooldown: float = 30.0
    total: float = 300.0
    tries: int = 6


@dataclass(slots=True)
class _Place:
    site: Hashable
    group: Hashable
    per_connection: int
    idle_since: float | None = None
    leaving: bool = False
    """QUIT was said: it is counted until the server has let it go."""


class Pool:
    """Every connection of this process. All methods belong to the event loop's thread."""

    def __init__(
        self,
        connect: Connect,
        settings: Settings,
        clock: Callable[[], float],
        random: Callable[[], float],
        on_free: Callable[[Hashable], None] = lambda group: None,
        family: Callable[[str], str | None] = lambda name: (
            None if not name else "ipv6" if ":" in name else "ipv4"
        ),
    ) -> None:
        """``clock``: monotonic seconds; ``random``: [0, 1), mixes hosts of equal preference.

        ``on_free(group)`` is called when a connection of the group has ended: there is room for another.
        ``family(source)``: ipv4, ipv6 or None for both; by default the source is its address.
        """
        self._connect, self._settings, self._clock, self._random = connect, settings, clock, random
        self._on_free, self._family = on_free, family
        self._places: dict[Session, _Place] = {}
        self._idle: dict[Hashable, list[Session]] = {}
        self._counts: dict[Hashable, int] = {}
        self._dead: dict[Hashable, ConnectFailed] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopping = False
        self._empty = asyncio.Event()

    def count(self, group: Hashable) -> int:
        """Connections of the group, those being made included."""
        return self._counts.get(group, 0)

    def groups(self) -> list[Hashable]:
        """The groups that have connections, those being made included."""
        return list(self._counts)

    def take(self, site: Hashable, per_connection: int) -> Session | None:
        """An idle connection for the site, or None. The newest first, so that the rest can time out."""
        sessions = self._idle.get(site)
        while sessions:
            session = sessions.pop()
            place = self._places[session]
            place.idle_since = None
            if session.ready and session.carried < per_connection:
                place.per_connection = per_connection
                return session
            self._quit(session)
        return None

    async def acquire(
        self, site: Hashable, group: Hashable, hosts: Sequence[MxHost], source: str, limits: Limits
    ) -> Session | ConnectFailed | None:
        """A connection for the site: an idle one or a new one. None: the group is at its limit.

        On None wait for ``on_free`` or for a session of yours to become free; an idle connection of
        another site of the group is closed to make room. ConnectFailed when no host could be reached:
        a temporary failure if any was. May take minutes where hosts are tarpits; may be cancelled.
        """
        if self._stopping:
            return _stopping()
        session = self.take(site, limits.per_connection)
        if session:
            return session
        if self.count(group) >= limits.connections:
            self._make_room(group)
            return None
        self._counts[group] = self.count(group) + 1
        found: Session | ConnectFailed | None = None
        try:
            found = await self._first(hosts, source, group)
            if isinstance(found, Session):
                self._places[found] = _Place(site, group, limits.per_connection)
                found.on_close = self._closed
                if self._stopping:
                    found.quit()
                    return _stopping()
            return found
        finally:
            if not isinstance(found, Session):
                self._leave(group)

    def release(self, session: Session) -> None:
        """Its owner needs the session no more: kept for the site, or closed with QUIT if it is spent."""
        place = self._places.get(session)
        if place is None or place.idle_since is not None:
            return  # closed meanwhile, or released before
        if self._stopping or not session.ready or session.carried >= place.per_connection:
            self._quit(session)
            return
        place.idle_since = self._clock()
        self._idle.setdefault(place.site, []).append(session)
        if self._sweeper is None:
            self._sweep()

    def trim(self, group: Hashable, most: int) -> None:
        """Close idle connections of the group until no more than ``most`` are open, or none is idle."""
        if self.count(group) > most:
            leaving = sum(place.group == group and place.leaving for place in self._places.values())
            for _ in range(self.count(group) - leaving - most):
                self._make_room(group)

    def drain(self) -> int:
        """Start nothing more; end what is before its dot. Returns how many replies are still awaited."""
        self._stopping = True
        self._idle.clear()
        if self._sweeper:
            self._sweeper.cancel()
        return sum([session.give_up() for session in list(self._places)])

    async def close(self, grace: float) -> None:
        """``drain``, wait at most ``grace`` seconds for replies to final dots, then close what is left."""
        self.drain()
        try:
            async with asyncio.timeout(grace):
                while self._places:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            for session in list(self._places):
                session.close()

    # -- where to

    async def _first(self, hosts: Sequence[MxHost], source: str, group: Hashable) -> Session | ConnectFailed:
        """The first address that answers, by preference (RFC 5321 5.1); a refusing host is passed over."""
        worst = ConnectFailed("connect", 0, "no address to send to", True, "no_hosts")
        until = self._clock() + self._settings.total
        for target in self._targets(hosts, source):
            found = await self._try(target, source, group)
            if isinstance(found, Session):
                return found
            if worst.why == "no_hosts" or (not worst.insecure and (found.temporary or not worst.temporary)):
                worst = found
            if found.why == "source":
                return found  # no host can be reached from there
            if self._crowded(found, group):
                return found  # its other hosts would count the same connections
            if self._stopping or self._clock() >= until:
                break
        return worst

    def _targets(self, hosts: Sequence[MxHost], source: str) -> Iterator[Target]:
        """Addresses in the order to try, of the source's family, at most ``tries``."""
        left, family = self._settings.tries, self._family(source)
        for mx in sorted(hosts, key=lambda mx: (mx.preference, self._random())):
            for address in mx.addresses:
                if left and (family is None or (family == "ipv6") == (":" in address)):
                    left -= 1
                    yield Target(mx.host, address, mx.port, mx.tls)

    async def _try(self, target: Target, source: str, group: Hashable) -> Session | ConnectFailed:
        """Connect, unless this address has just failed for this source."""
        key = (source, target.ip, target.port)
        # What one domain requires and does not get says nothing about its neighbours on the same host.
        strict = (*key, target.tls)
        dead = self._dead.get(key) or self._dead.get(strict)
        if dead and self._clock() < dead.retry_at:
            return replace(dead, cached=True)
        found = await self._connect(target, source)
        if isinstance(found, ConnectFailed):
            if found.why not in ("network", "source") and not self._crowded(found, group):
                found = replace(found, retry_at=self._clock() + self._settings.cooldown)
                self._bury(strict if found.insecure else key, found)
        elif dead:
            self._dead.pop(key, None)
            self._dead.pop(strict, None)
        return found

    def _crowded(self, failed: ConnectFailed, group: Hashable) -> bool:
        """A 4xx greeting while others of us are connected means one too many, not that the host is down."""
        refused = failed.why == "reply" and failed.temporary and not failed.cached
        return refused and self.count(group) > 1

    def _bury(self, key: Hashable, failure: ConnectFailed) -> None:
        if len(self._dead) >= 10_000:
            now = self._clock()
            self._dead = {key: dead for key, dead in self._dead.items() if now < dead.retry_at}
        self._dead[key] = failure

    # -- keeping count

    def _quit(self, session: Session) -> None:
        self._places[session].leaving = True
        session.quit()

    def _make_room(self, group: Hashable) -> None:
        """Close the connection of the group that has been idle for longest."""
        idle = [
            (place.idle_since, n, session)
            for n, (session, place) in enumerate(self._places.items())
            if place.group == group and place.idle_since is not None and session.ready
        ]
        if idle:
            session = min(idle)[2]
            self._idle[self._places[session].site].remove(session)
            self._quit(session)

    def _closed(self, session: Session) -> None:
        place = self._places.pop(session)
        sessions = self._idle.get(place.site)
        if sessions and session in sessions:
            sessions.remove(session)
        self._leave(place.group)

    def _leave(self, group: Hashable) -> None:
        self._counts[group] -= 1
        if not self._counts[group]:
            del self._counts[group]
        if not self._places:
            self._empty.set()
        self._on_free(group)

    def _sweep(self) -> None:
        """Close what has been idle for too long; runs only while something is idle."""
        old = self._clock() - self._settings.idle
        for site, sessions in list(self._idle.items()):
            for session in [s for s in sessions if (self._places[s].idle_since or 0.0) <= old]:
                sessions.remove(session)
                self._quit(session)
            if not sessions:
                del self._idle[site]
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._settings.idle / 4, self._sweep) if self._idle else None


def _stopping() -> ConnectFailed:
    return ConnectFailed("connect", 0, "we are shutting down", True, "stopping")

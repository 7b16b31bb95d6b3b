"""The queues of deliver: one per provider, or per MX site where nobody's; paced, and never in each other's way.

A feed sends when three things are there: a mail, a connection and the allowance for one more message.
Everything is event-driven: ``pump`` runs when a mail comes, a session becomes free or a timer rings.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from agents.deliver.allowance import Allowance, Rate
from agents.deliver.connect import ConnectFailed
from agents.deliver.job import Mail
from agents.deliver.pool import Limits, MxHost, Pool
from agents.deliver.smtp import Session
from schemas.hosts import Hosts

AGAIN = 0.02
"""Seconds until a feed asks again when the guarantee forbids a start just now."""
CROWDED = 10.0
"""Seconds for which no connection is opened after one was refused while others are open."""


class Feed:
    """The mails for one provider or site. ``shared``: its lane is, so it must not hold the lane's window."""

    def __init__(self, key: str, shared: bool) -> None:
        self.key = key
        self.shared = shared
        self.urgent: deque[Mail] = deque()
        self.bulk: deque[Mail] = deque()
        self.opening = 0
        self.failed_until = 0.0
        """No host answered: nothing is tried before (monotonic seconds)."""
        self.crowded_until = 0.0
        """The provider refused one connection more: no further one is opened before."""
        self.next_turn = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.turn = 0

    def __len__(self) -> int:
        return len(self.urgent) + len(self.bulk)

    def head(self) -> Mail | None:
        """The next mail that still waits."""
        for queue in (self.urgent, self.bulk):
            while queue:
                if queue[0].stage == "waiting":
                    return queue[0]
                queue.popleft()
        return None

    def pop(self, mail: Mail) -> None:
        """Take the head off."""
        queue = self.urgent if mail.urgent else self.bulk
        if queue and queue[0] is mail:
            queue.popleft()

    def put_back(self, mail: Mail) -> None:
        """It comes first again."""
        (self.urgent if mail.urgent else self.bulk).appendleft(mail)


class Feeds:
    """All feeds of a process."""

    def __init__(
        self,
        pool: Pool,
        allowance: Allowance,
        hosts: Hosts,
        sources: Sequence[str],
        *,
        clear: Callable[[Mail], bool],
        before: Callable[[Mail], bool],
        ended: Callable[[Mail, Session], None],
        unreachable: Callable[[Mail, ConnectFailed], None],
        crowded: Callable[[Mail, ConnectFailed, str], None],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """``clear(mail)``: the guarantee allows a start now. ``before(mail)``: last look at suppressions
        and campaign; False when that ended the mail. ``ended``: ``session.start`` ended it at once and the
        callback has run. ``unreachable``: no connection could be made for this mail;
        ``crowded``: the provider takes no further one from that source, but has others of us."""
        self._pool, self._allowance, self._hosts = pool, allowance, hosts
        self._sources = tuple(sources) or ("",)
        self._clear, self._before, self._unreachable, self._ended = clear, before, unreachable, ended
        self._crowded = crowded
        self._clock, self._monotonic = clock, monotonic
        self.feeds: dict[str, Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = False

    def put(self, mail: Mail, key: str, shared: bool) -> Feed:
        """Queue a mail whose hosts are known."""
        feed = self.feeds.get(key)
        if feed is None:
            feed = self.feeds[key] = Feed(key, shared)
        mail.feed = feed
        (feed.urgent if mail.urgent else feed.bulk).append(mail)
        if feed.timer is None:
            self.pump(feed)
        return feed

    def rate(self, feed: Feed, source: str, dkim: str) -> Rate:
        """What the feed may send from a source now."""
        return self._allowance.rate(feed.key, source or "default", dkim, self._monotonic(), self._clock())

    def freed(self, session: Session, mail: Mail) -> None:
        """The mail's session has nothing to do: the next mail for the same hosts, or back to the pool."""
        self._pool.release(session)
        if mail.feed is not None:
            self.pump(mail.feed)

    def group_free(self, group: object) -> None:
        """A connection of the group has ended: its feed may open another one."""
        if isinstance(group, tuple):
            feed = self.feeds.get(group[1])
            if feed is not None and feed.timer is None and len(feed):
                self._later(feed, AGAIN)

    def pump(self, feed: Feed) -> None:
        """Start what may start now; set the timer for the rest."""
        if feed.timer is not None:
            feed.timer.cancel()
            feed.timer = None
        while not self.stopping:
            mail = feed.head()
            if mail is None:
                return
            if not self._clear(mail):
                return self._later(feed, AGAIN)
            now = self._monotonic()
            if feed.failed_until > now:
                return self._later(feed, min(1.0, feed.failed_until - now))
            if not self._before(mail):
                feed.pop(mail)
                continue
            wait = self._try(feed, mail, now)
            if wait is not None:
                # 0: no connection is free; the next one that is comes back here by itself.
                return self._later(feed, wait) if wait > 0 else None

    def _try(self, feed: Feed, mail: Mail, now: float) -> float | None:
        """Start ``mail`` from the first source that may; None: started. Else seconds to wait, 0 = for a session."""
        least = 0.0
        assert mail.hosts is not None
        site_hosts = mail.hosts.names
        feed.turn += 1
        for n in range(len(self._sources)):
            source = self._sources[(feed.turn + n) % len(self._sources)]
            name = source or "default"
            rate = self._allowance.rate(feed.key, name, mail.dkim, now, self._clock())
            if rate.rate <= 0 or rate.connections <= 0:
                wait = (
                    min(1.0, max(0.05, rate.suspended_until - self._clock()))
                    if rate.suspended_until
                    else 0.25
                )
                least = min(least or wait, wait)
                continue
            session = self._pool.take((source, site_hosts), rate.per_connection)
            if session is None:
                crowded = feed.crowded_until - now
                if crowded > 0 and self._pool.count((source, feed.key)):
                    least = min(least or crowded, crowded)
                else:
                    self._open(feed, mail, source, rate)
                continue
            wait = self._allowance.take(feed.key, name, mail.dkim, now, self._clock())
            if wait > 0:
                self._pool.release(session)
                least = min(least or wait, wait)
                continue
            feed.pop(mail)
            mail.source, mail.session, mail.stage, mail.began = name, session, "sending", now
            attempt = session.start(mail)
            if attempt is not None:
                mail.done(attempt)
                self._ended(mail, session)
            return None
        return least

    def _open(self, feed: Feed, mail: Mail, source: str, rate: Rate) -> None:
        group = (source, feed.key)
        if feed.opening >= min(len(feed), 4) or (
            self._pool.count(group) >= rate.connections and feed.opening
        ):
            return
        feed.opening += 1
        task = asyncio.get_running_loop().create_task(self._connect(feed, mail, source, group, rate))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, feed: Feed, mail: Mail, source: str, group: tuple[str, str], rate: Rate) -> None:
        try:
            assert mail.hosts is not None
            hosts = [
                MxHost(host.name, host.preference, await self._hosts.addresses(host.name))
                for host in mail.hosts.hosts
            ]
            found = await self._pool.acquire(
                (source, mail.hosts.names),
                group,
                hosts,
                source,
                Limits(rate.connections, rate.per_connection),
            )
        finally:
            feed.opening -= 1
        if isinstance(found, Session):
            self._pool.release(found)
            self.pump(feed)
        elif isinstance(found, ConnectFailed) and not self.stopping:
            self._no_connection(feed, mail, found, group)
            self.pump(feed)

    def _no_connection(self, feed: Feed, mail: Mail, failed: ConnectFailed, group: tuple[str, str]) -> None:
        now = self._monotonic()
        if failed.why == "reply" and failed.temporary and self._pool.count(group):
            feed.crowded_until = now + CROWDED
            self._crowded(mail, failed, group[0] or "default")
        elif failed.cached:
            # Not tried for this mail: it waits; in a shared lane it steps aside when its patience ends.
            feed.failed_until = max(failed.retry_at, now + 0.5)
        elif mail.stage == "waiting":
            mail.stage = "ended"
            feed.failed_until = max(failed.retry_at, now + 1.0)
            self._unreachable(mail, failed)

    def _later(self, feed: Feed, seconds: float) -> None:
        if feed.timer is None:
            feed.timer = asyncio.get_running_loop().call_later(seconds, self._ring, feed)

    def _ring(self, feed: Feed) -> None:
        feed.timer = None
        self.pump(feed)

    def stop(self) -> None:
        """Start nothing more."""
        self.stopping = True
        for feed in self.feeds.values():
            if feed.timer is not None:
                feed.timer.cancel()
        for task in self._tasks:
            task.cancel()

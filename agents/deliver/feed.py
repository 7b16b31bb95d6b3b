"""The queues of deliver: one per provider, or per MX site where nobody's; paced, and never in each other's way.

A feed sends when three things are there: a mail, a connection and the allowance for one more message.
Everything is event-driven: ``pump`` runs when a mail comes, a session becomes free or a timer rings.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable

from agents.deliver.allowance import Allowance, Rate
from agents.deliver.bucket import TokenBucket
from agents.deliver.choose import STEPS, Aside, Chooser, Steps
from agents.deliver.connect import ConnectFailed
from agents.deliver.domains import Domains
from agents.deliver.fair import FairQueue
from agents.deliver.holds import Holds
from agents.deliver.job import Mail
from agents.deliver.pool import Limits, MxHost, Pool
from agents.deliver.smtp import Session
from agents.deliver.sources import Sources
from schemas.cohort import CLICKED, OPENED
from schemas.hosts import Hosts

AGAIN = 0.02
"""Seconds until a feed asks again when the guarantee forbids a start just now."""
CROWDED = 10.0
"""Seconds for which there are no more connections than were open when one was refused."""
PAUSE = 0.3
"""Seconds between the end of a connection and another that fills the limit: the provider may see them cross."""
UNWELL = 30.0
"""Seconds for which a source is left alone that could not be used: its address is not ours, its proxy is down."""
RESERVE = 0.1
"""Share of a feed's rate that bulk mail leaves to transactional mail, where there is some."""
RESERVED = 60.0
"""Seconds after the last transactional mail of a feed for which that is so: else the share would be wasted."""
KEPT_FREE = 3600.0
"""Seconds after the last transactional mail of a feed for which bulk mail leaves it one of the connections, where
there are two or more: slow transactions of bulk mail may last for minutes. Where there is one, transactional mail
is the next on it: half the time of an only connection is too much to keep for what may come."""
IN_THE_WAY = 5.0
"""Seconds for which a transactional mail waits for a connection before the slowest bulk mail that is not past its dot
is broken off for it (nothing has left us: it is no attempt)."""
OFTEN_ENOUGH = 3
"""Times that one mail is broken off: a large one to a slow host would never end where transactional mail flows."""
HELD = 0.25
"""Seconds until a feed whose lane an operator has paused looks again."""
PARKED = 0.02
"""Seconds of waiting from which on a mail with a limit of its own lets the others of its feed pass."""
MOST_PARKED = 50
"""Campaigns that are parked in one go: the next ones are tried a moment later."""
AT_ONCE = 2
"""Connections that a feed opens at the same time: what is refused is then one, not many."""


class Feed:
    """The mails for one provider or site."""

    def __init__(
        self, key: str, weight: Callable[[Mail], float] = lambda mail: 1.0, chooser: Chooser | None = None
    ) -> None:
        self.key = key
        self.chooser = chooser or Chooser(lambda mail: (), lambda sources, dkim: None)
        self.domains = Domains()
        self.urgent = FairQueue(weight)
        self.bulk = FairQueue(weight)
        self.urgent_at = float("-inf")
        """When the last transactional mail came."""
        self.paces: dict[tuple[str, str], TokenBucket] = {}
        """By source and DKIM domain: how fast bulk mail may go beside transactional mail."""
        self.carrying: Counter[str] = Counter()
        """By source: connections that carry a bulk mail just now."""
        self.opening = 0
        self.failed_until = 0.0
        """Nobody at ``failed_site`` answered: it is not tried before (monotonic seconds)."""
        self.failed_site: Hashable = None
        self.crowded_until = 0.0
        """The provider refused one connection more: until then there are no more than ``beside`` it."""
        self.beside = 0
        self.ended_at = float("-inf")
        """When a connection ended last."""
        self.busy: Counter[tuple[str, str]] = Counter()
        """By source and DKIM domain: a mail could have gone, but all connections allowed were busy."""
        self.next_turn = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.turn = 0
        self.pumping = False
        self.idle = True
        """Nothing waits for its turn but what is parked: what comes may go at once, whatever the timer says."""

    def __len__(self) -> int:
        return len(self.urgent) + len(self.bulk)

    def head(self) -> Mail | None:
        """The next mail that still waits."""
        for queue in (self.urgent, self.bulk):
            mail = queue.head()
            if mail is not None:
                return mail
        return None

    def park(self, mail: Mail, until: float) -> None:
        """The head waits for a limit of its own; the others go on."""
        (self.urgent if mail.urgent else self.bulk).park(mail, until)

    def wake(self, now: float) -> float:
        """What was parked until now takes its turns; when the next one will (monotonic seconds)."""
        for queue in (self.urgent, self.bulk):
            queue.wake(now)
        return min(self.urgent.wakes(), self.bulk.wakes())

    def pop(self, mail: Mail) -> None:
        """Take the head off."""
        (self.urgent if mail.urgent else self.bulk).pop(mail)

    def reserve(self, mail: Mail, source: str, rate: float, now: float) -> float:
        """Seconds that a mail has to leave to the transactional mail of its feed."""
        if mail.urgent or now - self.urgent_at > RESERVED:
            return 0.0
        pace = self.paces.get((source, mail.dkim))
        if pace is None:
            pace = self.paces[(source, mail.dkim)] = TokenBucket(rate * (1 - RESERVE), now - 1.0 / rate)
        pace.set_rate(rate * (1 - RESERVE), now)
        return pace.wait(now)

    def full(self, mail: Mail, source: str, connections: int, now: float) -> bool:
        """Whether bulk mail has all the connections that it may, and the last one is kept free."""
        kept = not mail.urgent and connections > 1 and now - self.urgent_at <= KEPT_FREE
        return kept and self.carrying[source] >= connections - 1

    def taken(self, mail: Mail, source: str, now: float) -> None:
        """The mail goes: it counts against the share of bulk mail."""
        if not mail.urgent:
            self.carrying[source] += 1
        pace = self.paces.get((source, mail.dkim))
        if pace is not None and not mail.urgent and now - self.urgent_at <= RESERVED:
            pace.spend()

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
        sources: Sources,
        *,
        clear: Callable[[Mail], bool],
        before: Callable[[Mail], bool],
        intend: Callable[[Mail], bool],
        unreachable: Callable[[Mail, ConnectFailed], None],
        crowded: Callable[[Mail, ConnectFailed, str], None],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        holds: Holds | None = None,
        weight: Callable[[Mail], float] = lambda mail: 1.0,
        steps: Steps = STEPS,
    ) -> None:
        """``clear(mail)``: the guarantee allows a start now. ``before(mail)``: last look at suppressions
        and campaign; False when that ended the mail. ``intend(mail)``: True where something must be journaled
        before it starts; ``launch`` follows. ``unreachable``: no connection could be made for this mail;
        ``crowded``: the provider takes no further one from that source (which may have others open).
        ``weight(mail)``: the share of its campaign among its tenant's. ``steps``: of the ladder,
        onto which mail steps aside."""
        self._weight, self._steps = weight, steps
        self._pool, self._allowance, self._hosts = pool, allowance, hosts
        self._choice = sources
        self.unwell: dict[str, float] = {}
        """Sources that could not be used: until when others send (monotonic seconds)."""
        self._clear, self._before, self._unreachable, self._intend = clear, before, unreachable, intend
        self._crowded, self._holds = crowded, holds or Holds()
        self._clock, self._monotonic = clock, monotonic
        self.feeds: dict[str, Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = False

    @property
    def _sources(self) -> tuple[str, ...]:
        return self._choice.names

    def come(self, mail: Mail, key: str) -> Aside | None:
        """Whether a mail whose hosts are known steps aside at once, for what its lane may send is little."""
        if not self._allowance.scarce(key):  # nearly always
            return None
        return self._feed(key).chooser.come(mail, self._clock())

    def _feed(self, key: str) -> Feed:
        feed = self.feeds.get(key)
        if feed is None:
            chooser = Chooser(
                self._names,
                lambda sources, dkim: self._allowance.little(key, sources, dkim, self._clock()),
                self._steps,
            )
            feed = self.feeds[key] = Feed(key, self._weight, chooser)
        return feed

    def _names(self, mail: Mail) -> tuple[str, ...]:
        """The sources by which a mail may leave, as limits name them."""
        return mail.sources or self._choice.named(mail.stream, mail.tenant, mail.provider)

    def put(self, mail: Mail, key: str) -> Feed:
        """Queue a mail whose hosts are known."""
        feed = mail.feed = self._feed(key)
        if mail.urgent:
            feed.urgent_at = self._monotonic()
        (feed.urgent if mail.urgent else feed.bulk).append(mail)
        # What the timer waits for may hold bulk mail alone (its share of the rate, its limits).
        if feed.timer is None or feed.idle or (mail.urgent and len(feed.urgent) == 1):
            self.pump(feed)
        return feed

    def rate(self, feed: Feed, source: str, dkim: str) -> Rate:
        """What the feed may send from a source now."""
        return self._allowance.rate(feed.key, source or "default", dkim, self._monotonic(), self._clock())

    def pace(self, feed: Feed, dkim: str) -> float:
        """Messages a second that the feed may send now, from all sources."""
        usable = (source for source in self._sources if not self._holds.source(source or "default"))
        return sum(self.rate(feed, source, dkim).rate for source in usable)

    def freed(self, session: Session, mail: Mail, source: str) -> None:
        """The mail's session from ``source`` has nothing to do: the next mail for the same hosts, or back to the
        pool."""
        self._pool.release(session)
        if mail.feed is not None:
            if not mail.urgent:
                mail.feed.carrying[source] -= 1
            self._trim(mail.feed, "" if source == "default" else source)
            self.pump(mail.feed)

    def group_free(self, group: object) -> None:
        """A connection of the group has ended: its feed may open another one."""
        if isinstance(group, tuple):
            feed = self.feeds.get(group[1])
            if feed is not None:
                feed.ended_at = self._monotonic()
            if feed is not None and len(feed) and not feed.pumping:
                if feed.timer is not None:  # it may have waited for longer, for want of this
                    feed.timer.cancel()
                    feed.timer = None
                self._later(feed, AGAIN)

    def pump(self, feed: Feed) -> None:
        """Start what may start now; set the timer for the rest."""
        if feed.pumping:
            return  # a mail ended while it was being started: the loop below us goes on with the next one
        if feed.timer is not None:
            feed.timer.cancel()
            feed.timer = None
        feed.pumping = True
        try:
            self._pump(feed)
        finally:
            feed.pumping = False

    def _pump(self, feed: Feed) -> None:
        feed.idle = False
        wakes, parked = feed.wake(self._monotonic()), 0
        while not self.stopping:
            mail = feed.head()
            if mail is None:
                feed.idle = True
                if wakes < math.inf:
                    self._later(feed, max(0.001, wakes - self._monotonic()))
                return
            if not self._clear(mail):
                return self._later(feed, AGAIN)
            now = self._monotonic()
            if feed.failed_until > now and mail.site == feed.failed_site:
                return self._later(feed, min(1.0, feed.failed_until - now))
            if not self._before(mail):
                feed.pop(mail)
                continue
            if self._holds.lane(mail) == "paused":
                # It waits where it is: Kafka holds the lane's mail. What expires or is cancelled leaves.
                return self._later(feed, HELD)
            wait = self._try(feed, mail, now)
            if wait and wait >= PARKED and self._alone(feed, mail, now):
                feed.park(mail, now + wait)
                wakes, parked = min(wakes, now + wait), parked + 1
                if parked >= MOST_PARKED:
                    return self._later(feed, PARKED)
            elif wait is not None:
                # 0: no connection is free; the next one that is comes back here by itself.
                return self._later(feed, wait) if wait > 0 else None

    def _alone(self, feed: Feed, mail: Mail, now: float) -> bool:
        """Whether another mail of the feed may go although this one may not: what holds it back is its DKIM
        domain or its From address, or others have other sources."""
        if self._choice.pools > 1 or mail.sources or mail.barred:
            return True
        wall = self._clock()
        return any(
            self._allowance.signer_waits(feed.key, source or "default", mail.dkim, mail.author, now, wall)
            for source in self._sources
        )

    def _try(self, feed: Feed, mail: Mail, now: float) -> float | None:
        """Start ``mail`` from the first source that may; None: started. Else seconds to wait, 0 = for a session."""
        least = 0.0
        feed.turn += 1
        for source in self._in_turn(feed, mail):
            name = source or "default"
            if self.unwell and self.unwell.get(source, 0.0) > now:
                least = min(least or 1.0, self.unwell[source] - now, 1.0)
                continue
            if mail.cohort > CLICKED and self._allowance.gated(feed.key, name):
                least = min(least or HELD, HELD)
                continue
            if self._holds.source(name):
                least = min(least or HELD, HELD)
                continue
            rate = self._allowance.rate(feed.key, name, mail.dkim, now, self._clock())
            if rate.rate <= 0 or rate.connections <= 0:
                wait = (
                    min(1.0, max(0.05, rate.suspended_until - self._clock()))
                    if rate.suspended_until
                    else 0.25
                )
                least = min(least or wait, wait)
                continue
            # The allowance first: a connection that has nothing to send is not opened.
            wait = self._allowance.wait(feed.key, name, mail.dkim, now, self._clock(), mail.author)
            if wait > 0:
                least = min(least or wait, wait)
                continue
            wait = feed.reserve(mail, name, rate.rate, now)
            if wait > 0:
                least = min(least or wait, wait)
                continue
            if feed.full(mail, name, rate.connections, now):
                feed.busy[(name, mail.dkim)] += 1
                continue
            session = self._pool.take((source, mail.site), rate.per_connection)
            if session is None:
                if self._pool.count((source, feed.key)) >= rate.connections and not feed.opening:
                    feed.busy[(name, mail.dkim)] += 1
                wait = self._pause(feed, (source, feed.key), rate, now)
                if wait > 0:
                    least = min(least or wait, wait)
                else:
                    self._open(feed, mail, source, rate)
                continue
            self._allowance.take(feed.key, name, mail.dkim, now, self._clock(), mail.author)
            feed.taken(mail, name, now)
            feed.pop(mail)
            mail.source, mail.session, mail.stage, mail.began = name, session, "sending", now
            if not self._intend(mail):
                self.launch(mail)
            return None
        return least

    def _in_turn(self, feed: Feed, mail: Mail) -> Iterable[str]:
        """The sources that may send the mail: in warm-up, then of the liked family; each group in turn."""
        first, rest = self._choice.choices(mail.stream, mail.tenant, mail.provider)
        if len(first) + len(rest) == 1:
            return first or rest
        n = feed.turn % (len(first) or 1)
        m = feed.turn % (len(rest) or 1)
        found = [*first[n:], *first[:n], *rest[m:], *rest[:m]]
        # A day's warm-up budget that is not used carries nothing over; what is beyond it goes out on the others.
        found.sort(key=lambda name: not self._allowance.counts(feed.key, name or "default"))
        if mail.cohort > OPENED and self._allowance.scarce(feed.key):
            # The most engaged make a new address's name; the others use it only where its day would be left unused.
            wall = self._clock()
            known = [
                name
                for name in found
                if name == mail.prefers or not self._allowance.spares(feed.key, name or "default", wall)
            ]
            found = known or found
        if mail.barred:
            found = [name for name in found if name not in mail.barred] or found
        if mail.sources:  # an operator moved it to these: as far as this worker has them
            found = [name for name in found if (name or "default") in mail.sources] or found
        if mail.prefers in found:  # greylisting knows us by our address
            found.remove(mail.prefers)
            found.insert(0, mail.prefers)
        return found

    def urgent_waits(self, feed: Feed, now: float) -> str | None:
        """The source whose connections are all taken while a transactional mail has waited for one too long."""
        mail = feed.urgent.head()
        if mail is None or now - mail.queued < IN_THE_WAY or not self._clear(mail):
            return None
        for source in self._in_turn(feed, mail):
            name = source or "default"
            rate = self._allowance.rate(feed.key, name, mail.dkim, now, self._clock())
            full = 0 < rate.connections <= self._pool.count((source, feed.key)) and rate.rate > 0
            if full and not self._allowance.wait(feed.key, name, mail.dkim, now, self._clock(), mail.author):
                return name
        return None

    def launch(self, mail: Mail) -> None:
        """Start a mail that has its session."""
        assert mail.session is not None
        mail.stage = "sending"
        attempt = mail.session.start(mail)
        if attempt is not None:
            mail.done(attempt)

    def _pause(self, feed: Feed, group: tuple[str, str], rate: Rate, now: float) -> float:
        """Seconds until the group may have one connection more."""
        count = self._pool.count(group)
        if now < feed.crowded_until and count >= max(1, feed.beside):
            return feed.crowded_until - now
        return feed.ended_at + PAUSE - now if count + 1 >= rate.connections else 0.0

    def _open(self, feed: Feed, mail: Mail, source: str, rate: Rate) -> None:
        group = (source, feed.key)
        if feed.opening >= min(len(feed), AT_ONCE) or (
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
                MxHost(
                    host.name,
                    host.preference,
                    self._choice.addresses(await self._hosts.addresses(host.name), mail.provider),
                    0,
                    mail.requirement(n),
                )
                for n, host in enumerate(mail.hosts.hosts)
            ]
            found = await self._pool.acquire(
                (source, mail.site),
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
        if failed.why == "source":  # a fault of ours: no attempt of the mail, and others may send it
            self.unwell[group[0]] = now + UNWELL
            return
        if failed.why == "no_hosts" and self._bar(mail, group[0]):
            return
        refused = failed.why == "reply" and failed.temporary and not failed.cached
        if refused:
            self._crowded(mail, failed, group[0])
        if refused and self._pool.count(group):
            feed.crowded_until, feed.beside = now + CROWDED, self._pool.count(group)
        elif failed.insecure:  # a matter of this mail's domain: the mails behind it go on
            if mail.stage == "waiting":
                mail.stage, mail.source = "ended", ""
                self._unreachable(mail, failed)
        elif failed.cached:
            feed.failed_site = mail.site
            # Not tried for this mail: it waits; in a shared lane it steps aside when its patience ends.
            feed.failed_until = max(failed.retry_at, now + 0.5)
        elif mail.stage == "waiting":
            mail.stage = "ended"
            mail.source = "" if refused else group[0] or "default"  # what was refused is reported already
            feed.failed_site = mail.site
            feed.failed_until = max(failed.retry_at, now + 1.0)
            self._unreachable(mail, failed)

    def _bar(self, mail: Mail, source: str) -> bool:
        """The hosts have no address of the source's family: whether another source is left for the mail."""
        if self._choice.family(source) is None or source in mail.barred:
            return False
        mail.barred = (*mail.barred, source)
        first, rest = self._choice.choices(mail.stream, mail.tenant, mail.provider)
        return any(name not in mail.barred for name in (*first, *rest))

    def _later(self, feed: Feed, seconds: float) -> None:
        if feed.timer is None:
            feed.timer = asyncio.get_running_loop().call_later(seconds, self._ring, feed)

    def _ring(self, feed: Feed) -> None:
        feed.timer = None
        self.pump(feed)

    def trim(self) -> None:
        """Close idle connections above what the limits allow by now. Call it once a second.

        Of the groups that have connections: of 5,000 sites at 4 sources most have none."""
        for group in self._pool.groups():
            if isinstance(group, tuple) and group[1] in self.feeds:
                self._trim(self.feeds[group[1]], group[0])

    def _trim(self, feed: Feed, source: str) -> None:
        group = (source, feed.key)
        if self._pool.count(group):
            self._pool.trim(group, self.rate(feed, source, "").connections)

    def forget_gone(self) -> None:
        """Take out of the queues what does not wait any more: else it stays in memory until its turn."""
        for feed in self.feeds.values():
            feed.urgent.sort()
            feed.bulk.sort()

    def forget(self, busy: Iterable[Feed | None]) -> None:
        """Drop the feeds of sites that have nothing left to do; ``busy``: those that some mail has."""
        now, keep = self._monotonic(), set(busy)
        for key, feed in list(self.feeds.items()):
            until = max(feed.failed_until, feed.crowded_until, feed.next_turn, feed.ended_at + PAUSE)
            if feed in keep or len(feed) or feed.opening or feed.timer or until >= now:
                continue
            if not any(self._pool.count((source, key)) for source in self._sources):
                del self.feeds[key]

    def stop(self) -> None:
        """Start nothing more."""
        self.stopping = True
        for feed in self.feeds.values():
            if feed.timer is not None:
                feed.timer.cancel()
        for task in self._tasks:
            task.cancel()

"""What this worker may send now: the worker's side of limits and leases (``mail-lane-policy``).

Fed with the records of the policy topic in offset order and with the numbers of the reports sent. Pure:
the clocks are arguments. ``mono`` is this machine's monotonic clock, ``wall`` Unix seconds.

A live lease comes on top of the floor; without one there is only the floor: the policy's minimum x owned
partitions / P, over all workers together the minimum. Suspended: nothing. A cut of the policy scales the
lease that was lent under it at once; only a new lease raises. A counted limit (warm-up) has no floor:
without a lease there is nothing, and a lease says up to which message it goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple
from zlib import crc32

from agents.deliver.bucket import MOST_WAIT, TokenBucket
from schemas.lane_policy import ALL, Decision, LaneOrder, LanePolicy, Leader, Lease, Spent
from schemas.lane_report import Used

Kind = Literal["source", "dkim", "from"]
Key = tuple[Kind, str, str]
"""kind (source, dkim, or from: the address in From, over all providers alone), name, provider."""
MOST_ROADS = 50_000
"""Combinations of provider, source and DKIM domain whose limits are kept at hand."""
DAY = 86_400.0
AHEAD = 50
"""shape writes this part of a day ahead of what it grants."""
SCHEDULE = 0.75
"""Part of a day by whose end a day's messages should have gone: one that is not used up carries nothing over."""
MOST_FROMS = 20_000
"""From addresses that are told apart: those beyond share one of their DKIM domain."""
LOOKED_AT = 200
"""Limits looked at a second for what is to be forgotten: a second of a hundred thousand of them costs no more."""
IDLE = 3600.0
"""Seconds without a message, or anybody who asked, after which a limit that shape says nothing of is forgotten: by
then nothing that was started under it counts any more."""
REMEMBERED = 4096
"""Reports whose sending time is kept: an answer to an older one is worth nothing any more."""


class Rate(NamedTuple):
    """What may be sent: messages/s, open connections, messages per connection, and why."""

    rate: float
    connections: int
    per_connection: int
    suspended_until: float = 0.0
    reason: str = ""


UNKNOWN = Rate(0.05, 1, 20, 0.0, "no policy yet")
"""The floor of all workers together before shape has said anything about a source."""


class Little(NamedTuple):
    """What a worker may expect to send today of a limit in warm-up or behind a gate: ``left`` messages, at
    ``rate`` messages/s; the next day begins at ``next_day`` (Unix seconds). ``engaged_only``: to those alone who
    clicked lately."""

    left: int
    rate: float
    next_day: float
    engaged_only: bool


class _Line:
    """One limit as this worker knows it. ``total``: messages started under it, ``told`` of those in reports,
    ``counted_at`` when there were ``seen`` of them for the first time that somebody looked (monotonic seconds)."""

    __slots__ = (
        *("bucket", "connections", "counted_at", "ends", "key", "lease", "most", "pace", "policy", "room"),
        *("scale", "seen", "told", "total", "version"),
    )

    def __init__(self, key: Key) -> None:
        self.key = key
        self.bucket: TokenBucket | None = None
        self.pace: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self.version = -1
        self.total = self.told = 0
        self.seen, self.counted_at = -1, 0.0
        self.policy: LanePolicy | None = None
        self.lease: Lease | None = None
        self.ends = 0.0
        self.room = 0.0
        self.scale = 1.0
        self.most = 0
        self.connections = 0

    def idle(self, mono: float) -> bool:
        """Whether shape says nothing of it, and nobody has used or asked it for long. Ask it now and then."""
        if self.seen != self.total:
            self.seen, self.counted_at = self.total, mono
        asked = self.counted_at if self.bucket is None else max(self.counted_at, self.bucket.asked)
        return self.policy is None and mono >= max(asked, self.ends) + IDLE

    def counted(self) -> bool:
        """Whether each message counts against what a lease allows."""
        return self.policy is not None and self.policy.spent is not None

    def left(self) -> int:
        """Messages that the lease still allows; asked only where it is counted."""
        return self.lease.most - self.total if self.lease is not None and self.lease.most >= 0 else 0

    def tell(self) -> int:
        """Messages started under it that no report has told yet; they count as told now."""
        fresh, self.told = self.total - self.told, self.total
        return fresh

    def over(self, mono: float) -> int:
        """The number up to which leases are over."""
        number = self.lease.number if self.lease else 0
        return number if mono >= self.ends else max(0, number - 1)


class Allowance:
    """All limits of one worker incarnation ``worker``; P is ``partitions``. Call ``own`` on assignment."""

    def __init__(self, worker: str, partitions: int, unknown: Rate = UNKNOWN) -> None:
        self.worker = worker
        self.epoch = -1
        self._seed = crc32(worker.encode())
        self._part = 0.0
        self._partitions = partitions
        self._unknown = unknown
        self._lines: dict[Key, _Line] = {}
        self._sent: dict[int, float] = {}
        self._roads: dict[tuple[str, str, str], tuple[_Line, ...]] = {}
        self._days: set[Key] = set()
        """Limits of which each day's messages are counted."""
        self._scarce: set[str] = set()
        self._gated: set[Key] = set()
        """Those behind a gate: only who clicked lately should get mail."""
        self._bound: set[str] = set()
        """DKIM domains whose From addresses are bound over all providers."""
        self._froms = 0
        self._cache: dict[tuple[str, str, str], tuple[float, float, Rate]] = {}
        self._version = 0

    def own(self, partitions: int) -> None:
        """This worker owns so many partitions now."""
        self._part = min(1.0, max(0, partitions) / self._partitions)
        self._changed()

    def sent(self, number: int, mono: float) -> None:
        """Report ``number`` is about to be sent: call *before* the send, its lease counts from here."""
        self._sent[number] = mono
        while len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]

    def feed(self, offset: int, fact: LanePolicy | Lease | Leader | Decision | LaneOrder) -> None:
        """Take in one record of the policy topic. What a displaced leader wrote is ignored."""
        if isinstance(fact, Leader):
            self.epoch = max(self.epoch, offset)
            return
        if isinstance(fact, Decision | LaneOrder) or fact.epoch < self.epoch:
            return
        self.epoch = fact.epoch
        key: Key = (fact.kind, fact.name, fact.provider)
        if isinstance(fact, LanePolicy):
            if not all(map(math.isfinite, (fact.rate, fact.minimum, fact.suspended_until))):
                return
            line = self._line(key)
            line.policy = fact
            # Cut by cut, as the book does: what a later raise gives is lent anew, not given back.
            if _room(fact) < line.room:
                line.scale *= _room(fact) / line.room
            if fact.connections < line.most:
                line.connections = min(
                    line.connections, max(1, line.connections * fact.connections // line.most)
                )
            line.room, line.most = _room(fact), fact.connections
            daily = fact.spent is not None and fact.spent.per_day > 0
            if daily != (key in self._days):
                (self._days.add if daily else self._days.discard)(key)
                self._scarce = {provider for _, _, provider in self._days}
            (self._gated.add if daily and fact.engaged_only else self._gated.discard)(key)
            if fact.kind == "dkim" and fact.provider == ALL:
                (self._bound.add if fact.by_from else self._bound.discard)(fact.name)
        elif fact.worker == self.worker and fact.number in self._sent and math.isfinite(fact.rate):
            line = self._line(key)
            line.lease = fact
            line.ends = self._sent[fact.number] + fact.duration
            line.scale = 1.0
            line.connections = fact.connections
        else:
            return
        self._changed()

    def drop(self, key: bytes) -> None:
        """A record of the policy topic was deleted: shape says nothing of that limit any more."""
        what, _, rest = key.decode(errors="replace").partition("|")
        kind, _, rest = rest.partition("|")
        name, _, provider = rest.rpartition("|")  # an address may have a | in it, no provider has
        line = self._lines.get((kind, name, provider)) if what == "policy" else None  # type: ignore[arg-type]
        if line is None:
            return
        line.policy, line.room, line.scale, line.most = None, 0.0, 1.0, 0
        self._days.discard(line.key)
        self._scarce = {provider for _, _, provider in self._days}
        self._gated.discard(line.key)
        if line.key[0] == "dkim" and line.key[2] == ALL:
            self._bound.discard(line.key[1])
        self._changed()

    def forget(self, mono: float) -> None:
        """Look at LOOKED_AT limits, each in its turn, and drop those that are idle and of which shape says nothing:
        a list of companies has sites for ever new. Call it once a second."""
        gone = False
        for key in list(islice(self._lines, LOOKED_AT)):
            line = self._lines.pop(key)
            if line.idle(mono):
                self._froms -= key[0] == "from"
                gone = True
            else:
                self._lines[key] = line  # behind the others
        if gone:
            self._roads.clear()

    def rate(self, provider: str, source: str, dkim: str, mono: float, wall: float) -> Rate:
        """The stricter of the source's and the DKIM domain's limit at ``provider``, now."""
        wanted = (provider, source, dkim)
        found = self._cache.get(wanted)
        if found is not None and mono < found[0] and wall < found[1]:
            return found[2]
        first, *others = self._road(wanted)
        until_mono, until_wall, best = self._limit(first, mono, wall)
        if best is None:
            least = self._unknown.connections if self._part else 0
            best = self._unknown._replace(rate=self._unknown.rate * self._part, connections=least)
        for line in others:
            mono_too, wall_too, second = self._limit(line, mono, wall)
            until_mono, until_wall = min(until_mono, mono_too), min(until_wall, wall_too)
            best = best if second is None else _stricter(best, second)
        self._cache[wanted] = (until_mono, until_wall, best)
        return best

    def take(
        self, provider: str, source: str, dkim: str, mono: float, wall: float, author: str = ""
    ) -> float:
        """0.0: one message may go, and is counted at the source's and at the DKIM domain's limit, and at that
        of its From address ``author`` where there is one.

        Else the seconds to wait before asking again (at most MOST_WAIT), and nothing is counted. Unlike
        ``rate`` with a bucket of one's own, this holds the sum over all domains of a source.
        """
        wait = self.wait(provider, source, dkim, mono, wall, author)
        if wait > 0.0:
            return wait
        for line in self._road((provider, source, dkim)):
            self._count(line)
        if dkim in self._bound:
            self._count(self._from(dkim, author))
        return 0.0

    def wait(
        self, provider: str, source: str, dkim: str, mono: float, wall: float, author: str = ""
    ) -> float:
        """What ``take`` would answer, and nothing is counted."""
        wait = self._look(self._road((provider, source, dkim)), mono, wall)
        if wait > 0.0 or dkim not in self._bound:
            return wait
        return self._look((self._from(dkim, author),), mono, wall)

    def signer_waits(
        self, provider: str, source: str, dkim: str, author: str, mono: float, wall: float
    ) -> bool:
        """Whether a mail waits for its DKIM domain or From address where its source would let another go."""
        road = self._road((provider, source, dkim))
        if self._look(road[:2], mono, wall) > 0.0:
            return False
        mine = (*road[2:], self._from(dkim, author)) if dkim in self._bound else road[2:]
        return self._look(mine, mono, wall) > 0.0

    def by_from(self, dkim: str, author: str) -> str:
        """The name under which a mail is counted by its From address; "" where it is not."""
        return self._from(dkim, author).key[1] if dkim in self._bound else ""

    def _count(self, line: _Line) -> None:
        line.total += 1
        if line.bucket is not None:
            line.bucket.spend()
        if line.policy is not None and line.policy.spent is not None and line.left() <= 0:
            self._changed()

    def _from(self, dkim: str, author: str) -> _Line:
        """The limit of a From address; mail of which it is not known shares one of its DKIM domain."""
        found = self._lines.get(("from", author, ALL)) if author else None
        if found is not None:
            return found
        if not author or self._froms >= MOST_FROMS:
            return self._line(("from", dkim, ALL))
        return self._line(("from", author, ALL))

    def used(self, provider: str, source: str, dkim: str, mono: float) -> tuple[Used, ...]:
        """For a report: what was started of each of its limits that is counted, or not known yet.

        Call it once a report: what it tells as fresh is not told again.
        """
        found = []
        for line in self._road((provider, source, dkim)):
            fresh = line.tell()
            kind, _, of = line.key
            if line.policy is None:
                if of != ALL and fresh:
                    found.append(Used(kind=kind, total=line.total, fresh=fresh))
            elif line.policy.spent is not None:
                over = line.over(mono)
                found.append(Used(kind=kind, over_all=of == ALL, total=line.total, fresh=fresh, over=over))
        return tuple(found)

    def used_by_from(self, waiting: Mapping[str, int], mono: float) -> tuple[Used, ...]:
        """The same for From addresses (names of ``by_from``), of each of which so many mails wait."""
        found = []
        for name, count in waiting.items():
            line = self._line(("from", name, ALL))
            found.append(
                Used(
                    kind="from",
                    name=name,
                    over_all=True,
                    total=line.total,
                    fresh=line.tell(),
                    over=line.over(mono),
                    waiting=count,
                )
            )
        return tuple(found)

    def scarce(self, provider: str) -> bool:
        """Whether anything at all is counted by the day there."""
        return provider in self._scarce

    def gated(self, provider: str, source: str) -> bool:
        """Whether only those who clicked lately should get mail from a source."""
        return bool(self._gated) and ("source", source, provider) in self._gated

    def little(self, provider: str, sources: Sequence[str], dkim: str, wall: float) -> Little | None:
        """What is left today for mail of a DKIM domain from any of ``sources``; None where nothing counts it."""
        mine = self._today(("dkim", dkim, provider), wall)
        found = [self._today(("source", source, provider), wall) for source in sources]
        theirs = [little for little in found if little is not None]
        if not theirs or len(theirs) < len(found):  # what is too much for one goes out on another
            return mine
        all_of_them = Little(
            sum(little.left for little in theirs),
            sum(little.rate for little in theirs),
            min(little.next_day for little in theirs),
            all(little.engaged_only for little in theirs),
        )
        if mine is None:
            return all_of_them
        least = min(mine, all_of_them)
        return least._replace(engaged_only=mine.engaged_only or all_of_them.engaged_only)

    def _today(self, key: Key, wall: float) -> Little | None:
        spent = self._spent(key)
        if spent is None:
            return None
        line = self._lines[key]
        begun = spent.day_start > 0 and wall < spent.day_start + DAY
        free = max(0, spent.per_day - spent.used - spent.ahead) if begun else spent.per_day
        # What is written runs ahead of what is sent: by what this worker holds, and by a part of the day.
        left = math.ceil((free + spent.per_day / AHEAD) * self._part) + max(0, line.left())
        rate = spent.per_span / spent.span * self._part
        next_day = spent.day_start + DAY if begun else wall + DAY
        return Little(left, rate, next_day, key in self._gated)

    def _spent(self, key: Key) -> Spent | None:
        """What is written of a limit whose days are counted; None for another one."""
        policy = self._lines[key].policy if key in self._days else None
        return policy.spent if policy is not None else None

    def spares(self, provider: str, source: str, wall: float) -> bool:
        """Whether a source in warm-up may wait for the most engaged: its day is as far used up as gone by."""
        spent = self._spent(("source", source, provider))
        if spent is None:
            return False
        gone = (wall - spent.day_start) / (SCHEDULE * DAY) if spent.day_start else 0.0
        return spent.used + spent.ahead >= spent.per_day * min(1.0, gone)

    def counts(self, provider: str, source: str) -> bool:
        """Whether a source is in warm-up at a provider: it should have its budget used before others."""
        line = self._lines.get(("source", source, provider))
        return line is not None and line.counted()

    def _line(self, key: Key) -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key)
            self._froms += key[0] == "from"
        return line

    def _road(self, wanted: tuple[str, str, str]) -> tuple[_Line, ...]:
        """The limits that a message falls under; the source's at its provider comes first."""
        found = self._roads.get(wanted)
        if found is None:
            provider, source, dkim = wanted
            keys: list[Key] = [("source", source, provider), ("source", source, ALL)]
            if dkim:
                keys += [("dkim", dkim, provider), ("dkim", dkim, ALL)]
            if len(self._roads) >= MOST_ROADS:
                self._roads.clear()
            found = self._roads[wanted] = tuple(map(self._line, keys))
        return found

    def _look(self, road: tuple[_Line, ...], mono: float, wall: float) -> float:
        """0.0, or the seconds to wait: the first limit that holds the message back."""
        for line in road:
            pace = line.pace
            if line.version != self._version or mono >= pace[0] or wall >= pace[1]:
                pace = self._pace(line, mono, wall)
            rate = pace[2]
            if rate == math.inf:
                continue
            if rate <= 0.0:
                return MOST_WAIT  # whatever the bucket has saved up
            bucket = line.bucket
            if bucket is None:
                bucket = line.bucket = TokenBucket(rate, mono, seed=self._seed)
            bucket.set_rate(rate, mono)
            wait = bucket.wait(mono)
            if wait > 0.0:
                return wait
        return 0.0

    def _pace(self, line: _Line, mono: float, wall: float) -> tuple[float, float, float]:
        until_mono, until_wall, limit = self._limit(line, mono, wall)
        if limit is not None:
            rate = limit.rate
        elif line.key[0] == "source" and line.key[2] != ALL:
            rate = self._unknown.rate * self._part  # the unknown's floor at each provider
        else:  # nobody limits it; but a From address that is bound waits for its first lease
            rate = 0.0 if line.key[0] == "from" else math.inf
        line.pace, line.version = (until_mono, until_wall, rate), self._version
        if rate == math.inf:
            line.bucket = None
        return line.pace

    def _changed(self) -> None:
        self._cache.clear()
        self._version += 1

    def _limit(self, line: _Line, mono: float, wall: float) -> tuple[float, float, Rate | None]:
        """(valid until mono, valid until wall, the limit or None where shape has set none)."""
        policy = line.policy
        if policy is None:
            return math.inf, math.inf, None
        if wall < policy.suspended_until:
            stopped = Rate(0.0, 0, policy.per_connection, policy.suspended_until, policy.reason)
            return math.inf, policy.suspended_until, stopped
        if line.key[2] == ALL and policy.spent is None:
            return math.inf, math.inf, None
        floor = policy.minimum * self._part
        lease = line.lease
        counted = policy.spent is not None
        if counted and (lease is None or mono >= line.ends or line.left() <= 0):
            # A connection may stay open: it is the message that has to wait.
            least = 1 if self._part else 0
            return math.inf, math.inf, Rate(0.0, least, policy.per_connection, 0.0, policy.reason)
        if lease is None or mono >= line.ends:
            least = max(1, int(policy.connections * self._part)) if self._part else 0
            return math.inf, math.inf, Rate(floor, least, policy.per_connection, 0.0, "no lease: the floor")
        if lease.connections <= 0:
            return line.ends, math.inf, Rate(0.0, 0, policy.per_connection, 0.0, "another worker's turn")
        rate = max(0.0, min(lease.rate * line.scale, _room(policy))) + floor
        connections = min(line.connections, policy.connections)
        per_connection = min(lease.per_connection, policy.per_connection)
        return line.ends, math.inf, Rate(rate, connections, per_connection, 0.0, policy.reason)


def _room(policy: LanePolicy) -> float:
    """What leases share."""
    return max(0.0, policy.rate - policy.minimum)


def _stricter(one: Rate, other: Rate) -> Rate:
    lower = one if one.rate <= other.rate else other
    return Rate(
        lower.rate,
        min(one.connections, other.connections),
        min(one.per_connection, other.per_connection),
        max(one.suspended_until, other.suspended_until),
        lower.reason,
    )

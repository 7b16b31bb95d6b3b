"""Report in, records out; what the leader of shape keeps in mind and how the next one takes over."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from msgspec.structs import replace

from agents import Stage
from agents.shape.budget import Budget
from agents.shape.check import refused
from agents.shape.counted import Counted, over_all, wide_of, wide_policy
from agents.shape.day import end_day
from agents.shape.figures import Limits, Settings
from agents.shape.leases import Book
from agents.shape.limit import Key, Kind, Limit, restored
from agents.shape.orders import followed, replanned
from agents.shape.policy import changes
from agents.shape.policy import fresh as fresh_limit
from agents.shape.stream import Stop, Streams
from agents.shape.turns import LOOKED_AT, Turns
from agents.shape.warm import DAY, WIDE, WIDE_SPAN, planned
from schemas.lane_policy import ALL, Decision, LaneOrder, LanePolicy, Leader, Lease
from schemas.lane_report import LaneReport

STAGE = Stage(
    name="shape",
    question="How fast may each source and DKIM domain feed each provider?",
    consumes=("mail-lane-reports",),
    emits=("mail-lane-policy",),
    twins=False,
    state="mail-lane-policy",
)
Fact = LanePolicy | Lease | Decision
HISTORY = 50
"""Decisions kept per limit on the compacted topic."""
STALE = 15.0
"""A delivery report older than this (seconds) says nothing about now; complaints never grow stale."""


@dataclass(slots=True)
class Shaper:
    """The state of shape in one process. Feed it the policy topic first (``remember``), then ``lead``.

    ``drops`` collects keys to be deleted from the compacted topic: leases of workers that are gone,
    decisions beyond HISTORY, limits unused for ``law.forget``; ``tick`` hands them out.
    """

    settings: Settings
    state: dict[Key, Limit] = field(default_factory=dict)
    published: dict[Key, LanePolicy] = field(default_factory=dict)
    epoch: int = -1
    refusals: int = 0
    stale: int = 0
    streams: Streams = field(default_factory=Streams)
    counted: Counted = field(default_factory=Counted)
    orders: dict[Key, LaneOrder] = field(default_factory=dict)
    """The newest order on each limit, followed or not."""
    book: Book = field(default_factory=lambda: Book(0.0, float("inf")))
    _leases: dict[bytes, float] = field(default_factory=dict)
    """When each ends, those that end first coming first."""
    _young: dict[tuple[Kind, str], set[Key]] = field(default_factory=dict)
    """By name: its limits that know a plan; the names that have a limit over all providers are there too."""
    _limit_turns: Turns[Key] = field(default_factory=Turns)
    _name_turns: Turns[tuple[Kind, str]] = field(default_factory=Turns)
    _decisions: dict[Key, deque[bytes]] = field(default_factory=dict)
    _drops: list[bytes] = field(default_factory=list)

    def remember(self, fact: Fact | Leader | LaneOrder, offset: int, mono: float) -> bool:
        """Take in a record of the policy topic. False: written by a leader that had been displaced."""
        if isinstance(fact, Leader):
            self.epoch = max(self.epoch, offset)
            return True
        if isinstance(fact, LaneOrder):
            self.orders[(fact.kind, fact.name, fact.provider)] = fact
            return True
        if fact.epoch < self.epoch:
            return False
        if isinstance(fact, Lease):
            self._lent(fact.key, mono + fact.duration)
            return True
        key: Key = (fact.kind, fact.name, fact.provider)
        if isinstance(fact, Decision):
            self._note(key, fact.key)
            return True
        self.published[key] = fact
        if fact.provider != ALL:
            limits = self.settings.limits(fact.provider, fact.kind, fact.name)
            self._keep(restored(fact, limits, self.settings.plans))
        elif fact.kind != "from":
            self._young.setdefault(key[:2], set())
        return True

    def lead(self, epoch: int, mono: float, now: float = 0.0) -> None:
        """This process leads now; ``epoch`` is the offset of its Leader record. Leases begin one later."""
        self.epoch = epoch
        self.book = Book(self.settings.law.lease, mono)
        self.counted.restore(self.published, now)

    def renewed(self, policy: LanePolicy, now: float = 0.0) -> LanePolicy:
        """A policy of an earlier epoch under this leader's own."""
        key: Key = (policy.kind, policy.name, policy.provider)
        budget = self.counted.budgets.get(key)
        spent = policy.spent if budget is None else budget.record(now)
        self.published[key] = replace(policy, epoch=self.epoch, spent=spent)
        return self.published[key]

    def adopt(self, settings: Settings, now: float) -> list[Fact]:
        """Go by other ``settings`` from now on: what to publish about limits that they change."""
        self.settings = settings
        facts: list[Fact] = []
        for key, limit in list(self.state.items()):
            self._index(limit)
            was = self.published.get(key)
            if was is None:
                continue  # nobody was told a limit, so nobody need be told another
            limits = self._limits(key)
            kept = replanned(limit, settings)
            kept = replace(kept, rate=min(limits.maximum, max(kept.paced(limits).minimum, kept.rate)))
            fresh = kept.policy(limits, now)
            if _binds(fresh) != _binds(was) or (kept.warm != limit.warm):
                kept = replace(kept, reason="the policy file has changed")
                facts += self._tell(kept, "policy", now)
            else:
                self._keep(kept)
        return facts

    def _keep(self, limit: Limit) -> None:
        new = limit.key not in self.state
        self.state[limit.key] = limit
        if new or limit.warm is not None:
            self._index(limit)

    def _index(self, limit: Limit) -> None:
        """Note whose mail to all providers together may be bounded."""
        kind, name, _ = limit.key
        if limit.warm is not None or planned(self._limits(limit.key), self.settings.plans) is not None:
            self._young.setdefault((kind, name), set()).add(limit.key)

    def _lent(self, lease: bytes, ends: float) -> None:
        self._leases.pop(lease, None)
        self._leases[lease] = ends

    def _limits(self, key: Key) -> Limits:
        return self.settings.limits(key[2], key[0], key[1])

    def on_report(self, report: LaneReport, now: float, mono: float) -> list[Fact]:
        """What to publish, in this order, about one report. ``now`` Unix seconds, ``mono`` monotonic."""
        if refused(report):
            self.refusals += 1
            return []
        delivery = report.kind == "delivery"
        keys: tuple[Key, Key] = (
            ("source", report.source, report.provider),
            ("dkim", report.dkim, report.provider),
        )
        old = [key for key in keys if key in self.state]
        first: list[Fact] = []
        if delivery:
            # Whatever is told after midnight counts in the new day.
            for key in old:
                first += self._passed(self.state[key], now)
            first += self._authors(report, now)
            self._begin(report, old, now, mono)
            self.counted.hear(report, now, mono)
        if delivery and report.time < now - STALE:
            self.stale += 1
            return first
        decided, changed = changes(report, self.state, self.settings, now)
        for limit in changed.values():
            self._keep(limit)
        new = [key for key in keys if key in self.state and key not in self.counted.budgets]
        for key in keys:
            if key in self.state:
                self.counted.fit(key, self.state[key])
        if delivery:
            self._begin(report, [key for key in new if key not in old], now, mono)
            self.counted.hear(report, now, mono, new)
        facts = first + [self._publish(fact, now) for fact in decided]
        if not delivery:
            return facts
        if any(self.state[key].warm is not None for key in new):
            facts += self._over_all([(kind, name) for kind, name, _ in new], now)  # before the first lease
        for stop in self.streams.add(report, self.settings.providers.keys(), self.settings.sweep, now):
            facts += self._stop(stop, now)
        return facts + self._lend(report, keys, now, mono)

    def _stop(self, stop: Stop, now: float) -> list[Fact]:
        """A fault of ours: the stream sends nothing for a while, and somebody has to look."""
        until, reason = now + self.settings.sweep.stop, "stopped: " + stop.reason
        key: Key = (stop.kind, stop.name, stop.provider or ALL)
        if stop.provider:
            limit = self.state.get(key)
            if limit is None or now < limit.suspended_until:
                return []
            return self._tell(
                replace(limit, suspended_until=until, reason=reason), "stop", now, "", stop.sample
            )
        was = self.published.get(key)
        if was is not None and now < was.suspended_until:
            return []
        policy = replace(
            was or over_all(stop.kind, stop.name), suspended_until=until, reason=reason, time=now
        )
        return [
            self._publish(policy, now),
            self._publish(replace(_decided(policy, "stop", reason), sample=stop.sample[:300]), now),
        ]

    def _authors(self, report: LaneReport, now: float) -> list[Fact]:
        """From addresses that are counted from now on."""
        signer = self.published.get(("dkim", report.dkim, ALL))
        if signer is None or not signer.by_from:
            return []
        found: list[Fact] = []
        for used in report.used:
            if used.kind == "from" and self.counted.author(used.name):
                budget = self.counted.budgets[("from", used.name, ALL)]
                found.append(self._publish(wide_policy("from", used.name, budget, now), now))
        return found

    def _begin(self, report: LaneReport, keys: list[Key], now: float, mono: float) -> None:
        """A day of a limit that had none begins with its first mail; it ends at midnight (UTC), as providers' days do."""
        if report.waiting + report.attempts == 0:
            return
        for key in keys:
            limit = self.state[key]
            if not limit.day.since:
                since = now - now % DAY
                self._keep(replace(limit, day=limit.day._replace(since=since or now)))
                if key in self.counted.budgets:
                    self.counted.budgets[key].new_day(since or now, mono)

    def _lend(self, report: LaneReport, keys: tuple[Key, Key], now: float, mono: float) -> list[Fact]:
        """Leases in answer to a report; before them, what is counted is written down."""
        over_all: list[Key] = [(kind, name, ALL) for kind, name, _ in keys if name]
        over_all += [("from", used.name, ALL) for used in report.used if used.kind == "from"]
        binding = [self.published[key] for key in (*keys, *over_all) if key in self.published]
        binding = [policy for policy in binding if policy.provider != ALL or policy.spent is not None]
        leases: list[Fact] = []
        for lease in self.book.answer(report, binding, mono):
            ends = mono + lease.duration
            lease = self.counted.lend(replace(lease, epoch=self.epoch, time=now), report, ends, now)
            self._lent(lease.key, ends)
            leases.append(lease)
        written: list[Fact] = []
        for policy in binding:
            budget = self.counted.budgets.get((policy.kind, policy.name, policy.provider))
            if budget is not None and budget.due():
                written.append(self._publish(policy, now))
        return written + leases

    def tick(self, now: float, mono: float) -> tuple[list[Fact], list[bytes]]:
        """Once a second: (records that time itself calls for, keys to delete from the topic). Of very many limits
        some have their turn; what a report is about is looked at with the report."""
        facts: list[Fact] = []
        for key in self._limit_turns.next(self.state):
            limit = self.state.get(key)
            if limit is None:
                continue
            if now - limit.seen_at > self.settings.law.forget:
                self._forget(key)
            else:
                facts += self._passed(limit, now)
        facts += self._over_all(self._name_turns.next(self._young), now)
        for key in self.counted.settle(now, mono):
            del self.counted.budgets[key]
            if self.published.pop(key, None) is not None:
                self._drops.append(f"policy|{key[0]}|{key[1]}|{key[2]}".encode())
        self.streams.forget(self.settings.sweep, now)
        self.book.forget(mono)
        # A grace time: whoever reads the lease late must not take its deletion for news.
        over = [key for key, ends in islice(self._leases.items(), LOOKED_AT) if ends + 60 < mono]
        for lease_key in over:
            del self._leases[lease_key]
        drops, self._drops = self._drops + over, []
        return facts, drops

    def _forget(self, key: Key) -> None:
        del self.state[key]
        self._young.get(key[:2], set()).discard(key)
        self.counted.budgets.pop(key, None)
        policy = self.published.pop(key, None)
        if policy is not None:
            self._drops += [policy.key, *self._decisions.pop(key, ())]

    def _passed(self, limit: Limit, now: float) -> list[Fact]:
        """What time has ended of a limit: its cap, its day."""
        facts = self._uncap(limit, now) if limit.cap_until and now >= limit.cap_until else []
        return facts + self._day_over(self.state[limit.key], now)

    def _uncap(self, limit: Limit, now: float) -> list[Fact]:
        """The limit without the cap that has run out. Growth goes on from the rate before it."""
        reason = "the cap has run out: " + limit.reason
        limit = replace(limit, cap_until=0.0, cap_rate=0.0, raised_at=now)
        return self._tell(limit, "uncap", now, reason)

    def _day_over(self, limit: Limit, now: float) -> list[Fact]:
        if not limit.day.since or now < limit.day.since + DAY:
            return []
        budget = self.counted.budgets.get(limit.key)
        used, fullest = (budget.spent, budget.fullest) if budget else (0, 0)
        limit, what, reason = end_day(limit, self._limits(limit.key), self.settings, used, fullest, now)
        if what:
            return self._tell(replace(limit, reason=reason), what, now)
        self._keep(limit)
        if limit.key not in self.published:
            return []
        # Once a day, so that the next leader knows what was sent, and that the limit is in use.
        self.counted.fit(limit.key, limit)
        return [self._publish(limit.policy(self._limits(limit.key), now), now)]

    def _over_all(self, names: Sequence[tuple[Kind, str]], now: float) -> list[Fact]:
        """Limits over all providers that begin or end now, of some names."""
        keys = [key for name in names for key in self._young.get(name, ()) if key in self.state]
        wanted = wide_of({key: self.state[key] for key in keys}, self.settings)
        facts: list[Fact] = []
        for kind, name in wanted:
            key: Key = (kind, name, ALL)
            was = self.published.get(key)
            budget: Budget | None = None
            if kind == "source":
                if key in self.counted.budgets:
                    continue
                budget = self.counted.budgets[key] = Budget(0, WIDE, WIDE_SPAN)
            elif was is not None and was.by_from:  # a DKIM domain is counted by its From addresses
                continue
            else:
                self.counted.budgets.pop(key, None)
            policy = wide_policy(kind, name, budget, now)
            if was is not None:
                policy = replace(policy, suspended_until=was.suspended_until)
            facts.append(self._publish(policy, now))
        for kind, name in names:
            if (kind, name) in wanted:
                continue
            key = (kind, name, ALL)
            found = self.published.get(key)
            if found is not None and now >= found.suspended_until:
                self.counted.budgets.pop(key, None)
                grown = replace(found, spent=None, by_from=False, time=now, reason="grown")
                facts.append(self._publish(grown, now))
                del self.published[key]
                self._drops.append(found.key)
            elif found is None and not self._young.get((kind, name)):
                self._young.pop((kind, name), None)
        return facts

    def on_order(self, order: LaneOrder, now: float) -> list[Fact]:
        """Follow an operator's order, once: what to publish about it."""
        key: Key = (order.kind, order.name, order.provider)
        newest = self.orders.get(key)
        if newest is None or newest.time < order.time:
            self.orders[key] = order
        limits = self._limits(key)
        limit = self.state.get(key) or fresh_limit(key, limits, self.settings, now)
        if order.time <= limit.ordered:
            return []
        limit, reason = followed(limit, order, limits, self.settings)
        return self._tell(limit, "order", now, reason)

    def _tell(self, limit: Limit, what: str, now: float, reason: str = "", sample: str = "") -> list[Fact]:
        """Keep a changed limit; its policy and the decision behind it."""
        self._keep(limit)
        self.counted.fit(limit.key, limit)
        fresh = limit.policy(self._limits(limit.key), now)
        decision = replace(_decided(fresh, what, reason or limit.reason), sample=sample[:300])
        return [self._publish(fresh, now), self._publish(decision, now)]

    def _publish(self, fact: LanePolicy | Decision, now: float) -> LanePolicy | Decision:
        fact = replace(fact, epoch=self.epoch)
        key: Key = (fact.kind, fact.name, fact.provider)
        if isinstance(fact, LanePolicy):
            budget = self.counted.budgets.get(key)
            spent = budget.record(now) if budget else None
            limit = self.state.get(key)
            day = tuple(limit.day) if limit is not None and (spent or limit.volumes) else ()
            fact = replace(fact, spent=spent, day=day, seen=limit.seen_at if limit else 0.0)
            self.published[key] = fact
            if fact.provider == ALL and fact.kind != "from":
                self._young.setdefault(key[:2], set())
        else:
            self._note(key, fact.key)
        return fact

    def _note(self, key: Key, decision: bytes) -> None:
        history = self._decisions.setdefault(key, deque())
        history.append(decision)
        while len(history) > HISTORY:
            self._drops.append(history.popleft())


def _decided(policy: LanePolicy, what: str, reason: str) -> Decision:
    return Decision(
        kind=policy.kind,
        name=policy.name,
        provider=policy.provider,
        time=policy.time,
        what=what,
        reason=reason,
        rate=policy.rate,
    )


def _binds(policy: LanePolicy) -> tuple[float, ...]:
    """What of a policy a policy file decides."""
    return policy.rate, policy.minimum, policy.connections, policy.per_connection

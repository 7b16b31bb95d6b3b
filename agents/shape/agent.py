"""Report in, records out; what the leader of shape keeps in mind and how the next one takes over."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from dataclasses import replace as replace_limit

from msgspec.structs import replace

from agents import Stage
from agents.shape.check import refused
from agents.shape.figures import Limits, Settings
from agents.shape.leases import Book
from agents.shape.limit import Key, Limit, restored
from agents.shape.policy import State, decide
from schemas.lane_policy import Decision, LanePolicy, Leader, Lease
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
    state: State = field(default_factory=dict)
    published: dict[Key, LanePolicy] = field(default_factory=dict)
    epoch: int = -1
    refusals: int = 0
    stale: int = 0
    book: Book = field(default_factory=lambda: Book(0.0, float("inf")))
    _leases: dict[bytes, float] = field(default_factory=dict)
    _decisions: dict[Key, deque[bytes]] = field(default_factory=dict)
    _drops: list[bytes] = field(default_factory=list)

    def remember(self, fact: Fact | Leader, offset: int, mono: float) -> bool:
        """Take in a record of the policy topic. False: written by a leader that had been displaced."""
        if isinstance(fact, Leader):
            self.epoch = max(self.epoch, offset)
            return True
        if fact.epoch < self.epoch:
            return False
        if isinstance(fact, Lease):
            self._leases[fact.key] = mono + fact.duration
            return True
        key: Key = (fact.kind, fact.name, fact.provider)
        if isinstance(fact, Decision):
            self._note(key, fact.key)
            return True
        self.published[key] = fact
        self.state = {
            **self.state,
            key: restored(fact, self.settings.limits(fact.provider, fact.kind, fact.name)),
        }
        return True

    def lead(self, epoch: int, mono: float) -> None:
        """This process leads now; ``epoch`` is the offset of its Leader record. Leases begin one later."""
        self.epoch = epoch
        self.book = Book(self.settings.law.lease, mono)

    def renewed(self, policy: LanePolicy) -> LanePolicy:
        """A policy of an earlier epoch under this leader's own."""
        key: Key = (policy.kind, policy.name, policy.provider)
        self.published[key] = replace(policy, epoch=self.epoch)
        return self.published[key]

    def adopt(self, settings: Settings, now: float) -> list[Fact]:
        """Go by other ``settings`` from now on: what to publish about limits that they change."""
        self.settings = settings
        facts: list[Fact] = []
        for key, limit in list(self.state.items()):
            was = self.published.get(key)
            if was is None:
                continue  # nobody was told a limit, so nobody need be told another
            limits = self._limits(key)
            kept = replace_limit(limit, rate=min(limits.maximum, max(limits.minimum, limit.rate)))
            self.state = {**self.state, key: kept}
            fresh = kept.policy(limits, now)
            if replace(fresh, epoch=was.epoch, time=was.time) != was:
                reason = "the policy file has changed"
                facts.append(self._publish(replace(fresh, reason=reason)))
                facts.append(self._publish(_decided(fresh, "policy", reason)))
        return facts

    def _limits(self, key: Key) -> Limits:
        return self.settings.limits(key[2], key[0], key[1])

    def on_report(self, report: LaneReport, now: float, mono: float) -> list[Fact]:
        """What to publish, in this order, about one report. ``now`` Unix seconds, ``mono`` monotonic."""
        if refused(report):
            self.refusals += 1
            return []
        delivery = report.kind == "delivery"
        if delivery and report.time < now - STALE:
            self.stale += 1
            return []
        decided, self.state = decide(report, self.state, self.settings, now)
        facts: list[Fact] = [self._publish(fact) for fact in decided]
        if delivery:
            keys: tuple[Key, Key] = (
                ("source", report.source, report.provider),
                ("dkim", report.dkim, report.provider),
            )
            binding = [self.published[key] for key in keys if key in self.published]
            for lease in self.book.answer(report, binding, mono):
                lease = replace(lease, epoch=self.epoch, time=now)
                self._leases[lease.key] = mono + lease.duration
                facts.append(lease)
        return facts

    def tick(self, now: float, mono: float) -> tuple[list[Fact], list[bytes]]:
        """Once a second: (records that time itself calls for, keys to delete from the topic)."""
        facts: list[Fact] = []
        for key, limit in list(self.state.items()):
            if now - limit.seen_at > self.settings.law.forget:
                self._forget(key)
            elif limit.cap_until and now >= limit.cap_until:
                facts += self._uncap(limit, now)
        self.book.forget(mono)
        # A grace time: whoever reads the lease late must not take its deletion for news.
        over = [key for key, ends in self._leases.items() if ends + 60 < mono]
        for lease_key in over:
            del self._leases[lease_key]
        drops, self._drops = self._drops + over, []
        return facts, drops

    def _forget(self, key: Key) -> None:
        self.state = {other: kept for other, kept in self.state.items() if other != key}
        policy = self.published.pop(key, None)
        if policy is not None:
            self._drops += [policy.key, *self._decisions.pop(key, ())]

    def _uncap(self, limit: Limit, now: float) -> list[Fact]:
        """The limit without the cap that has run out. Growth goes on from the rate before it."""
        limit = replace_limit(limit, cap_until=0.0, cap_rate=0.0, raised_at=now)
        self.state = {**self.state, limit.key: limit}
        fresh = limit.policy(self._limits(limit.key), now)
        reason = "the cap has run out: " + limit.reason
        return [self._publish(fresh), self._publish(_decided(fresh, "uncap", reason))]

    def _publish(self, fact: LanePolicy | Decision) -> LanePolicy | Decision:
        fact = replace(fact, epoch=self.epoch)
        key: Key = (fact.kind, fact.name, fact.provider)
        if isinstance(fact, LanePolicy):
            self.published[key] = fact
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

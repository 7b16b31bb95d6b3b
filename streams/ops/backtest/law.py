"""The shaping law over reports of what happened, at their time: what it would have decided, and what that costs.

``Law`` is the Shaper of production. ``Fixed`` is what engines do that know only fixed reactions, each for the
same time (``mailsluice simulate`` has the table): what another engine is assumed to have done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from msgspec.structs import replace as with_fields

from agents.shape.agent import Fact, Shaper
from agents.shape.figures import Limits, Settings
from agents.shape.limit import Key
from schemas.lane_policy import ALL, Decision, LanePolicy
from schemas.lane_report import LaneReport
from streams.ops.simulate.senders import FixedReactions

DAY = 86400.0
TICK, PER_LIMIT = 60.0, 0.06
"""Seconds of the log between the law's looks at the clock, at least and for each limit that it knows: a look costs by
the limit, and a log may hold mail to ten thousands of small sites."""
MOST_DECISIONS = 5000
MOST_LANES = 20_000
Lane = tuple[str, str]
"""Provider and source (or DKIM domain, as ``dkim:example.org``)."""
DOWN = frozenset({"cut", "cap", "narrow", "freeze", "engaged"})
AWAY = frozenset({"suspend", "stop"})


@dataclass(slots=True)
class Figures:
    """Of a lane on a day. ``away``: seconds of suspensions that began; ``within``: mails sent while it would
    have been suspended, ``over``: sent above the rate that it would have had; ``lowest`` rate, messages/s."""

    attempts: int = 0
    throttled: int = 0
    suspensions: int = 0
    away: float = 0.0
    cuts: int = 0
    within: int = 0
    over: int = 0
    lowest: float = float("inf")


@dataclass
class Ledger:
    """What one side decided."""

    days: dict[tuple[int, Lane], Figures] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    more: int = 0
    """Decisions beyond MOST_DECISIONS."""

    def of(self, lane: Lane, now: float) -> Figures:
        """The figures of a lane on the day of ``now``."""
        key = (int(now // DAY), lane)
        found = self.days.get(key)
        if found is None:
            if len(self.days) >= MOST_LANES:
                key = (key[0], ("(others)", ""))
            found = self.days.setdefault(key, Figures())
        return found

    def note(self, decision: Decision) -> None:
        """Count a decision, and keep it while there are not too many."""
        figures = self.of(lane_of(decision), decision.time)
        if decision.what in AWAY:
            figures.suspensions += 1
        elif decision.what in DOWN:
            figures.cuts += 1
            if decision.what in ("cut", "cap"):
                figures.lowest = min(figures.lowest, decision.rate)
        if len(self.decisions) < MOST_DECISIONS:
            self.decisions.append(decision)
        else:
            self.more += 1

    def totals(self) -> Counter[str]:
        """Sums over all lanes and days."""
        found: Counter[str] = Counter()
        for figures in self.days.values():
            for name in ("attempts", "throttled", "suspensions", "cuts", "within", "over"):
                found[name] += getattr(figures, name)
            found["away"] += round(figures.away)
        return found


def lane_of(decision: Decision) -> Lane:
    """The lane that a decision is about."""
    return decision.provider, decision.name if decision.kind == "source" else f"dkim:{decision.name}"


class Side(Protocol):
    """A way to decide, before or after."""

    ledger: Ledger

    def report(self, report: LaneReport) -> None:
        """What happened; reports come in the order of their times, or nearly."""


def warm(settings: Settings) -> Settings:
    """``settings`` for senders whom the providers know: no warm-up, and no rate is too high until they say so.

    A log says what was sent, not what might have been: with a start of 1/s the law would mind every mail.
    """

    def top(limits: Limits) -> Limits:
        return replace(limits, start=limits.maximum)

    return replace(
        settings,
        plans={},
        default=top(settings.default),
        providers={name: top(limits) for name, limits in settings.providers.items()},
        named={key: top(limits) for key, limits in settings.named.items()},
    )


class Law:
    """The law of production under a policy."""

    def __init__(self, settings: Settings) -> None:
        self.ledger = Ledger()
        self._shaper = Shaper(settings)
        self._now = self._ticked = 0.0
        self._until: dict[Key, float] = {}

    def report(self, report: LaneReport) -> None:
        now = self._now = max(self._now, report.time)
        if report.kind == "delivery":
            self._count(report, now)
        if report.time < now:
            report = with_fields(report, time=now)  # none is stale here
        self._take(self._shaper.on_report(report, now, now))
        if now - self._ticked >= max(TICK, PER_LIMIT * len(self._shaper.state)):
            self._ticked = now
            facts, _ = self._shaper.tick(now, now)
            self._take(facts)

    def _take(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, Decision):
                self.ledger.note(fact)
            elif isinstance(fact, LanePolicy) and fact.suspended_until > fact.time:
                key: Key = (fact.kind, fact.name, fact.provider)
                before = max(fact.time, self._until.get(key, 0.0))
                if fact.suspended_until > before:
                    name = fact.name if fact.kind == "source" else f"dkim:{fact.name}"
                    self.ledger.of((fact.provider, name), fact.time).away += fact.suspended_until - before
                    self._until[key] = fact.suspended_until

    def _count(self, report: LaneReport, now: float) -> None:
        figures = self.ledger.of((report.provider, report.source), now)
        figures.attempts += report.attempts
        figures.throttled += sum(reply.count for reply in report.replies if reply.action == "slow")
        keys: tuple[Key, ...] = (
            ("source", report.source, report.provider),
            ("dkim", report.dkim, report.provider),
        )
        wide: tuple[Key, ...] = (("source", report.source, ALL), ("dkim", report.dkim, ALL))
        if any(now < self._until.get(key, 0.0) for key in (*keys, *wide)):
            figures.within += report.attempts
            return
        rates = [policy.rate for key in keys if (policy := self._shaper.published.get(key))]
        if rates:
            figures.over += max(0, report.attempts - int(min(rates) * report.seconds + 1))


class Fixed:
    """Fixed reactions for fixed times, lane by lane; else no limit."""

    def __init__(self, settings: Settings) -> None:
        self.ledger = Ledger()
        self._settings = settings
        self._lanes: dict[Lane, FixedReactions] = {}
        self._now = 0.0

    def report(self, report: LaneReport) -> None:
        now = self._now = max(self._now, report.time)
        if report.kind != "delivery":
            return
        lane = (report.provider, report.source)
        found = self._lanes.get(lane)
        if found is None:
            if len(self._lanes) >= MOST_LANES:
                return
            limits = self._settings.limits(report.provider)
            found = FixedReactions(self._settings, report.provider, limits.maximum, limits.connections)
            self._lanes[lane] = found
        figures, before = self.ledger.of(lane, now), found.allowed(now)
        figures.attempts += report.attempts
        figures.throttled += sum(reply.count for reply in report.replies if reply.action == "slow")
        if now < before.suspended_until:
            figures.within += report.attempts
        else:
            figures.over += max(0, report.attempts - int(before.rate * report.seconds + 1))
        found.report(report, now)
        for decision in found.decisions:
            self.ledger.note(with_fields(decision, name=report.source))
        found.decisions.clear()
        after = found.allowed(now).suspended_until
        if after > max(now, before.suspended_until):
            figures.away += after - max(now, before.suspended_until)

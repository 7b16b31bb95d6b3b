"""Who decides how fast: the law of production, a constant rate, or fixed reactions for fixed times."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

from msgspec.structs import replace as with_fields

from agents.shape.agent import Shaper
from agents.shape.connections import connect
from agents.shape.limit import Key, Limit
from agents.shape.react import react
from agents.shape.rules import Limits, Settings
from schemas.lane_policy import Decision, LanePolicy
from schemas.lane_report import LaneReport, Used

SOURCE = "192.0.2.10"
DKIM = "news.example"
NEVER = float("inf")


class Allowed(NamedTuple):
    """What may be sent now: messages/s, connections, messages on each; nothing before ``suspended_until``.

    ``most``: messages left of what a warm-up plan allows.
    """

    rate: float
    connections: int
    each: int
    suspended_until: float = 0.0
    most: float = NEVER


class Sender(Protocol):
    """A policy under test. Times are Unix seconds."""

    decisions: list[Decision]

    def allowed(self, now: float) -> Allowed:
        """What may be sent now."""

    def report(self, report: LaneReport, now: float) -> None:
        """What came of it."""


@dataclass(slots=True)
class Adaptive:
    """The Shaper of production with its policy; one worker, so that a lease is the whole limit."""

    settings: Settings
    provider: str
    decisions: list[Decision] = field(default_factory=list)
    cold: bool = False
    """By the policy's warm-up plans; else the source and domain are known to the provider."""
    _shaper: Shaper = field(init=False)
    _now: Allowed = field(init=False)
    _sent: int = 0
    _lately: deque[tuple[float, int]] = field(default_factory=deque)
    _hour: int = 0

    def __post_init__(self) -> None:
        if not self.cold:
            self.settings = replace(self.settings, plans={})
        limits = self.settings.limits(self.provider)
        self._shaper = Shaper(self.settings)
        # Nothing but a report makes shape say anything: the first mail waits for it.
        rate = 0.0 if self.cold else limits.start
        self._now = Allowed(rate, limits.connections, limits.per_connection)

    def allowed(self, now: float) -> Allowed:
        return self._now._replace(most=self._left(now)) if self.cold else self._now

    def _left(self, now: float) -> float:
        """Messages left of the plans' day and hour."""
        while self._lately and self._lately[0][0] <= now - 3600:
            self._hour -= self._lately.popleft()[1]
        left = NEVER
        for key in self._keys():
            limit, budget = self._shaper.state.get(key), self._shaper.counted.budgets.get(key)
            caps = limit.caps() if limit else None
            if caps is not None and budget is not None:
                left = min(left, caps[0] - budget.spent, caps[1] - self._hour)
        return max(0.0, left)

    def _keys(self) -> tuple[Key, Key]:
        return ("source", SOURCE, self.provider), ("dkim", DKIM, self.provider)

    def report(self, report: LaneReport, now: float) -> None:
        if self.cold and report.kind == "delivery":
            self._sent += report.attempts
            if report.attempts:
                self._lately.append((now, report.attempts))
                self._hour += report.attempts
            kinds: tuple[Literal["source", "dkim"], ...] = ("source", "dkim")
            used = tuple(
                Used(kind=kind, total=self._sent, fresh=report.attempts, over=report.number) for kind in kinds
            )
            report = with_fields(report, used=used)
        facts = [*self._shaper.on_report(report, now, now), *self._shaper.tick(now, now)[0]]
        changed = False
        for fact in facts:
            if isinstance(fact, Decision):
                self.decisions.append(fact)
            changed = changed or isinstance(fact, LanePolicy)
        if changed:
            self._now = self._stricter()

    def _stricter(self) -> Allowed:
        found = [self._shaper.published[key] for key in self._keys() if key in self._shaper.published]
        return Allowed(
            min(policy.rate for policy in found),
            min(policy.connections for policy in found),
            min(policy.per_connection for policy in found),
            max(policy.suspended_until for policy in found),
        )


@dataclass(slots=True)
class Fixed:
    """One rate for ever."""

    rate: float
    connections: int
    each: int
    decisions: list[Decision] = field(default_factory=list)

    def allowed(self, now: float) -> Allowed:
        return Allowed(self.rate, self.connections, self.each)

    def report(self, report: LaneReport, now: float) -> None:
        return None


class FixedReactions:
    """A constant rate with reactions of fixed duration (providers.md, "Reactions in the field")."""

    def __init__(self, settings: Settings, provider: str, rate: float, connections: int) -> None:
        found = settings.limits(provider)
        self.decisions: list[Decision] = []
        self.settings = settings
        self.limits: Limits = replace(
            found,
            start=rate,
            minimum=min(rate, found.minimum),
            maximum=max(rate, found.maximum),
            connections=connections,
            max_connections=0,
        )
        self._limit = Limit(("source", SOURCE, provider), rate, 0.0, reason="constant")

    def allowed(self, now: float) -> Allowed:
        policy = self._limit.policy(self.limits, now)
        return Allowed(policy.rate, policy.connections, policy.per_connection, policy.suspended_until)

    def report(self, report: LaneReport, now: float) -> None:
        if now < self._limit.suspended_until:
            return
        limit, _, _ = connect(self._limit, report, report.replies, self.limits, self.settings.law, now)
        self._limit, what, reply = react(
            limit, list(report.replies), self.limits, self.settings.reactions, now
        )
        if what:
            policy = self._limit.policy(self.limits, now)
            self.decisions.append(
                Decision(
                    kind="source", name=SOURCE, provider=policy.provider, time=now, what=what,
                    reason=policy.reason, sample=reply.sample if reply else "", rate=policy.rate,
                )
            )  # fmt: skip

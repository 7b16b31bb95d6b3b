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
from schemas.lane_policy import Decision, LaneOrder, LanePolicy
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
    start: float = 0.0
    """Unix seconds when the simulation begins."""
    decisions: list[Decision] = field(default_factory=list)
    plan: str = ""
    """The warm-up plan and its day on which a cold source begins; "": the provider knows source and domain."""
    step: int = 0
    _shaper: Shaper = field(init=False)
    _now: Allowed = field(init=False)
    _sent: int = 0
    _lately: deque[tuple[float, int]] = field(default_factory=deque)
    _hour: int = 0

    def __post_init__(self) -> None:
        limits = self.settings.limits(self.provider)
        self._shaper = Shaper(self.settings)
        self._now = Allowed(limits.start, limits.connections, limits.per_connection)
        kinds: tuple[tuple[Literal["source", "dkim"], str], ...] = (("source", SOURCE), ("dkim", DKIM))
        for kind, name in kinds:
            what: Literal["day", "warm"] = "day" if self.plan else "warm"
            order = LaneOrder(
                kind=kind, name=name, provider=self.provider, what=what, value=self.step + 1, plan=self.plan,
                who="simulate", why="as the model says", time=0.5,
            )  # fmt: skip
            self._shaper.on_order(order, self.start)
        self._now = self._stricter()

    def allowed(self, now: float) -> Allowed:
        left = self._left(now)
        return self._now if left == NEVER else self._now._replace(most=left)

    def _left(self, now: float) -> float:
        """Messages left of the plans' day and hour."""
        left = NEVER
        for key, budget in self._shaper.counted.budgets.items():
            caps = self._shaper.state[key].caps() if key in self._shaper.state else None
            if caps is not None:
                while self._lately and self._lately[0][0] <= now - 3600:
                    self._hour -= self._lately.popleft()[1]
                left = min(left, caps[0] - budget.spent, caps[1] - self._hour)
        return max(0.0, left)

    def _keys(self) -> tuple[Key, Key]:
        return ("source", SOURCE, self.provider), ("dkim", DKIM, self.provider)

    def report(self, report: LaneReport, now: float) -> None:
        if report.kind == "delivery":
            self._sent += report.attempts
            if report.attempts:
                self._lately.append((now, report.attempts))
                self._hour += report.attempts
            while self._lately[0][0] <= now - 3600 if self._lately else False:
                self._hour -= self._lately.popleft()[1]
        if report.kind == "delivery" and self._shaper.counted.budgets:
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

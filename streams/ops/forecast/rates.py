"""What each source and DKIM domain may send, from now on: by the Shaper of production with its present state. Pure.

It is told what the model sends and that the providers take it: so warm-up days, hours, gates and the limit over all
providers come as they would, and rates grow by the law. What a provider has shown as its ceiling stays one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from agents.shape.agent import Shaper
from agents.shape.explain import rate_text
from agents.shape.figures import Limits, Settings
from agents.shape.limit import Key, Limit
from agents.shape.policy import fresh
from agents.shape.warm import PACE
from schemas.lane_policy import ALL, LanePolicy
from schemas.lane_report import LaneReport, Used

SELDOM, PER_LIMIT = 600.0, 0.06
"""Seconds between looks at the clock: at most, and for each limit."""
Kind = Literal["source", "dkim", "from"]


class Room(NamedTuple):
    """Messages that may go, and what allows no more: ``what`` kind of limit, ``text`` for people."""

    messages: float
    what: str
    text: str


@dataclass
class Rates:
    """``author``: our mail's From address, which has a limit of its own in warm-up. ``grow``: rates rise as the law
    lets them; else they stay, and only warm-up goes on."""

    policy: Settings
    facts: Iterable[LanePolicy]
    now: float
    author: str = ""
    grow: bool = True
    _shaper: Shaper = field(init=False)
    _first: dict[Key, tuple[float, float]] = field(default_factory=dict)
    """Rate and ceiling in the beginning."""
    _sent: dict[Key, int] = field(default_factory=dict)
    _number: int = 0
    _ticked: float = 0.0

    def __post_init__(self) -> None:
        self._shaper = Shaper(self.policy)
        for offset, fact in enumerate(self.facts):
            self._shaper.remember(fact, offset, self.now)
        self._shaper.lead(max((fact.epoch for fact in self.facts), default=0) + 1, self.now, self.now)
        for key, limit in self._shaper.state.items():
            self._first[key] = (limit.rate, limit.ceiling)

    def of(self, kind: Kind, name: str, provider: str, now: float, seconds: float) -> Room:
        """What a source, or a DKIM domain, may send a provider in the next ``seconds``."""
        key: Key = (kind, name, provider)
        policy, limit = self._shaper.published.get(key), self._limit(key, now)
        if policy is not None and now < policy.suspended_until:
            return Room(0.0, "suspended", f"suspended: {policy.reason}")
        rate = policy.rate if policy is not None else limit.rate
        first, ceiling = self._first.setdefault(key, (limit.rate, limit.ceiling))
        most = first if not self.grow else max(first, ceiling) if ceiling else rate
        rate = min(rate, most)
        counted = self._counted(key, limit, now)
        caps = limit.caps()
        paced = (
            caps is not None and rate >= PACE * caps[1] / 3600 - 1e-9
        )  # the pace is the plan's, not the law's
        if counted is not None and (paced or counted.messages < rate * seconds):
            return counted._replace(messages=min(counted.messages, rate * seconds))
        return Room(rate * seconds, "rate", f"rate {rate_text(rate)}{_whose(key)}")

    def over_all(self, kind: Kind, name: str, now: float) -> Room | None:
        """What is left of the limit over all providers, None where there is none."""
        key: Key = (kind, name, ALL)
        policy, budget = self._shaper.published.get(key), self._shaper.counted.budgets.get(key)
        if policy is not None and now < policy.suspended_until:
            return Room(0.0, "suspended", policy.reason)
        if budget is None:
            return None
        left = budget.left(now)
        text = f"in warm-up: {budget.per_span} in any {budget.span / 60:g} minutes over all providers{_whose(key)}"
        return Room(left, "wide", text)

    def sent(
        self, provider: str, source: str, dkim: str, count: int, waiting: int, now: float, seconds: float
    ) -> None:
        """So many messages go within the next ``seconds``, and all are taken."""
        self._number += 1
        used = [
            self._used(kind, name, of, count)
            for kind, name in (("source", source), ("dkim", dkim))
            for of in (provider, ALL)
            if name
        ]
        if dkim and self.author:
            used.append(self._used("from", self.author, ALL, count, waiting))
        report = LaneReport(
            worker="forecast",  # one for all: totals are by limit
            number=self._number, provider=provider, source=source, dkim=dkim, time=now, seconds=seconds,
            attempts=count, delivered=count, waiting=waiting, partitions=1, used=tuple(used),
        )  # fmt: skip
        self._shaper.on_report(report, now, now)
        # The lease that answered is over at once: nobody holds anything between two steps.
        self._shaper.counted.hear(report, now, now)

    def _used(self, kind: str, name: str, of: str, count: int, waiting: int = 0) -> Used:
        key: Key = (kind, name, of)  # type: ignore[assignment]
        total = self._sent[key] = self._sent.get(key, 0) + count
        return Used(
            kind=key[0], name=name if kind == "from" else "", over_all=of == ALL, total=total, fresh=count, over=self._number,
            waiting=waiting,
        )  # fmt: skip

    def tick(self, now: float) -> None:
        """Time goes on: days end, caps run out. Of many limits it is looked at less often: each costs."""
        if now - self._ticked >= min(SELDOM, PER_LIMIT * len(self._shaper.state)):
            self._ticked = now
            self._shaper.tick(now, now)

    def _limits(self, key: Key) -> Limits:
        return self.policy.limits(key[2], key[0], key[1])

    def _limit(self, key: Key, now: float) -> Limit:
        return self._shaper.state.get(key) or fresh(key, self._limits(key), self.policy, now)

    def _counted(self, key: Key, limit: Limit, now: float) -> Room | None:
        caps = limit.caps()
        if caps is None:
            return None
        per_day, per_hour = caps
        budget = self._shaper.counted.budgets.get(key)
        today = per_day - budget.spent if budget else per_day
        left = max(0.0, float(budget.left(now) if budget else min(caps)))
        if limit.gate_day and per_day == limit.gate_day:
            why, what = f"too many complaints: {per_day:,} a day{_whose(key)}", "gate"
        elif limit.warm is not None:
            day = f"warm-up day {limit.warm.step + 1}"
            # Of the two the one that is nearer.
            by_day = today <= left
            why = (
                f"{day}: {per_day:,} a day{_whose(key)}"
                if by_day
                else f"{day}: {per_hour:,} an hour{_whose(key)}"
            )
            what = "day" if by_day else "hour"
        else:
            return None
        return Room(left, what, why)


def _whose(key: Key) -> str:
    return {"dkim": f" of DKIM domain {key[1]}", "from": f" from {key[1]}"}.get(key[0], "")

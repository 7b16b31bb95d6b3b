"""The budgets of all limits that are counted, and the limits over all providers together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from agents.shape.budget import Budget
from agents.shape.figures import Settings
from agents.shape.limit import Key, Kind, Limit
from agents.shape.turns import Turns
from agents.shape.warm import PACE, WIDE, WIDE_SPAN, WIDE_UNTIL, planned
from schemas.lane_policy import ALL, LanePolicy, Lease
from schemas.lane_report import LaneReport

MOST_FROMS = 5000
"""From addresses that are counted at the same time; mail of others waits until one of them is silent."""
NO_BOUND = 10_000
"""Connections of a limit over all providers: it has none of its own."""


@dataclass(slots=True)
class Counted:
    """Budgets by limit. They change with what is heard; what was granted is written down before it is lent."""

    budgets: dict[Key, Budget] = field(default_factory=dict)
    _turns: Turns[Key] = field(default_factory=Turns)

    def restore(self, published: Mapping[Key, LanePolicy], now: float) -> None:
        """Begin with what the last leader wrote."""
        self.budgets = {}
        for key, policy in published.items():
            if policy.spent is not None:
                spent = policy.spent
                budget = self.budgets[key] = Budget(spent.per_day, spent.per_span, spent.span)
                budget.restore(spent, now)

    def fit(self, key: Key, limit: Limit) -> Budget | None:
        """The budget of a limit as it is now, made or given up as need be."""
        caps = limit.caps()
        if caps is None:
            self.budgets.pop(key, None)
            return None
        budget = self.budgets.get(key)
        if budget is None:
            budget = self.budgets[key] = Budget(*caps)
        budget.per_day, budget.per_span = caps
        return budget

    def hear(self, report: LaneReport, now: float, mono: float, only: Iterable[Key] | None = None) -> None:
        """What a worker told of its messages, at every limit (or ``only`` at some) that is counted."""
        for used in report.used:
            name = {"source": report.source, "dkim": report.dkim}.get(used.kind, used.name)
            key: Key = (used.kind, name, ALL if used.over_all else report.provider)
            budget = self.budgets.get(key)
            if budget is not None and (only is None or key in only):
                budget.heard(report.worker, used.total, used.fresh, used.over, now, mono)

    def lend(self, lease: Lease, report: LaneReport, ends: float, now: float) -> Lease:
        """The lease with the messages that it allows, where its limit is counted."""
        budget = self.budgets.get((lease.kind, lease.name, lease.provider))
        if budget is None:
            return lease
        works = work_of(report, lease.kind, lease.name) > 0 and lease.rate > 0
        wanted = math.ceil(lease.rate * lease.duration) + 1 if works else 0
        return replace(lease, most=budget.grant(lease.worker, lease.number, wanted, ends, now))

    def author(self, name: str) -> bool:
        """Begin to count a From address. False: it is counted already, or there is no room for one more."""
        key: Key = ("from", name, ALL)
        if key in self.budgets or sum(of == "from" for of, _, _ in self.budgets) >= MOST_FROMS:
            return False
        self.budgets[key] = Budget(0, WIDE, WIDE_SPAN)
        return True

    def settle(self, now: float, mono: float) -> list[Key]:
        """Write off workers that are gone, at some of the limits in their turn; of these the From addresses that
        need not be counted any more."""
        silent: list[Key] = []
        for key in self._turns.next(self.budgets):
            budget = self.budgets.get(key)
            if budget is not None:
                budget.settle(now, mono)
                silent += [key] if key[0] == "from" and budget.idle(now) else []
        return silent


def work_of(report: LaneReport, kind: Kind, name: str) -> int:
    """Mail that the worker has to send under a limit: waiting, or just sent."""
    if kind != "from":
        return report.waiting + report.attempts
    return sum(used.waiting + used.fresh for used in report.used if (used.kind, used.name) == (kind, name))


def wide_of(state: Mapping[Key, Limit], settings: Settings) -> set[tuple[Kind, str]]:
    """Whose mail to all providers together is bounded: in warm-up, and nowhere let far enough yet."""
    young: set[tuple[Kind, str]] = set()
    grown: set[tuple[Kind, str]] = set()
    for (kind, name, provider), limit in state.items():
        if limit.warm is None:
            limits = settings.limits(provider, kind, name)
            if planned(limits, settings.plans) is not None:
                grown.add((kind, name))  # its plan is done
        elif limit.warm.per_hour >= WIDE_UNTIL:
            grown.add((kind, name))
        else:
            young.add((kind, name))
    return young - grown


def over_all(kind: Kind, name: str) -> LanePolicy:
    """A limit over all providers that limits nothing."""
    return LanePolicy(
        kind=kind,
        name=name,
        provider=ALL,
        rate=PACE * WIDE / WIDE_SPAN,
        minimum=0.0,
        connections=NO_BOUND,
        per_connection=NO_BOUND,
    )


def wide_policy(kind: Kind, name: str, budget: Budget | None, now: float) -> LanePolicy:
    """The limit over all providers: WIDE messages in any WIDE_SPAN seconds; of a DKIM domain (no ``budget``)
    that its From addresses have such a limit each."""
    whose = "" if budget else " from each From address"
    return replace(
        over_all(kind, name),
        reason=f"in warm-up: {WIDE} in any {WIDE_SPAN / 60:g} minutes over all providers{whose}",
        time=now,
        spent=budget.record(now) if budget else None,
        by_from=budget is None,
    )

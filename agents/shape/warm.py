"""Warm-up: how much a source or DKIM domain may send a provider that does not know it yet.

A step a day, after good days only; a day that was not used up carries nothing over; a long rest starts
again. The figures are plans of the policy file; the hour and the day are counted in ``budget.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agents.shape.figures import WARM, Limits, Plan

DAY = 86_400.0
PACE = 1.2
"""The pace lets out a little more than an hour's cap needs; what is counted binds."""
WIDE = 400
"""Messages over all providers in any WIDE_SPAN while no plan of a source or DKIM domain allows WIDE_UNTIL an hour."""
WIDE_SPAN = 600.0
WIDE_UNTIL = 2400


@dataclass(frozen=True, slots=True)
class Warm:
    """Where a limit stands in its plan. ``step`` 0 is the first day."""

    plan: str
    step: int
    per_day: int
    per_hour: int


class Day(NamedTuple):
    """The present day of a limit: when it began (0 = with the next mail), and what happened in it.

    ``deferred``: attempts slowed down or held by what is about us; ``traps``: spam traps reached.
    """

    since: float = 0.0
    attempts: int = 0
    deferred: int = 0
    bounced: int = 0
    delivered: int = 0
    complaints: int = 0
    traps: int = 0
    told: int = 0
    """Reports of feedback: whether complaints can be measured at all."""

    def add(self, **counts: int) -> Day:
        """With more of the day's counts."""
        return self._replace(**{name: getattr(self, name) + count for name, count in counts.items()})


NO_DAY = Day()


def begun(name: str, plan: Plan, step: int = 0) -> Warm:
    """At a step of a plan; its day begins with the next mail."""
    return Warm(name, step, plan.daily(step), plan.an_hour(step))


def planned(limits: Limits, plans: Mapping[str, Plan]) -> Warm | None:
    """What a limit that nothing is known about starts with; None: by the law alone."""
    plan = plans.get(limits.warm_up)
    return None if plan is None or limits.warm_up == WARM else begun(limits.warm_up, plan)


def finished(warm: Warm, limits: Limits) -> bool:
    """Whether the plan allows more than the law ever will: in a day too, which has more hours than a plan counts."""
    return warm.per_day >= limits.maximum * DAY


def day_ended(warm: Warm, day: Day, plan: Plan, used: int, fullest: int) -> tuple[Warm, str, str]:
    """The next day's place in the plan, ``day`` or ``hold`` or "" (nothing was sent), and why.

    ``used`` messages went that day, ``fullest`` of them in its fullest hour.
    """
    faults = _faults(warm, day, plan, used, fullest)
    step = warm.step if faults or not used else warm.step + 1
    fresh = begun(warm.plan, plan, step)
    if not used:
        return fresh, "", ""
    sent = f"{used} of {warm.per_day} sent"
    if faults:
        return fresh, "hold", f"day {warm.step + 1} of {warm.plan} again: {', '.join((sent, *faults))}"
    reason = (
        f"day {step + 1} of {warm.plan}: {fresh.per_day} a day, {fresh.per_hour} an hour ({sent}, a good day)"
    )
    return fresh, "day", reason


def _faults(warm: Warm, day: Day, plan: Plan, used: int, fullest: int) -> list[str]:
    """Why a day does not count."""
    found = []
    full = used >= plan.filled * warm.per_day if plan.day else fullest >= plan.filled * warm.per_hour
    if not full:
        found.append("not used up")
    if day.deferred > plan.deferred * max(1, day.attempts):
        found.append(f"{day.deferred} of {day.attempts} slowed down or held")
    if day.bounced > plan.bounced * max(1, day.attempts):
        found.append(f"{day.bounced} of {day.attempts} refused")
    if lower(day.complaints, day.delivered) > plan.complaints:
        found.append(f"{day.complaints} complaints in {day.delivered} deliveries")
    if day.traps:
        found.append(f"{day.traps} spam traps")
    return found


def lower(hits: int, of: int, z: float = 1.96) -> float:
    """Lower end of the Wilson interval of hits / of (z 1.96: 95 %): what few do by chance counts little."""
    of = max(1, of)
    share = min(1.0, hits / of)
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (share + z * z / (2 * of) - spread) / (1 + z * z / of)

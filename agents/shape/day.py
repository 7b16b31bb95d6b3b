"""What the end of a day means for a limit: a step of its warm-up, a gate that opens, volumes to compare with."""

from __future__ import annotations

from msgspec.structs import replace

from agents.shape.figures import WARM, Limits, Plan, Settings
from agents.shape.limit import Limit
from agents.shape.warm import NO_DAY, begun, day_ended, finished

KEPT_DAYS = 7


def end_day(
    limit: Limit, limits: Limits, settings: Settings, used: int, fullest: int, now: float
) -> tuple[Limit, str, str]:
    """The limit before its next day, what was decided ("" = nothing), and why.

    ``used`` messages were sent of what is counted, ``fullest`` in the fullest hour.
    """
    volumes = (*limit.volumes, limit.day.delivered)[-KEPT_DAYS:]
    after = replace(limit, day=NO_DAY, volumes=volumes)
    if limit.gate_day:
        return _gated(after, limit, limits, settings)
    if limit.warm is None:
        return after, "", ""
    plan = settings.plans.get(limit.warm.plan)
    if plan is None:
        return (
            replace(after, warm=None),
            "warm",
            f"there is no plan {limit.warm.plan} any more: the law alone",
        )
    if now < limit.frozen_until:
        return after, "hold", f"day {limit.warm.step + 1} of {limit.warm.plan} again: growth is frozen"
    warm, what, reason = day_ended(limit.warm, limit.day, plan, used, fullest)
    if what and finished(warm, limits):
        return replace(after, warm=None), "warm", f"{limit.warm.plan} allows more than the law: warm"
    return replace(after, warm=warm), what, reason


def _gated(after: Limit, before: Limit, limits: Limits, settings: Settings) -> tuple[Limit, str, str]:
    """Days that were measured and good open the gate; without data an operator does."""
    rules, day = settings.sweep, before.day
    if not day.told or day.delivered < rules.measured:
        return after, "", ""  # nobody can say: such a day counts neither way
    share = day.complaints / day.delivered
    good = before.good_days + 1 if share < rules.engaged else 0
    if good < rules.good_days:
        return replace(after, good_days=good), "", ""
    reason = f"{good} measured days below {rules.engaged:.2%}: growth again"
    return lifted(after, limits, settings), "lift", reason


def lifted(limit: Limit, limits: Limits, settings: Settings) -> Limit:
    """Without its gate; it grows again by its plan, from where the gate held it."""
    warm = limit.warm
    name, plan = plan_of(limits, settings)
    if warm is None and plan is not None and limit.gate_day:
        warm = begun(name, plan, plan.step_of(limit.gate_day))
        warm = None if finished(warm, limits) else warm
    return replace(limit, gate_day=0, good_days=0, frozen_until=0.0, warm=warm)


def plan_of(limits: Limits, settings: Settings, name: str = "") -> tuple[str, Plan | None]:
    """A plan by name; else the one of the limit's section, else the first that there is."""
    wanted = name or (limits.warm_up if limits.warm_up != WARM else next(iter(settings.plans), ""))
    return wanted, settings.plans.get(wanted)

"""What an operator's order, or a changed policy file, makes of a limit's warm-up and gate."""

from __future__ import annotations

from msgspec.structs import replace

from agents.shape.day import lifted, plan_of
from agents.shape.figures import Limits, Settings
from agents.shape.limit import Limit
from agents.shape.warm import begun
from schemas.lane_policy import LaneOrder


def followed(limit: Limit, order: LaneOrder, limits: Limits, settings: Settings) -> tuple[Limit, str]:
    """The limit as ordered, and the reason for the books. An order that cannot be followed changes nothing."""
    limit = replace(limit, ordered=order.time)
    by = f"ordered by {order.who}: {order.why}"
    if order.what == "warm":
        return replace(limit, warm=None, reason=f"warm ({by})"), f"warm, no plan ({by})"
    if order.what == "lift":
        return replace(lifted(limit, limits, settings), reason=f"gate lifted ({by})"), f"gate lifted ({by})"
    if order.what == "engaged_only":
        text = f"only those who clicked lately, {max(1, order.value)} a day at most ({by})"
        return replace(limit, gate_day=max(1, order.value), good_days=0, reason=text), text
    name, plan = plan_of(limits, settings, order.plan)
    if plan is None:
        return limit, f"not followed, there is no plan {name or 'at all'} ({by})"
    warm = begun(name, plan, max(0, order.value - 1) if order.what == "day" else 0)
    text = f"day {warm.step + 1} of {name}: {warm.per_day} a day, {warm.per_hour} an hour ({by})"
    return replace(limit, warm=warm, reason=text), text


def replanned(limit: Limit, settings: Settings) -> Limit:
    """A limit in warm-up, by what its plan says today; without a plan any more it is over."""
    if limit.warm is None:
        return limit
    plan = settings.plans.get(limit.warm.plan)
    return replace(limit, warm=begun(limit.warm.plan, plan, limit.warm.step) if plan else None)

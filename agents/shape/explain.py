"""Decisions and limits as lines for people: what ``mailsluice lanes`` and ``lanes explain`` print."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from schemas.lane_policy import Decision, LanePolicy

_VERBS = {
    "start": "starts at",
    "cut": "cut to",
    "raise": "raised to",
    "cap": "capped at",
    "uncap": "back to",
    "suspend": "suspended; afterwards",
    "freeze": "growth frozen at",
    "narrow": "fewer connections at",
    "widen": "one more connection at",
    "shorten": "shorter connections at",
    "day": "a step of its warm-up at",
    "hold": "no step of its warm-up at",
    "warm": "warm, at",
    "engaged": "only for those who clicked lately, at",
    "lift": "its gate is open again, at",
    "order": "by order, at",
    "stop": "stopped, look at it; afterwards",
    "policy": "policy file changed; now",
}


def named(kind: str, name: str) -> str:
    """Whose limit it is, as tables show it: a source by its name, d=DOMAIN, From ADDRESS."""
    return {"dkim": f"d={name}", "from": f"From {name}"}.get(kind, name)


def rate_text(rate: float) -> str:
    """A rate as people read it: 12.5/s, 20/min, 3/h."""
    if rate >= 1:
        return f"{rate:.3g}/s"
    if rate * 60 >= 1:
        return f"{rate * 60:.3g}/min"
    return f"{rate * 3600:.3g}/h"


def explain_decision(decision: Decision) -> str:
    """One dated line, and the reply that caused it on a second one."""
    subject = f"{decision.provider} from {decision.name}"
    if decision.kind == "dkim":
        subject = f"{decision.provider} signed by {decision.name}"
    verb = _VERBS.get(decision.what, decision.what)
    line = f"{_time(decision.time)}  {_clean(subject)}: {verb} {rate_text(decision.rate)} ({_clean(decision.reason)})"
    return f"{line}\n    {_clean(decision.sample)}" if decision.sample else line


def explain(decisions: Iterable[Decision], newest: int = 20) -> list[str]:
    """The ``newest`` decisions, oldest of them first."""
    ordered = sorted(decisions, key=lambda decision: (decision.time, decision.provider, decision.name))
    return [explain_decision(decision) for decision in ordered[-newest:]] if newest > 0 else []


def explain_policy(policy: LanePolicy, now: float) -> str:
    """A limit as it stands: rate, connections, until when it is suspended, and why."""
    how = f"{rate_text(policy.rate)}, {policy.connections} connections"
    if now < policy.suspended_until:
        how = f"suspended until {_time(policy.suspended_until)}"
    elif now < policy.cap_until:
        how += f", capped until {_time(policy.cap_until)}"
    counted = [] if policy.spent is None else [budget_text(policy, now)]
    if policy.plan:
        counted.insert(0, f"day {policy.step + 1} of {policy.plan}")
    if policy.engaged_only:
        counted.append(f"only contacts that clicked lately, {policy.good_days} good days so far")
    how = "; ".join((how, *counted))
    return _clean(f"{policy.provider} {policy.kind} {policy.name}: {how} ({policy.reason})")


def left(policy: LanePolicy, now: float) -> tuple[int | None, int | None]:
    """(messages left of the day, of the last hour or span), as last written down; None: not counted."""
    spent = policy.spent
    if spent is None:
        return None, None
    lately = sum(count for until, count in spent.lately if until + spent.span > now)
    today = spent.used if now < spent.day_start + 86_400 else 0
    day = max(0, spent.per_day - today) if spent.per_day else None
    return day, max(0, spent.per_span - lately)


def budget_text(policy: LanePolicy, now: float) -> str:
    """What is left of a counted limit, as last written down."""
    day, lately = left(policy, now)
    assert policy.spent is not None
    span = "hour" if policy.spent.span == 3600 else f"{policy.spent.span / 60:g} minutes"
    today = "" if day is None else f"{policy.spent.per_day - day} of {policy.spent.per_day} today, "
    return f"{today}{lately} more this {span}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _clean(text: str) -> str:
    """Replies come from outside: nothing that moves a terminal's cursor passes."""
    return "".join(char if char.isprintable() else "?" for char in text)

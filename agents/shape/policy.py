"""The control law: fast down, slow up, clamped. One report in; changed limits and their reasons out."""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec.structs import replace

from agents.shape.check import refused
from agents.shape.connections import about_connections, connect, spent
from agents.shape.figures import Law, Limits, Settings
from agents.shape.halt import FEW, STILL, halt, held, turned_away
from agents.shape.limit import Key, Limit, Measured, Sample
from agents.shape.react import react, sweep
from agents.shape.warm import PACE, lower, planned
from schemas.lane_policy import Decision, LanePolicy
from schemas.lane_report import LaneReport, Reply

State = Mapping[Key, Limit]
SOURCE_SCOPES = frozenset({"", "source"})
SIGNER_SCOPES = frozenset({"dkim"})
"""A reply acts at its own scope: whatever is in neither set slows no lane."""
VAGUE = frozenset({"", "source", "domain"})
"""Scopes of replies that may be meant of the rate whatever their words: their host has no better ones."""
SAME = 0.1
"""Ceilings no further apart than this part are the same one."""
STEADY = 3
"""Times ``probe_after`` in which a rate was refused a little, and neither raised nor cut."""
LATER = 7200.0
"""So long after a cut its ceiling may be elsewhere: what is taken past it is followed by the next probe soon."""
LITTLE = 0.1
"""A share refused at the minimum above which there is less; or, in words that speak of no rate, above which they mean one:"""
WORDED = 86400.0
"""for so long afterwards,"""
IN_VAIN = 5
"""unless so many cuts for such words, with no raise between, have brought none fewer: then they do not for as long."""
PAST = 1.05
"""A ceiling so many times below what was taken lately is a passing one."""


def decide(
    report: LaneReport, state: State, settings: Settings, now: float
) -> tuple[list[LanePolicy | Decision], State]:
    """What follows from one report: for each limit that changed its policy and the decision behind it.

    ``now`` is in Unix seconds and never goes back. A refused report changes nothing.
    """
    out, changed = changes(report, state, settings, now)
    return out, {**state, **changed}


def changes(
    report: LaneReport, state: State, settings: Settings, now: float
) -> tuple[list[LanePolicy | Decision], dict[Key, Limit]]:
    """What ``decide`` does, with those limits alone that the report is about: there may be 20,000 others."""
    if refused(report):
        return [], {}
    out: list[LanePolicy | Decision] = []
    changed: dict[Key, Limit] = {}
    source: Key = ("source", report.source, report.provider)
    signer: Key = ("dkim", report.dkim, report.provider)
    for key, scopes in ((source, SOURCE_SCOPES), (signer, SIGNER_SCOPES)):
        if not (key[1] and key[2]) or (key not in state and len(state) + len(changed) >= settings.max_limits):
            continue
        limits = settings.limits(report.provider, key[0], key[1])
        replies = [reply for reply in report.replies if reply.scope in scopes]
        before = state.get(key) or fresh(key, limits, settings, now)
        after, what, reply = _step(before, report, replies, limits, settings, now)
        if not what and key not in state and (key is source or after.warm):
            why = "nothing known yet"
            if after.warm is not None:
                why += (
                    f": day 1 of {after.warm.plan}, {after.warm.per_day} a day, {after.warm.per_hour} an hour"
                )
            after, what = replace(after, reason=why), "start"
        changed[key] = after
        if what:
            policy = after.policy(limits, now)
            out += [policy, _decision(policy, what, reply)]
    return out, changed


def fresh(key: Key, limits: Limits, settings: Settings, now: float) -> Limit:
    """A limit that nothing is known about."""
    warm = planned(limits, settings.plans)
    return Limit(key, limits.start, now, raised_at=now, connected_at=now, warm=warm)


def _decision(policy: LanePolicy, what: str, reply: Reply | None) -> Decision:
    return Decision(
        kind=policy.kind,
        name=policy.name,
        provider=policy.provider,
        time=policy.time,
        what=what,
        reason=policy.reason,
        sample=reply.sample[:300] if reply else "",
        rate=policy.rate,
    )


def _step(
    limit: Limit, report: LaneReport, replies: list[Reply], limits: Limits, settings: Settings, now: float
) -> tuple[Limit, str, Reply | None]:
    """One limit and one report: the limit after it, what was decided ("" = nothing), a sample reply."""
    law, limits = settings.law, limit.paced(limits)
    slow = [r for r in replies if r.action == "slow" and r.count and not about_connections(r)]
    shut = [r for r in report.replies if r not in slow and turned_away(r)] if limit.key[0] == "source" else []
    if now < limit.worded_until and limit.worded < IN_VAIN:
        slow += [reply for reply in shut if reply.scope in VAGUE]
        shut = [reply for reply in shut if reply.scope not in VAGUE]
    throttled = sum(reply.count for reply in slow)
    blocked = sum(reply.count for reply in replies if reply.action == "hold")
    if report.kind == "delivery":
        other = report.dkim if limit.key[0] == "source" else report.source
        turned = sum(reply.count for reply in shut)
        vague = sum(reply.count for reply in shut if reply.scope in VAGUE)
        counts = (report.attempts, throttled, report.connections, report.busy, turned, vague)
        sample = Sample(now, (report.worker, other), report.seconds, *counts)
        limit = limit.sampled(sample, law.window)
    tally = limit.tally.add(
        now,
        settings.sweep,
        attempts=report.attempts,
        delivered=report.delivered,
        refused=report.bounced,
        blocked=blocked,
        complaints=report.complaints,
        traps=report.traps,
    )
    day = limit.day.add(
        attempts=report.attempts,
        deferred=throttled + blocked,
        bounced=report.bounced,
        delivered=report.delivered,
        complaints=report.complaints,
        traps=report.traps,
        told=int(
            report.kind == "feedback" and not (report.listed or report.traps)
        ),  # those know of no complaints
    )
    limit = replace(limit, tally=tally, day=day)
    if throttled:
        pushed = limit.pushed_at if now - limit.throttled_at < law.probe_after else now
        limit = replace(limit, throttled_at=now, pushed_at=pushed)
    if report.listed:
        lists = ", ".join(report.lists) or f"{report.listed} block lists"
        reason = f"on {lists} by our own check: no growth for now"
        later = now + settings.sweep.freeze
        told = now < limit.frozen_until
        limit = replace(limit, frozen_until=later, reason=reason)
        if not told:
            return limit, "freeze", None
    limit, widened, about = connect(limit, report, replies, limits, law, now)
    if now < limit.suspended_until:
        return limit, widened, about
    limit, what, reply = react(limit, [r for r in replies if not spent(r)], limits, settings.reactions, now)
    if not what:
        limit, what = sweep(limit, limits, settings.sweep, now)
    if not what and now >= limit.cap_until and report.kind == "delivery":
        reply = max((*slow, *shut), key=lambda found: found.count, default=None)
        limit, what = halt(limit, limits, law, now, reply.sample if reply else "")
        if not what and not limit.stopped_at:
            limit, what = _cut(limit, limits, law, now, report.provider in settings.providers)
        if not what and not limit.stopped_at:
            limit, what = _raise(limit, limits, law, now)
    return (limit, what, reply) if what else (limit, widened, about)


def _cut(limit: Limit, limits: Limits, law: Law, now: float, named: bool) -> tuple[Limit, str]:
    """Down to a little below what the provider took while it pushed back; remember that as the ceiling.

    ``named``: the provider has a section of its own, and takes mail for many domains."""
    if now - limit.cut_at < law.cut_after:
        return limit, ""
    seen = limit.measured(after=limit.cut_at + law.settle)
    limit, seen = _worded(limit, seen, named, now)
    least = limits.minimum
    if limit.rate <= least and seen.attempts >= 2 * FEW and seen.share >= LITTLE:
        least = min(least, 1 / law.ask)  # nobody should be refused for hours
    if not seen.throttled or limit.rate <= least:
        return limit, ""
    if seen.share < law.share:
        # Refused a little for ever is above what it takes, and never quiet: a step down.
        if now - max(limit.cut_at, limit.raised_at, limit.pushed_at) < STEADY * law.probe_after:
            return limit, ""
        rate = max(least, limit.rate * (1 - law.probe))
        reason = f"{seen.share:.2%} of attempts throttled again and again at {seen.rate:.3g}/s"
        return replace(limit, rate=rate, ceiling=limit.rate, probes=0, cut_at=now, reason=reason), "cut"
    caps = limit.caps()
    if caps is not None:  # the pace that binds is the plan's
        limit = replace(limit, rate=min(limit.rate, max(limits.minimum, PACE * caps[1] / 3600)))
    # Few attempts say little: the cut goes by the least share that they make likely. And just after a
    # cut not every worker has reported what it sent since.
    rate = seen.rate if seen.streams == limit.measured().streams else limit.rate
    taken = min(limit.rate, max(seen.taken, rate * (1 - lower(seen.throttled, seen.attempts, z=1.0))))
    # A limit that was hardly used tells little; one that never bound yet (a DKIM domain) tells nothing.
    deepest = law.deepest * (limit.rate if limit.reason else taken)
    # The first time, growth has gone past the mark by all that was lent before the first reply.
    margin = law.margin if limit.ceiling else law.first
    rate = max(least, min(limit.rate * 0.95, max(deepest, taken * margin)))
    reason = f"{seen.share:.1%} of attempts throttled at {seen.rate:.3g}/s"
    ceiling = max(taken, rate)
    again = limit.ceiling and abs(ceiling / limit.ceiling - 1) <= SAME
    met = limit.met + 1 if again else 0
    return replace(limit, rate=rate, ceiling=ceiling, probes=0, met=met, cut_at=now, reason=reason), "cut"


def _worded(limit: Limit, seen: Measured, named: bool, now: float) -> tuple[Limit, Measured]:
    """A part turned away in words that speak of no rate: there are providers that know no others for it.

    Whether they mean the rate, a cut shows: then there are none for a while. Cut in vain, they are believed no more.
    """
    if now >= limit.worded_until:
        limit = replace(limit, worded=0)
        # At a named provider they may be of one of its domains that is in trouble.
        if seen.throttled or seen.vague < max(2 * FEW, (STILL if named else LITTLE) * seen.attempts):
            return limit, seen
        seen = seen._replace(throttled=seen.vague, share=min(1.0, seen.vague / max(1, seen.attempts)))
    elif limit.worded >= IN_VAIN or not seen.throttled:
        return limit, seen
    in_a_row = limit.worded if limit.raised_at <= limit.cut_at else 0
    return replace(limit, worded=in_a_row + 1, worded_until=now + WORDED), seen


def _raise(limit: Limit, limits: Limits, law: Law, now: float) -> tuple[Limit, str]:
    """Up a step after quiet time, where the limit is used; near the ceiling only a probe, and later."""
    quiet = now - max(limit.cut_at, limit.raised_at, limit.throttled_at, limit.suspended_until)
    limit = held(limit, law, now)
    if limit.rate >= limits.maximum:
        return limit, ""
    near = limit.ceiling > 0 and limit.rate >= law.near * limit.ceiling * 0.999
    known = 0.0 if now - limit.proven_at > law.proven else limit.proven
    back = not near and limit.rate < known * 0.999
    # It took more lately: this ceiling will pass, and the way back is no news for the provider and no growth.
    passing = near and limit.ceiling * PAST < law.near * known
    if now < limit.frozen_until and not (back or passing):
        return limit, ""
    if quiet < (
        _patience(limit, law, passing, now) if near else law.recover_after if back else law.raise_after
    ):
        return limit, ""
    seen = limit.measured()
    used = max(seen.rate, seen.taken)  # the average lags behind a rate that grows
    if used < law.used * limit.rate:
        return limit, ""
    rate, ceiling = limit.rate * law.grow, limit.ceiling
    if back:
        rate = min(limit.rate * law.recover, max(rate, known))
        ceiling = ceiling or (known if rate >= known else 0.0)  # from there on with care again
    if near:
        rate = min(rate, _probed(limit, law, passing))
        ceiling = max(ceiling, rate)
    elif ceiling:
        rate = min(rate, law.near * ceiling)
    rate = min(rate, limits.maximum)
    reason = f"{quiet:.3g} s quiet, {used:.3g}/s used" + (
        f", near {ceiling:.3g}/s" if near and ceiling else ""
    )
    probes = limit.probes + 1 if near else 0
    if probes >= law.probes:  # nobody minded any of them: it is no ceiling any more
        limit, ceiling, probes = replace(limit, met=0), 0.0, 0
    return replace(limit, rate=rate, ceiling=ceiling, probes=probes, raised_at=now, reason=reason), "raise"


def _probed(limit: Limit, law: Law, passing: bool) -> float:
    """Each probe that nobody minded doubles the next one: a ceiling that moved is found in a few."""
    return limit.rate + law.probe * min(law.boldest, 2 ** (limit.probes + passing)) * limit.ceiling


def _patience(limit: Limit, law: Law, passing: bool, now: float) -> float:
    """Quiet time before the next probe. What a ceiling that was met again and again wants is patience before it is
    tried once more, not on the way there; and if it is not met any more, it has moved."""
    times = 1 if passing else min(law.patient, 2**limit.met)
    if _probed(limit, law, passing) < limit.ceiling:
        return law.probe_after
    if limit.rate < limit.ceiling * 0.999:
        waited = now - limit.cut_at >= 2 * times * law.probe_after
        return law.probe_after if waited else math.inf
    return law.probe_after * (1 if limit.probes and now - limit.cut_at >= LATER else times)

"""Reactions to named replies, and the sweeping rules over all replies of a limit together."""

from __future__ import annotations

from msgspec.structs import replace

from agents.shape.figures import Limits, Reaction, Sweep
from agents.shape.limit import Hit, Limit, Tally
from agents.shape.warm import lower
from schemas.lane_report import Reply


def react(
    limit: Limit, replies: list[Reply], limits: Limits, reactions: tuple[Reaction, ...], now: float
) -> tuple[Limit, str, Reply | None]:
    """The first reaction whose count is full; what it counted starts again from zero."""
    for reaction in reactions if replies else ():
        seen = [r for r in replies if r.count and reaction.takes(limit.key[2], r.rule, r.klass)]
        if not seen:
            continue
        new = Hit(reaction.name, now, sum(reply.count for reply in seen))
        mine = [h for h in limit.hits if h.reaction == new.reaction and h.time > now - reaction.window]
        rest = tuple(hit for hit in limit.hits if hit.reaction != new.reaction)
        total = new.replies + sum(hit.replies for hit in mine)
        if total < reaction.count:
            limit = replace(limit, hits=(*rest, *mine[-100:], new))
            continue
        cap = bool(reaction.rate) and now + reaction.lasting > limit.cap_until
        if reaction.connections:
            room = min(limit.room(limits), reaction.connections)
            until = max(limit.connections_until, now + reaction.lasting)
            limit = replace(limit, connections=room, connected_at=now, connections_until=until)
        limit = replace(
            limit,
            hits=rest,
            rate=max(limits.minimum, limit.rate * reaction.factor),
            raised_at=now,
            suspended_until=now + reaction.suspend if reaction.suspend else limit.suspended_until,
            cap_rate=reaction.rate if cap else limit.cap_rate,
            cap_until=now + reaction.lasting if cap else limit.cap_until,
            reason=f"{reaction.name}: {total} replies within {reaction.window:g} s",
        )
        if reaction.suspend or cap:
            return limit, "suspend" if reaction.suspend else "cap", seen[0]
        return limit, "narrow" if reaction.connections else "cut", seen[0]
    return limit, "", None


def sweep(limit: Limit, limits: Limits, rules: Sweep, now: float) -> tuple[Limit, str]:
    """Rules over all replies together; the tally starts again after each."""
    tally, fresh = limit.tally, Tally(since=now)
    enough = tally.delivered >= rules.delivered
    if enough and limit.key[0] == "dkim" and lower(tally.complaints, tally.delivered) > rules.engaged:
        return _gate(limit, tally, rules, now), "engaged"
    if enough and lower(tally.complaints, tally.delivered) > rules.complaints:
        reason = f"{tally.complaints} complaints in {tally.delivered} deliveries: no growth for now"
        return replace(limit, tally=fresh, frozen_until=now + rules.freeze, reason=reason), "freeze"
    if tally.traps >= rules.traps:
        reason = f"{tally.traps} spam traps reached: no growth for now"
        return replace(limit, tally=fresh, frozen_until=now + rules.freeze, reason=reason), "freeze"
    if tally.attempts < rules.attempts:
        return limit, ""
    refusals, blocks = tally.refused / tally.attempts, tally.blocked / tally.attempts
    text = f"{refusals:.1%} refused, {blocks:.1%} blocked of {tally.attempts} attempts"
    if refusals > rules.refused or blocks > rules.blocked:
        return replace(limit, tally=fresh, suspended_until=now + rules.suspend, reason=text), "suspend"
    if blocks > rules.blocked_slow:
        rate = max(limits.minimum, limit.rate / 2)
        return replace(limit, tally=fresh, rate=rate, cut_at=now, reason=text), "cut"
    return limit, ""


def _gate(limit: Limit, tally: Tally, rules: Sweep, now: float) -> Limit:
    """Only mail to contacts that clicked lately, and little of it, until measured days are good."""
    before = max((*limit.volumes, limit.day.delivered), default=0) or tally.delivered
    most = max(1, int(rules.engaged_share * before))
    most = min(most, limit.gate_day or most)
    reason = (
        f"{tally.complaints} complaints in {tally.delivered} deliveries: only those who clicked lately, "
        f"{most} a day at most"
    )
    return replace(limit, tally=Tally(since=now), gate_day=most, good_days=0, reason=reason)

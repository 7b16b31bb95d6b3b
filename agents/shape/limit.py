"""The state of one limit (source x provider, or DKIM domain x provider) and what it measured lately."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace as with_fields

from agents.shape.figures import Limits, Plan, Sweep
from agents.shape.warm import NO_DAY, PACE, Day, Warm, begun
from schemas.lane_policy import LanePolicy

Kind = Literal["source", "dkim", "from"]
Key = tuple[Kind, str, str]
"""Which limit: kind, name (a source, a DKIM domain, or the address in From, over all providers alone), provider."""
MAX_SAMPLES = 600
MANY, LONGEST = 10, 600.0
"""A slow limit is looked at over as long as it takes so many mails, at most so many seconds: two say nothing."""
NO_PLANS: Mapping[str, Plan] = {}


class Sample(NamedTuple):
    """One report's part in the window. ``stream``: the worker and what else tells its reports apart."""

    time: float
    stream: tuple[str, str]
    seconds: float
    attempts: int
    throttled: int
    connections: int = 0
    busy: int = 0
    turned: int = 0
    """Attempts turned away with other words than "too fast","""
    vague: int = 0
    """those of them whose words name neither the DKIM domain nor our setup."""


class Measured(NamedTuple):
    """Attempts/s, share of them throttled, replies throttled; ``taken``: what the provider took, per second.

    ``taken`` is of the newest reports: the average over a ramp lags behind, and holds what a provider
    lets through before it starts counting. Few messages make the newest report a matter of luck.
    """

    rate: float
    share: float
    throttled: int
    attempts: int
    streams: int
    taken: float
    turned: int = 0
    vague: int = 0


UNMEASURED = Measured(0.0, 0.0, 0, 0, 0, 0.0)


class Hit(NamedTuple):
    """Replies that count towards a reaction."""

    reaction: str
    time: float
    replies: int


class Tally(NamedTuple):
    """Sums since ``since`` (Unix seconds), for the sweeping rules."""

    since: float = 0.0
    attempts: int = 0
    delivered: int = 0
    refused: int = 0
    blocked: int = 0
    complaints: int = 0
    traps: int = 0

    def add(self, now: float, sweep: Sweep, **counts: int) -> Tally:
        """The tally with ``counts`` added; when the window is over, half of it carries over."""
        old = self
        if now - old.since > sweep.window:
            kept = now - old.since < 2 * sweep.window
            old = Tally(now, *(count // 2 if kept else 0 for count in self[1:]))
        return old._replace(**{name: getattr(old, name) + count for name, count in counts.items()})


NO_TALLY = Tally()


class Limit(Struct, frozen=True):
    """What shape knows about one limit. Rates in messages/s, times in Unix seconds, 0 = never.

    ``rate`` is the law's; ``ceiling`` the rate at which the provider pushed back last (0: not known);
    ``probes`` raises near it since; ``cap_*`` a reaction's passing cap; ``frozen_until``: no growth before.
    ``connections`` allowed (0: as configured), changed at ``connected_at``, not more before
    ``connections_until``; ``carried`` messages/s when there was last one more; ``per_connection``: messages that one is known to carry, believed until
    ``per_connection_until``.
    """

    key: Key
    rate: float
    seen_at: float
    ceiling: float = 0.0
    probes: int = 0
    met: int = 0
    """How often in a row the ceiling was met where it was before."""
    cut_at: float = 0.0
    raised_at: float = 0.0
    throttled_at: float = 0.0
    pushed_at: float = 0.0
    """Since when it is throttled again and again, never quiet for long."""
    suspended_until: float = 0.0
    cap_rate: float = 0.0
    cap_until: float = 0.0
    frozen_until: float = 0.0
    connections: int = 0
    connected_at: float = 0.0
    connections_until: float = 0.0
    carried: float = 0.0
    per_connection: int = 0
    per_connection_until: float = 0.0
    proven: float = 0.0
    """The rate that the provider took for long, last at ``proven_at``."""
    proven_at: float = 0.0
    worded_until: float = 0.0
    """Words that speak of no rate are believed to mean one, after ``worded`` cuts for them in a row."""
    worded: int = 0
    stopped_at: float = 0.0
    """When an order to stop was obeyed, until the rate is back near ``proven``; 0: none."""
    reason: str = ""
    samples: tuple[Sample, ...] = ()
    hits: tuple[Hit, ...] = ()
    tally: Tally = NO_TALLY
    warm: Warm | None = None
    """Where its warm-up stands; None: the law alone."""
    day: Day = NO_DAY
    volumes: tuple[int, ...] = ()
    """Delivered on the days before, the newest last."""
    gate_day: int = 0
    """Messages a day while only engaged contacts should get any (0: all may)."""
    good_days: int = 0
    ordered: float = 0.0

    def caps(self) -> tuple[int, int] | None:
        """(messages a day, messages in any hour), or None where nothing is counted."""
        found = [(self.warm.per_day, self.warm.per_hour)] if self.warm else []
        if self.gate_day:
            found.append((self.gate_day, max(1, self.gate_day // 5)))
        return (min(day for day, _ in found), min(hour for _, hour in found)) if found else None

    def paced(self, limits: Limits) -> Limits:
        """``limits`` for the law: in warm-up it may go far below the usual minimum."""
        caps = self.caps()
        if caps is None:
            return limits
        return replace(limits, minimum=min(limits.minimum, PACE * caps[1] / 3600 / 10))

    def sampled(self, sample: Sample, window: float) -> Limit:
        """With one sample more, without those older than ``window`` seconds, or what MANY mails take at this rate."""
        window = max(window, min(LONGEST, MANY / max(self.rate, 1e-6)))
        kept = [old for old in self.samples[-MAX_SAMPLES:] if old.time > sample.time - window]
        last = kept[-1] if kept else None
        if (
            last is not None
            and last.stream == sample.stream
            and not (last.attempts or sample.attempts or last.busy or sample.busy)
        ):
            kept.pop()  # a slow lane is silent for most of its seconds
            sample = sample._replace(seconds=sample.seconds + last.seconds)
        return with_fields(self, samples=(*kept, sample), seen_at=sample.time)

    def measured(self, after: float = 0.0) -> Measured:
        """Sums over the samples taken after ``after``.

        Workers report out of step, so each stream of reports is averaged over its own seconds.
        """
        if not self.samples or self.samples[-1].time <= after:
            return UNMEASURED
        sums: dict[tuple[str, str], tuple[float, int, int]] = {}
        last: dict[tuple[str, str], Sample] = {}
        for sample in self.samples:
            if sample.time > after:
                seconds, attempts, throttled = sums.get(sample.stream, (0.0, 0, 0))
                seconds, attempts = seconds + sample.seconds, attempts + sample.attempts
                sums[sample.stream] = (seconds, attempts, throttled + sample.throttled)
                last[sample.stream] = sample
        attempts = sum(count for _, count, _ in sums.values())
        throttled = sum(count for _, _, count in sums.values())
        newest = sum(max(0, sample.attempts - sample.throttled) / sample.seconds for sample in last.values())
        average = sum(max(0, tried - slow) / seconds for seconds, tried, slow in sums.values())
        few = sum(sample.attempts for sample in last.values()) < 10
        return Measured(
            rate=sum(count / seconds for seconds, count, _ in sums.values()),
            share=min(1.0, throttled / attempts) if attempts else float(throttled > 0),
            throttled=throttled,
            attempts=attempts,
            streams=len(sums),
            taken=max(newest, average) if few else newest,
            turned=sum(sample.turned for sample in self.samples if sample.time > after),
            vague=sum(sample.vague for sample in self.samples if sample.time > after),
        )

    def newest(self, after: float) -> tuple[int, int]:
        """(attempts, throttled or turned away) of the newest report of each stream, where it came after ``after``."""
        last = {sample.stream: sample for sample in self.samples if sample.time > after}
        return sum(s.attempts for s in last.values()), sum(s.throttled + s.turned for s in last.values())

    def answered(self, after: float) -> tuple[int, int]:
        """(attempts, throttled or turned away) of the last report that had any, where it came after ``after``."""
        found = next((sample for sample in reversed(self.samples) if sample.attempts), None)
        return (found.attempts, found.throttled + found.turned) if found and found.time > after else (0, 0)

    def room(self, limits: Limits) -> int:
        """Connections allowed now, over all workers."""
        return min(max(limits.connections, limits.max_connections), self.connections or limits.connections)

    def carries(self, limits: Limits, now: float) -> int:
        """Messages that one connection may carry."""
        known = self.per_connection if now < self.per_connection_until else limits.per_connection
        return min(known, limits.per_connection)

    def opened(self, but: str = "") -> int:
        """Connections open by the newest reports of all workers, ``but`` of one."""
        # A worker's DKIM domains share its connections to a source: each of its reports counts them all.
        # At the limit of a DKIM domain, the same of several sources would add up; it never grows there.
        found: dict[str, int] = {}
        for sample in self.samples:
            if sample.stream[0] != but:
                found[sample.stream[0]] = sample.connections
        return sum(found.values())

    def short(self) -> float:
        """Seconds since the last change of which reports say: all connections were busy while a mail could have gone."""
        return sum(s.seconds for s in self.samples if s.busy > 0 and s.time > self.connected_at)

    def policy(self, limits: Limits, now: float) -> LanePolicy:
        """What workers are told, and what the next leader has to remember."""
        kind, name, provider = self.key
        capped = now < self.cap_until
        rate = min(self.rate, self.cap_rate) if capped and self.cap_rate else self.rate
        caps = self.caps()
        if caps is not None:
            rate = min(rate, PACE * caps[1] / 3600)
        return LanePolicy(
            kind=kind,
            name=name,
            provider=provider,
            rate=rate,
            minimum=0.0 if caps else min(limits.minimum, rate),  # nobody counts a floor
            connections=self.room(limits),
            per_connection=self.carries(limits, now),
            suspended_until=self.suspended_until,
            reason=self.reason,
            time=now,
            base=self.rate,
            ceiling=self.ceiling,
            cut_at=self.cut_at,
            raised_at=self.raised_at,
            cap_until=self.cap_until if capped else 0.0,
            frozen_until=self.frozen_until,
            connections_until=self.connections_until,
            per_connection_until=self.per_connection_until,
            plan=self.warm.plan if self.warm else "",
            step=self.warm.step if self.warm else 0,
            day=tuple(self.day) if caps or self.volumes else (),
            volumes=self.volumes,
            engaged_only=bool(self.gate_day),
            gate_day=self.gate_day,
            good_days=self.good_days,
            seen=self.seen_at,
            ordered=self.ordered,
            proven=self.proven,
            proven_at=self.proven_at,
            stopped_at=self.stopped_at,
        )


def restored(policy: LanePolicy, limits: Limits, plans: Mapping[str, Plan] = NO_PLANS) -> Limit:
    """A limit as the last leader left it, clamped to today's ``limits``; a plan that is gone is over."""
    plan = plans.get(policy.plan)
    warm = begun(policy.plan, plan, policy.step) if plan else None
    least = limits.minimum if warm is None and not policy.gate_day else 0.0
    base = policy.base or policy.rate
    capped = policy.cap_until > policy.time
    return Limit(
        (policy.kind, policy.name, policy.provider),
        rate=min(limits.maximum, max(least, base)),
        seen_at=max(policy.time, policy.seen),
        ceiling=policy.ceiling,
        cut_at=policy.cut_at,
        raised_at=policy.raised_at,
        suspended_until=policy.suspended_until,
        cap_rate=policy.rate if capped else 0.0,
        cap_until=policy.cap_until,
        frozen_until=policy.frozen_until,
        connections=policy.connections,
        connected_at=policy.time,
        connections_until=policy.connections_until,
        per_connection=policy.per_connection,
        per_connection_until=policy.per_connection_until,
        proven=min(limits.maximum, policy.proven),
        proven_at=policy.proven_at,
        stopped_at=policy.stopped_at,
        reason=policy.reason,
        warm=warm,
        day=Day(policy.day[0], *map(int, policy.day[1:8])) if policy.day else NO_DAY,
        volumes=policy.volumes,
        gate_day=policy.gate_day,
        good_days=policy.good_days,
        ordered=policy.ordered,
    )

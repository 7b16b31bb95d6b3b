"""One model, one policy, so many days: the clock jumps, finely where things change, by minutes where not."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from schemas.lane_report import LaneReport, Reply
from schemas.reply import Rules, classify
from streams.ops.simulate.ideal import Ideal, Permit
from streams.ops.simulate.measures import Measures
from streams.ops.simulate.provider import DAY, HOUR, Provider
from streams.ops.simulate.providers_file import Model
from streams.ops.simulate.senders import DKIM, SOURCE, Allowed, Sender

START = 1_767_225_600.0
"""Unix seconds at which a simulation begins: a midnight."""
FINE, MIDDLE, COARSE, CALM, AWAY = 2.0, 10.0, 60.0, 150.0, 600.0
"""Seconds of a step: right after something changed, for a while after, and when nothing does."""
RETRY = 600.0
"""Seconds after which a deferred message is tried again, as on the first rungs of the wait ladder."""
ENDLESS = 1e12


def arrived(model: Model, now: float) -> float:
    """Messages that have come since the start (seconds); always more than is taken where demand is 0."""
    if not model.demand:
        return ENDLESS
    day, rest = divmod(now, DAY)
    part = rest / DAY
    if model.pattern == "burst":
        part = min(1.0, max(0.0, (rest - 9 * HOUR) / HOUR))
    elif model.pattern == "day":
        turn = 2 * math.pi
        part -= (math.sin(turn * (part - 14 / 24)) + math.sin(turn * 14 / 24)) / -turn
    return model.demand * (day + part)


@dataclass(slots=True)
class Queue:
    """Mail to send: new, to be tried again now, and later."""

    new: float = 0.0
    again: float = 0.0
    later: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    def wait(self, amount: float, due: float) -> None:
        """So much again at ``due``."""
        if amount:
            self.later[int(due // COARSE) + 1] += amount

    def due(self, now: float) -> float:
        """What may go now."""
        if self.later:
            for slot in [slot for slot in self.later if slot * COARSE <= now]:
                self.again += self.later.pop(slot)
        return self.new + self.again

    def take(self, amount: float) -> float:
        """Take so much, those that waited first; how much of it is new."""
        old = min(self.again, amount)
        self.again -= old
        self.new -= amount - old
        return amount - old


class Replies:
    """The reply texts of a model, read as production reads them."""

    def __init__(self, rules: Rules, model: Model) -> None:
        self._rules, self._provider = rules, model.policy_name
        self._known: dict[tuple[str, str], Reply] = {}

    def of(self, text: str, count: int, phase: str = "mail", open: int = -1, carried: int = 0) -> Reply:
        """A report's line for ``count`` replies of this text."""
        found = self._known.get((text, phase))
        if found is None:
            said = classify(self._rules, text, provider=self._provider, phase=phase)
            found = Reply(
                klass=said.klass, action=said.action, scope=said.scope, rule=said.rule, sample=text[:300]
            )
            self._known[text, phase] = found
        return Reply(
            klass=found.klass, action=found.action, scope=found.scope, rule=found.rule,
            sample=found.sample, count=count, open=open, carried=carried,
        )  # fmt: skip


class Run:
    """A simulation of one model under one policy."""

    def __init__(
        self, model: Model, sender: Sender, permit: Permit, rules: Rules, phase: float = 0.0,
        coarse: float = COARSE,
    ) -> None:  # fmt: skip
        self.model, self.sender = model, sender
        self.provider = Provider(model, phase)
        self.ideal = Ideal(model, Provider(model, phase), permit)
        self.replies = Replies(rules, model)
        self.queue = Queue()
        self.measures = Measures(model, permit.first)
        self._coarse = coarse
        spans = [(span.day, span.hours) for span in model.drops]
        spans += [(span.day, span.hours) for span in model.suspensions]
        spans += [(span.day, span.hours) for span in model.spikes]
        self._edges = sorted(edge for day, hours in spans for edge in (day * DAY, day * DAY + hours * HOUR))
        self._arrived = self._idle = self._carry = self._bounced = self._grey = 0.0
        self._complaints: dict[int, float] = defaultdict(float)
        self._told, self._owed, self._number = 0, 0.0, 0
        self._disturbed = self._changed = self._refused = -HOUR
        self._late, self._rate = False, 0.0

    def run(self, days: float) -> Measures:
        """Let ``days`` pass."""
        now, end = 0.0, days * DAY
        while now < end:
            seconds = min(self._step_length(now), end - now)
            self._step(now, max(0.5, seconds))
            now += max(0.5, seconds)
        self.measures.finish(end)
        return self.measures

    def _step_length(self, now: float) -> float:
        """As long as nothing can happen within it that the law would have seen sooner, reports being a second apart."""
        allowed = self.sender.allowed(START + now)
        away = allowed.suspended_until - START - now
        if away > 0:
            length = min(AWAY, max(FINE, away))
        elif self._coarse > COARSE:
            length = self._coarse
        else:
            if allowed.rate != self._rate:
                self._disturbed = self._disturbed if allowed.rate > self._rate and not self._late else now
                self._changed, self._rate = now, allowed.rate
            length = self._watched(now) if self._late else self._until_refused(now, allowed)
        while self._edges and self._edges[0] <= now:
            self._edges.pop(0)
        if self._edges:
            length = min(length, self._edges[0] - now)
        return min(length, HOUR - now % HOUR)

    def _watched(self, now: float) -> float:
        """While it is refused: closely at first and after each change, then by minutes."""
        since = now - self._disturbed
        return FINE if since < 20 else MIDDLE if since < 180 else COARSE

    def _until_refused(self, now: float, allowed: Allowed) -> float:
        """While all is taken: up to the step in which it would first be refused; that one is looked at closely."""
        calm = COARSE if now - self._changed < 300 else CALM
        return next(
            length
            for length in (calm, COARSE / 2, MIDDLE, FINE)
            if length == FINE or self._takes(now, length, allowed)
        )

    def _takes(self, now: float, seconds: float, allowed: Allowed) -> bool:
        """Whether all that would be tried in so many seconds would be taken."""
        carried = min(allowed.connections, self.model.connections) / self.model.latency
        wants = min(self.queue.new + self.queue.again, min(allowed.rate, carried) * seconds)
        return 0.99 * wants <= self.provider.room(now, seconds) + 1

    def _step(self, now: float, seconds: float) -> None:
        model, allowed = self.model, self.sender.allowed(START + now)
        self._arrive(now + seconds)
        waiting = self.queue.due(now)
        stopped = START + now < allowed.suspended_until
        saved = min(self._carry, max(1.0, 0.5 * allowed.rate))  # a bucket of half a second
        budget = 0.0 if stopped else saved + allowed.rate * seconds
        usable = min(allowed.connections, model.connections)
        carried = usable / model.latency * seconds
        attempts = int(min(waiting, budget, carried, allowed.most))
        self._carry = budget - attempts if attempts < budget else 0.0
        busy = carried < min(waiting, budget)
        open_now = usable if busy else min(usable, math.ceil(attempts / seconds * model.latency * 1.2))
        asked = allowed.connections if busy else open_now
        answer = self.provider.offer(now, seconds, attempts, asked, allowed.each)
        late = answer.throttled > 0
        if late and now - self._refused > 300:
            self._disturbed = now  # no news where it comes and goes
        self._refused = now if late else self._refused
        self._late = late
        new = self.queue.take(attempts)
        grey, bounced = self._taken(now, answer.taken, new / attempts if attempts else 0.0)
        self.queue.wait(answer.throttled, now + RETRY)
        self.queue.wait(answer.spent, now)
        delivered = answer.taken - grey - bounced
        self._complaints[int((now + model.complaint_hours * HOUR) // HOUR)] += (
            delivered * self.provider.complained(now)
        )
        best = self.ideal.step(now, seconds)
        # What a provider takes of a pair that it does not know yet is a deferral, for another reason.
        self.measures.step(
            now, seconds, attempts, answer, delivered, allowed, best, self.provider, self.ideal.pace(),
            waiting - attempts, stopped or (late and self.provider.ordered(now)),
        )  # fmt: skip
        self._report(now + seconds, seconds, attempts, answer, delivered, bounced, grey, busy, open_now)

    def _arrive(self, now: float) -> None:
        came = arrived(self.model, now)
        self.queue.new += came - self._arrived
        self.ideal.arrive(came - self._arrived)
        self._arrived = came

    def _taken(self, now: float, taken: int, new: float) -> tuple[int, int]:
        """Of those that the budget let in: (greylisted, bounced)."""
        model = self.model
        first = taken * new
        if model.greylist:
            self._grey += first * model.fresh
        self._bounced += first * model.unknown
        grey, bounced = int(self._grey), int(self._bounced)
        self._grey -= grey
        self._bounced -= bounced
        self.queue.wait(grey, now + max(RETRY, model.greylist))
        return grey, min(bounced, taken - grey)

    def _report(
        self, now: float, seconds: float, attempts: int, answer: object, delivered: int, bounced: int,
        grey: int, busy: bool, open_now: int,
    ) -> None:  # fmt: skip
        provider, replies = self.provider, []
        if answer.throttled:  # type: ignore[attr-defined]
            replies.append(self.replies.of(answer.text, answer.throttled))  # type: ignore[attr-defined]
        if answer.spent:  # type: ignore[attr-defined]
            carried = self.model.per_connection
            replies.append(self.replies.of(provider.text("messages"), answer.spent, carried=carried))  # type: ignore[attr-defined]
        if answer.crowded:  # type: ignore[attr-defined]
            text = provider.text("connections")
            replies.append(self.replies.of(text, 1, phase="connect", open=self.model.connections))
        if bounced:
            replies.append(self.replies.of(provider.text("unknown"), bounced, phase="rcpt"))
        if grey:
            replies.append(self.replies.of(provider.text("greylist"), grey, phase="rcpt"))
        self._number += 1
        who = {"worker": "simulated", "provider": self.model.policy_name, "source": SOURCE, "dkim": DKIM}
        report = LaneReport(
            **who,  # type: ignore[arg-type]
            number=self._number,
            time=START + now,
            seconds=seconds,
            attempts=attempts,
            delivered=delivered,
            deferred=attempts - delivered - bounced,
            bounced=bounced,
            waiting=int(min(self.queue.new + self.queue.again, 10_000)),
            connections=open_now,
            # One worker reports once in a step; in production it would every second.
            busy=int(busy),
            partitions=1,
            replies=tuple(replies),
        )
        self.sender.report(report, START + now)
        hour = int(now // HOUR)
        if hour > self._told:
            for due in range(self._told, hour):
                self._owed += self._complaints.pop(due, 0.0)
            self._told = hour
            if self._owed >= 1:
                count = int(self._owed)
                self._owed -= count
                self._number += 1
                feedback = LaneReport(
                    **who, number=self._number, time=START + now, kind="feedback", complaints=count  # type: ignore[arg-type]
                )  # fmt: skip
                self.sender.report(feedback, START + now)

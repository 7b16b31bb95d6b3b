"""What a sender would have had taken who knows every hidden budget and keeps the warm-up plan and the gates.

Capacity is what this one gets: the least of what the provider takes, what plan and gates permit and what
there is to send. Plan and gates are the law's own code over days that nobody refused anything.
"""

from __future__ import annotations

from collections import defaultdict, deque

from msgspec.structs import replace

from agents.shape.day import end_day
from agents.shape.figures import Limits, Settings
from agents.shape.limit import Limit
from agents.shape.react import sweep
from agents.shape.warm import PACE, begun
from streams.ops.simulate.provider import DAY, HOUR, Provider
from streams.ops.simulate.providers_file import Model

ANY = float("inf")


class Permit:
    """The plan and the gate on complaints of one sender: how much it may send yet. Times from the start."""

    def __init__(
        self, settings: Settings, limits: Limits, model: Model, plan: str = "", step: int = 0
    ) -> None:
        self._settings, self._limits, self._model = settings, limits, model
        warm = begun(plan, settings.plans[plan], step) if plan else None
        # Of a DKIM domain, so that its gate counts too; its plan is the same.
        self._limit = Limit(("dkim", "ideal", model.policy_name), limits.start, 0.0, warm=warm)
        self.first = warm.per_day if warm else 0
        """Messages of the plan's first day."""
        self._day_end, self._spent, self._fullest = DAY, 0, 0
        self._hour: deque[tuple[float, int]] = deque()
        self._lately = 0
        self._complaints: dict[int, float] = defaultdict(float)
        self._owed = 0.0

    def left(self, now: float) -> float:
        """Messages that may be sent now."""
        caps = self._limit.caps()
        if caps is None:
            return ANY
        self._roll(now)
        return max(0.0, min(caps[0] - self._spent, caps[1] - self._lately))

    def pace(self) -> float:
        """Messages/s over an hour."""
        caps = self._limit.caps()
        return caps[1] / HOUR if caps else ANY

    def sent(self, now: float, seconds: float, count: int, complained: float) -> None:
        """``count`` taken in the ``seconds`` from ``now``, of which ``complained`` (a share) will complain."""
        model, rules = self._model, self._settings.sweep
        # Of a new pair's mail the first copy is greylisted; the rest is delivered, or there is no such user.
        ended = count / (1 + model.fresh) if model.greylist else count
        refused = int(ended * model.unknown)
        delivered = int(ended) - refused
        self._spent += count
        self._lately += count
        if self._hour and now - self._hour[-1][0] < 60:
            self._hour[-1] = (self._hour[-1][0], self._hour[-1][1] + count)
        elif count:
            self._hour.append((now, count))
        self._fullest = max(self._fullest, self._lately)
        hour = int(now // HOUR)
        self._complaints[hour + int(model.complaint_hours)] += delivered * complained
        self._owed += sum(self._complaints.pop(due) for due in list(self._complaints) if due < hour)
        told, self._owed = int(self._owed), self._owed % 1
        counts = {"attempts": count, "delivered": delivered, "bounced": refused, "complaints": told}
        tally = {"refused" if name == "bounced" else name: n for name, n in counts.items()}
        limit = self._limit
        limit = replace(
            limit,
            tally=limit.tally.add(now, rules, **tally),
            day=limit.day.add(**counts, told=1),
        )
        self._limit, _ = sweep(limit, self._limits, rules, now)
        self._roll(now + seconds)

    def _roll(self, now: float) -> None:
        while self._hour and self._hour[0][0] <= now - HOUR:
            self._lately -= self._hour.popleft()[1]
        while now >= self._day_end:
            self._limit, _, _ = end_day(
                self._limit, self._limits, self._settings, self._spent, self._fullest, self._day_end
            )
            self._day_end += DAY
            self._spent = self._fullest = 0


class Ideal:
    """The sender that knows, at a provider of its own."""

    def __init__(self, model: Model, provider: Provider, permit: Permit) -> None:
        self._model, self._provider, self._permit = model, provider, permit
        self._queue = self._saved = 0.0

    def arrive(self, count: float) -> None:
        """So many more to send."""
        # Mail of a new pair comes to a greylister twice, whoever sends it.
        twice = self._model.fresh if self._model.greylist else 0.0
        self._queue += count * (1 + twice)

    def step(self, now: float, seconds: float) -> int:
        """Send what can be sent: how much was taken."""
        allowed = min(self._permit.left(now), PACE * self._permit.pace() * seconds + self._saved)
        could = min(self._provider.room(now, seconds), allowed, self._queue)
        self._saved = allowed - int(could) if allowed - int(could) < 1 else 0.0
        sent = int(could)
        self._queue -= sent
        taken = self._provider.offer(now, seconds, sent, 1, 1).taken
        self._permit.sent(now, seconds, taken, self._provider.complained(now))
        return taken

    def pace(self) -> float:
        """Messages/s over an hour that plan and gate permit."""
        return self._permit.pace()

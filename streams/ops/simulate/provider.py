"""A provider that hides what it tolerates: budgets, quotas, reputation, suspensions, greylisting, complaints.

Messages are amounts, not objects: a step of so many seconds with so many attempts is answered at once.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from streams.lab.dialects import DIALECTS
from streams.ops.simulate.providers_file import Model

DAY = 86400.0
HOUR = 3600.0
IP = "192.0.2.10"
SUSPENDED = "421 4.7.0 Mail from {ip} is suspended for now; try again in {hours} hours"


class Answer(NamedTuple):
    """What became of a step's attempts; ``crowded``: connections refused, ``spent``: ended, full of messages."""

    taken: int
    throttled: int
    text: str
    spent: int
    crowded: int


class Provider:
    """One model at work. Times are seconds from the start; the start is a midnight."""

    def __init__(self, model: Model, phase: float = 0.0) -> None:
        self.model = model
        self.reputation = model.reputation
        self.suspended_until = 0.0
        self._order = ("", 0.0)
        self._phase = phase
        self._tokens = self._minute = 0.0
        self._full = True
        self._hour, self._hour_no = 0.0, -1
        self._slots: deque[tuple[float, float]] = deque()
        self._day, self._day_no, self._largest = 0.0, 0, model.established
        self._tries = self._over = self._sent = self._minded = 0.0
        self._texts = {**DIALECTS[model.dialect_used], "suspended": SUSPENDED, **model.replies}

    def text(self, situation: str) -> str:
        """The reply for a situation, as it goes over the wire."""
        said = self._texts.get(situation) or DIALECTS["plain"][situation]
        return said.replace("{ip}", IP).replace("{rcpt}", "user@example.test")

    def order(self, now: float) -> str:
        """The reply while the source is stopped; it tells the hours that are left where it tells any."""
        said, until = self._order
        left = f"{math.ceil(max(0.0, until - now) / 36) / 100:g}"
        return said.replace("{ip}", IP).replace("{hours}", left)

    def factor(self, now: float) -> float:
        """The part of its nominal budgets that it grants now."""
        model = self.model
        part = model.worst + (1 - model.worst) * self.reputation
        for drop in model.drops:
            if drop.day * DAY <= now < drop.day * DAY + drop.hours * HOUR:
                part *= drop.to
        if model.wander:
            part *= 1 + model.wander * math.sin(2 * math.pi * (now / DAY + self._phase))
        return part

    def ordered(self, now: float) -> bool:
        """Whether it has stopped the source, by its script or for the source's behaviour."""
        for pause in self.model.suspensions:
            if pause.day * DAY <= now < pause.day * DAY + pause.hours * HOUR:
                self._order = (pause.reply or self._texts["suspended"], pause.day * DAY + pause.hours * HOUR)
                return True
        if now < self.suspended_until:
            self._order = (self._texts["suspended"], self.suspended_until)
            return True
        return False

    def pace(self, now: float) -> float:
        """Messages/s that it takes for an hour and more, while the day's quotas are not used up; inf: any."""
        model = self.model
        found = (
            model.rate or math.inf,
            (model.per_minute or math.inf) / 60,
            (model.per_hour or math.inf) / HOUR,
        )
        return min(self.factor(now) * min(found), model.connections / model.latency)

    def usual(self, now: float) -> float:
        """Messages/s over a whole day: what refusals are measured by."""
        model = self.model
        days = [self.factor(now) * model.per_day] if model.per_day else []
        if model.established:
            days.append(model.growth * self._largest)
        return min([self.pace(now), *(day / DAY for day in days)])

    def room(self, now: float, seconds: float) -> float:
        """Messages that it would take evenly over the next ``seconds``."""
        if self.ordered(now):
            return 0.0
        self._roll(now)
        model, part = self.model, self.factor(now)
        rooms = [model.connections / model.latency * seconds]
        if model.rate:
            rooms.append(min(self._tokens, part * model.rate * model.burst) + part * model.rate * seconds)
        if model.per_minute:
            rooms.append(min(self._minute, part * model.per_minute) + part * model.per_minute / 60 * seconds)
        if model.per_hour:
            rooms.append(part * model.per_hour - self._hour)
        if model.per_day:
            rooms.append(part * model.per_day - self._day)
        if model.established:
            rooms.append(model.growth * self._largest - self._day)
        return max(0.0, min(rooms))

    def _roll(self, now: float) -> None:
        """Clock windows that are over begin again."""
        model = self.model
        if self._full:
            self._tokens, self._minute, self._full = model.rate * model.burst, model.per_minute, False
        if int(now // DAY) != self._day_no:
            self._largest = max(self._largest, self._day)
            self._day, self._day_no = 0.0, int(now // DAY)
        if model.sliding:
            while self._slots and self._slots[0][0] <= now - HOUR:
                self._hour -= self._slots.popleft()[1]
        elif int(now // HOUR) != self._hour_no:
            self._hour, self._hour_no = 0.0, int(now // HOUR)

    def offer(self, now: float, seconds: float, attempts: int, connections: int, each: int) -> Answer:
        """``attempts`` evenly over ``seconds`` on so many connections, with ``each`` messages on one at most."""
        model = self.model
        stopped = self.ordered(now)
        room = 0.0 if stopped else self.room(now, seconds)
        spent = int(attempts / (model.per_connection + 1)) if each > model.per_connection else 0
        tried = attempts - spent
        taken = math.floor(min(tried, room) + 1e-6)
        throttled = tried - taken
        part = self.factor(now)
        if model.rate:
            earned = self._tokens + part * model.rate * seconds
            self._tokens = max(0.0, min(part * model.rate * model.burst, earned - taken))
        if model.per_minute:
            earned = self._minute + part * model.per_minute / 60 * seconds
            self._minute = max(0.0, min(part * model.per_minute, earned - taken))
        self._hour += taken
        if model.sliding and taken:
            if self._slots and now - self._slots[-1][0] < 30:
                self._slots[-1] = (self._slots[-1][0], self._slots[-1][1] + taken)
            else:
                self._slots.append((now, taken))
        self._day += taken
        self._judge(now, seconds, tried, throttled, taken)
        crowded = int(attempts > 0 and connections > model.connections)
        text = (self.order(now) if stopped else self.text("rate")) if throttled else ""
        return Answer(taken, throttled, text, spent, crowded)

    def complained(self, now: float) -> float:
        """Complaints per message delivered now."""
        for spike in self.model.spikes:
            if spike.day * DAY <= now < spike.day * DAY + spike.hours * HOUR:
                return spike.to
        return self.model.complaints

    def _judge(self, now: float, seconds: float, tried: float, throttled: float, taken: float) -> None:
        """Reputation falls with refusals that are not heeded and with complaints, rises with clean mail."""
        model = self.model
        fade = math.exp(-seconds / HOUR)
        self._over = self._over * fade + throttled
        self._tries = self._tries * fade + tried
        fade = math.exp(-seconds / DAY)
        self._sent = self._sent * fade + taken
        self._minded = self._minded * fade + taken * self.complained(now)
        if self._tries < 0.5:  # nothing within the last hour
            return
        share = self._over / max(self.usual(now) * HOUR, 100.0)
        worse = 0.0
        if throttled and share > model.patience:
            worse = min(1.0, (share - model.patience) / max(0.05, model.patience))
        if self._sent > 1000 and self._minded > model.tolerance * self._sent:
            worse = max(worse, min(1.0, self._minded / max(1e-6, model.tolerance * self._sent) - 1))
        if worse:
            self.reputation = max(0.0, self.reputation - model.harm * worse * seconds / HOUR)
        elif not throttled:
            self.reputation = min(1.0, self.reputation + model.gain * seconds / DAY)
        if model.suspend_share and share > model.suspend_share and now >= self.suspended_until:
            self.suspended_until = now + model.suspend_hours * HOUR
            self._over = 0.0

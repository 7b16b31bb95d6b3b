"""Lane by lane, step by step, until the campaign's last mail has left. Pure: the same arguments, the same answer.

Steps grow with the time that has passed and divide an hour, so that an hour's cap is met exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from streams.ops.forecast.lane import LEAST, Flow, Lane, Queue
from streams.ops.forecast.rates import Rates, Room

STEPS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
PART = 100
"""A step is at most this part of the time that has passed."""
RESERVE = 0.1
"""Of the rate, for transactional mail, while there is any (``agents.deliver.feed``)."""
SETTLE = 1.0
"""Less than one message: none."""


@dataclass(slots=True)
class _Why:
    seconds: float = 0.0
    first: str = ""
    last: str = ""


@dataclass
class LaneForecast:
    """``finish`` in Unix seconds, 0 = not before the model's end; ``left``: messages that are then still there.

    ``why``: what held it up for the longest time; ``rate`` messages/s, of ours, over the first minute.
    """

    provider: str
    waiting: int
    others: int
    finish: float = 0.0
    left: int = 0
    why: str = ""
    rate: float = 0.0


@dataclass
class _Work:
    lane: Lane
    queue: Queue
    later: deque[tuple[float, Flow, float]]
    found: LaneForecast
    why: dict[str, _Why] = field(default_factory=dict)
    owed: dict[tuple[str, str], float] = field(default_factory=dict)
    """By source and DKIM domain: parts of messages that went and that the law was not told of."""
    sent: float = 0.0
    begun: float = 0.0
    """When there was work for the first time."""

    def held(self, what: str, text: str, seconds: float) -> None:
        found = self.why.setdefault(what, _Why(first=text))
        found.seconds += seconds
        found.last = text

    def told(self) -> str:
        if not self.why:
            return "nothing: it goes at once"
        worst = max(self.why.values(), key=lambda one: one.seconds)
        if worst.first == worst.last:
            return worst.first
        return f"{worst.first}, in the end {worst.last}"


def forecast(
    lanes: Sequence[Lane], rates: Rates, dkim: str, now: float, end: float, held: str = ""
) -> list[LaneForecast]:
    """The forecast of each lane, from ``now`` to at most ``end`` (Unix seconds). ``dkim``: our mail's domain.

    ``held``: why mail that is not in a lane yet comes later, for people.
    """
    work = [
        _Work(
            lane, Queue(lane.lying, lane.window), deque(sorted(lane.later, key=lambda one: one[0])),
            LaneForecast(lane.provider, round(lane.ours()), round(lane.others())),
        )
        for lane in lanes
    ]  # fmt: skip
    todo = [one for one in work if one.found.waiting]
    for one in work:
        if not one.found.waiting:
            one.found.finish = now
    at = now
    while todo and at < end:
        seconds = min(_step(at - now), end - at)
        rates.tick(at)
        for number in range(len(todo)):
            one = todo[(number + int(at)) % len(todo)]  # nobody is always first
            _pass(one, rates, dkim, at, seconds, len(todo), held)
            if at - now < 60:
                one.found.rate = one.sent / (at + seconds - now)
        at += seconds
        todo = [one for one in todo if not one.found.finish]
    for one in work:
        one.found.why = one.told()
        if not one.found.finish:
            one.found.left = round(one.queue.ours + sum(count for _, flow, count in one.later if flow.ours))
    return [one.found for one in work]


def _step(passed: float) -> float:
    return next((step for step in reversed(STEPS) if step <= passed / PART), STEPS[0])


def _pass(one: _Work, rates: Rates, dkim: str, at: float, seconds: float, lanes: int, held: str) -> None:
    """One lane, one step."""
    while one.later and one.later[0][0] <= at + seconds / 2:
        _, flow, count = one.later.popleft()
        one.queue.arrive(flow, count)
    waiting = one.queue.waiting()
    if waiting <= LEAST:
        one.held("later", held or "its mail is due later", seconds)
        return
    one.begun = one.begun or at
    rooms = [_room(rates, "source", name, one.lane.provider, at, seconds, lanes) for name in one.lane.sources]
    signed = _room(rates, "dkim", dkim, one.lane.provider, at, seconds, lanes) if dkim else None
    room = sum(found.messages for found in rooms)
    before = one.queue.ours
    gone, by_dkim, ours = one.queue.serve(room, room if signed is None else signed.messages)
    one.sent += ours
    _tell(one, rates, dkim, rooms, gone, by_dkim, int(min(waiting - gone, 10_000)), at, seconds)
    if one.queue.ours <= LEAST and not any(flow.ours for _, flow, _ in one.later):
        part = gone / room if room > LEAST else 1.0
        one.found.finish = at + seconds * min(1.0, part)
    if before > LEAST and gone >= room - LEAST:
        tight = _tightest(rooms)
        if signed is not None and signed.messages < room:
            tight = signed
        one.held(tight.what, tight.text, seconds)
    elif before > LEAST and signed is not None and by_dkim >= signed.messages - LEAST:
        one.held(signed.what, signed.text, seconds)


def _room(rates: Rates, kind: str, name: str, provider: str, at: float, seconds: float, lanes: int) -> Room:
    found = rates.of(kind, name, provider, at, seconds)  # type: ignore[arg-type]
    wide: list[tuple[str, str]] = [(kind, name)] + (
        [("from", rates.author)] if kind == "dkim" and rates.author else []
    )
    for which, whose in wide:
        over = rates.over_all(which, whose, at)  # type: ignore[arg-type]
        # All lanes want their part of it.
        if over is not None and over.messages / lanes < found.messages:
            found = over._replace(messages=over.messages / lanes)
    return found


def _tightest(rooms: Sequence[Room]) -> Room:
    """Of several sources, what holds most of them up."""
    kinds = [room.what for room in rooms]
    what = max(set(kinds), key=kinds.count)
    found = next(room for room in rooms if room.what == what)
    return found if len(rooms) == 1 else found._replace(text=f"{found.text} ({len(rooms)} sources)")


def _tell(
    one: _Work, rates: Rates, dkim: str, rooms: Sequence[Room], gone: float, signed: float, waiting: int, at: float,
    seconds: float,
) -> None:  # fmt: skip
    """What went, to the law: by source, in whole messages."""
    total = sum(room.messages for room in rooms)
    for name, room in zip(one.lane.sources, rooms, strict=True):
        part = room.messages / total if total > LEAST else 1 / len(rooms)
        for domain, count in ((dkim, signed), ("", gone - signed)):
            owed = one.owed.get((name, domain), 0.0) + count * part
            whole = int(owed + LEAST)
            one.owed[name, domain] = owed - whole
            # The first word of a lane, without a mail yet, begins its day of warm-up.
            if whole or (waiting and domain == dkim and at == one.begun):
                rates.sent(one.lane.provider, name, domain, whole, waiting, at, seconds)

"""What happens, as the topics tell it: counts by lane for the live view, the page and ``mailsluice top``."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from schemas.codec import Malformed, Record, decode, headers_from
from schemas.lane_policy import Decision, LanePolicy
from streams.follow import Follower
from streams.settings import Settings

RECENT = 10.0
"""Seconds over which speeds are averaged."""


@dataclass
class Lane:
    """One source x provider, as the operator sees it."""

    provider: str
    source: str = ""
    states: Counter[str] = field(default_factory=Counter)
    limit: float = 0.0
    connections: int = 0
    suspended_until: float = 0.0
    reason: str = ""
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=50))
    recent: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=5000))

    def speed(self, now: float, state: str = "delivered") -> float:
        """Messages/s of a state over the last seconds."""
        return sum(1 for at, what in self.recent if what == state and at > now - RECENT) / RECENT


class Watcher:
    """Follows the journal, the public events and the policy from a point in time on."""

    def __init__(self, settings: Settings, partitions: int, since: float = 0.0) -> None:
        self._settings = settings
        self._partitions = partitions
        self._since = since
        self._follower = Follower(settings, self._fatal)
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.events: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._ended: dict[str, str] = {}
        self.error = ""

    def _fatal(self, _code: int, why: str) -> None:
        self.error = why

    async def start(self) -> None:
        """Read everything up to now, then follow."""
        await self._follower.start()
        for partition in range(self._partitions):
            for topic, sink in (("mail-outcomes", self._outcomes), ("mail-events", self._events)):
                await self._follower.follow(
                    topic, partition, sink, await self._follower.first(topic, partition)
                )
        await self._follower.follow(
            "mail-lane-policy", 0, self._policy, await self._follower.first("mail-lane-policy", 0)
        )

    async def stop(self) -> None:
        """Stop following."""
        await self._follower.stop()

    def lane(self, provider: str, source: str) -> Lane:
        """The lane, made when first seen."""
        key = (provider, source)
        found = self.lanes.get(key)
        if found is None:
            found = self.lanes[key] = Lane(provider, source)
        return found

    @property
    def done(self) -> int:
        """Mails that have ended, wherever."""
        return len(self._ended)

    def _end(self, origin: str, state: str) -> None:
        old = self._ended.get(origin)
        if old != state:
            if old:
                self.ended[old] -= 1
            self._ended[origin] = state
            self.ended[state] += 1

    def _outcomes(self, messages: Sequence[Any]) -> None:
        for message in messages:
            found = orjson.loads(message.value)
            if found.get("time", 0.0) < self._since or found["state"] == "intent":
                continue
            if found.get("source"):
                lane = self.lane(found.get("provider") or found.get("site") or "other", found["source"])
                lane.states[found["state"]] += 1
                lane.recent.append((found["time"], found["state"]))
            if found["state"] not in ("deferred", "unknown") or found.get("final"):
                self._end(found.get("origin", ""), found["state"])

    def _events(self, messages: Sequence[Any]) -> None:
        for message in messages:
            found = orjson.loads(message.value)
            if found["time"] < self._since:
                continue
            self.events[found["kind"]] += 1
            if found.get("terminal") and not found.get("attempt"):
                self._end(found.get("origin", ""), found["kind"])

    def _policy(self, messages: Sequence[Any]) -> None:
        for message in messages:
            if not message.value:
                continue
            record = Record(
                "mail-lane-policy",
                0,
                message.offset,
                message.timestamp,
                message.key,
                message.value,
                headers_from(message.headers),
            )
            try:
                fact = decode(record, "lane_policy")
            except Malformed:
                continue
            if not isinstance(fact, LanePolicy | Decision) or fact.kind != "source":
                continue
            lane = self.lane(fact.provider, fact.name)
            if isinstance(fact, LanePolicy):
                lane.limit, lane.connections = fact.rate, fact.connections
                lane.suspended_until, lane.reason = fact.suspended_until, fact.reason
            else:
                lane.decisions.append(fact)

    def table(self) -> dict[str, Any]:
        """Everything as plain values, for the page and ``--json``."""
        now = time.time()
        return {
            "time": round(now, 1),
            "done": self.done,
            "ended": {state: count for state, count in sorted(self.ended.items()) if count},
            "events": dict(sorted(self.events.items())),
            "lanes": [
                {
                    "provider": lane.provider,
                    "source": lane.source,
                    "delivered": lane.states["delivered"],
                    "deferred": lane.states["deferred"],
                    "bounced": lane.states["bounced"],
                    "unknown": lane.states["unknown"],
                    "rate": round(lane.speed(now), 1),
                    "limit": round(lane.limit, 1),
                    "connections": lane.connections,
                    "suspended_seconds": max(0, round(lane.suspended_until - now)),
                    "reason": lane.reason,
                    "decisions": [
                        {
                            "time": d.time,
                            "what": d.what,
                            "reason": d.reason,
                            "rate": round(d.rate, 2),
                            "sample": d.sample[:200],
                        }
                        for d in list(lane.decisions)[-5:]
                    ],
                }
                for _, lane in sorted(self.lanes.items())
            ],
        }

"""What waits at one provider: in which order it comes into deliver's sight, and who shares the lane. Pure.

Kafka holds a lane in order; deliver sees a window of it. In the window transactional mail goes first, tenants
share alike and their campaigns by weight (``agents.deliver.fair``); what lies behind it waits for its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

LEAST = 1e-6
"""Messages: less than this is nothing."""


class Flow(NamedTuple):
    """A campaign in a lane. ``signed``: by the DKIM domain of the campaign that is forecast; ``ours``: it is that."""

    tenant: str
    campaign: str
    weight: float = 6.0
    urgent: bool = False
    signed: bool = False
    ours: bool = False


Block = tuple[Flow, float]


@dataclass
class Lane:
    """One provider (or MX site). ``lying``: what is in the lane now, in order; ``later``: (Unix seconds, flow, messages)
    that come, in the order of time. ``sources`` may send ours; ``window``: messages that deliver sees."""

    provider: str
    lying: list[Block] = field(default_factory=list)
    later: list[tuple[float, Flow, float]] = field(default_factory=list)
    sources: tuple[str, ...] = ("default",)
    window: float = 1000.0

    def ours(self) -> float:
        """Messages of ours that are still to go."""
        return sum(count for flow, count in self.lying if flow.ours) + sum(
            count for _, flow, count in self.later if flow.ours
        )

    def others(self) -> float:
        """Messages of others that lie in the lane now."""
        return sum(count for flow, count in self.lying if not flow.ours)


@dataclass(slots=True)
class _Behind:
    flow: Flow
    count: float


class Queue:
    """A lane's mail as it passes."""

    def __init__(self, lying: Iterable[Block], window: float) -> None:
        self._window, self._size = max(1.0, window), 0.0
        self._seen: dict[Flow, float] = {}
        self._behind: deque[_Behind] = deque()
        self._ours = 0.0
        for flow, count in lying:
            self.arrive(flow, count)

    def arrive(self, flow: Flow, count: float) -> None:
        """Mail comes to the end of the lane."""
        self._behind.append(_Behind(flow, count))
        if flow.ours:
            self._ours += count

    @property
    def ours(self) -> float:
        """Messages of ours in the lane."""
        return self._ours

    def waiting(self) -> float:
        """All messages in the lane that deliver sees, or that lie directly behind: whether there is work."""
        self._look()
        return self._size + sum(block.count for block in self._behind)

    def serve(self, room: float, signed: float) -> tuple[float, float, float]:
        """Let ``room`` messages pass, of which at most ``signed`` by our DKIM domain: (all, signed, ours) that went."""
        gone = [0.0, 0.0, 0.0]
        while room > LEAST:
            self._look()
            if self._size <= LEAST:
                break
            part = min(room, max(1.0, self._window / 4))
            went = self._pass(part, max(0.0, signed - gone[1]))
            done = sum(went.values())
            if done <= LEAST:
                break
            for flow, count in went.items():
                self._take(flow, count)
                gone[1] += count if flow.signed else 0.0
                gone[2] += count if flow.ours else 0.0
            gone[0] += done
            room -= done
        return gone[0], gone[1], gone[2]

    def _look(self) -> None:
        """The window takes in what it has room for."""
        while self._behind and self._size < self._window - LEAST:
            block = self._behind[0]
            part = min(block.count, self._window - self._size)
            self._seen[block.flow] = self._seen.get(block.flow, 0.0) + part
            self._size += part
            block.count -= part
            if block.count <= LEAST:
                self._behind.popleft()

    def _take(self, flow: Flow, count: float) -> None:
        left = self._seen[flow] - count
        self._size -= count
        if flow.ours:
            self._ours = max(0.0, self._ours - count)
        if left <= LEAST:
            self._size = max(0.0, self._size - left)
            del self._seen[flow]
        else:
            self._seen[flow] = left

    def _pass(self, room: float, signed: float) -> dict[Flow, float]:
        went: dict[Flow, float] = {}
        for urgent in (True, False):
            flows = {flow: count for flow, count in self._seen.items() if flow.urgent is urgent}
            mine = sum(count for flow, count in flows.items() if flow.signed)
            scale = min(1.0, signed / mine) if mine > LEAST else 1.0
            able = {flow: count * (scale if flow.signed else 1.0) for flow, count in flows.items()}
            for flow, count in _shared(room, able).items():
                went[flow] = count
                room -= count
                signed -= count if flow.signed else 0.0
        return went


def _shared(room: float, able: dict[Flow, float]) -> dict[Flow, float]:
    """``room`` among tenants alike, and among a tenant's campaigns by weight."""
    tenants: dict[str, dict[Flow, float]] = {}
    for flow, count in able.items():
        tenants.setdefault(flow.tenant, {})[flow] = count
    names = list(tenants)
    parts = fill(room, [1.0] * len(names), [sum(tenants[name].values()) for name in names])
    found: dict[Flow, float] = {}
    for name, part in zip(names, parts, strict=True):
        flows = list(tenants[name])
        counts = fill(part, [flow.weight for flow in flows], [tenants[name][flow] for flow in flows])
        found.update(zip(flows, counts, strict=True))
    return found


def fill(room: float, weights: Sequence[float], able: Sequence[float]) -> list[float]:
    """``room`` by weight, nobody more than they are able to take; what one leaves goes to the others."""
    got = [0.0] * len(weights)
    hungry = [at for at in range(len(weights)) if able[at] > LEAST]
    while hungry and room > LEAST:
        total = sum(weights[at] for at in hungry)
        full = [at for at in hungry if able[at] - got[at] <= room * weights[at] / total]
        if not full:
            for at in hungry:
                got[at] += room * weights[at] / total
            break
        for at in full:
            room -= able[at] - got[at]
            got[at] = able[at]
        hungry = [at for at in hungry if at not in full]
    return got

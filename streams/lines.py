"""What a stage has of each topic partition that is its own: what is in work, where it stands, crashes there.

The arithmetic of it: no client is called here. ``streams.runner`` does that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.incarnation import Marks, write_marks
from streams.watermark import Watermark
from streams.work import Work

log = logging.getLogger("mailsluice.runner")
CRASHES_ALONE = 3
"""Starts that ended at one position after which its records are tried one at a time."""
CRASHES_BURIED = 2
"""Starts that ended with the record tried alone, after which it is dead-lettered."""


@dataclass(slots=True, eq=False)
class Line:
    """One topic partition that is ours: what is buffered, in work and finished of it."""

    tp: TopicPartition
    name: str
    reader: AIOKafkaConsumer
    epoch: int
    mark: Watermark
    next: int
    opened_at_poll: int
    marks: Marks
    """What was read of it, to know the log again."""
    crashes: int = 0
    """Starts at this position that took a record and ended without progress."""
    alone: int = 0
    """Records still to be tried one at a time."""
    counted_at: int = -1
    """The position that ``crashes`` is about."""
    begun: bool = False
    """This start is counted in ``crashes`` already."""
    tried: int = 0
    """The poll that last asked for a record to be tried alone."""
    rest: list[Any] = field(default_factory=list)
    """Read already, to be tried alone one after the other."""
    bury: bool = False
    """The next record killed the process when tried alone: it goes to the dead letters unseen."""
    hole: int = -1
    committed: int = -1
    in_work_bytes: int = 0

    def note(self) -> str:
        """What goes with an offset: crashes there, records to try alone, marks of what was read below it."""
        counts = f"c{self.crashes}a{self.alone} " if self.crashes or self.alone else ""
        return (counts + write_marks(self.marks.at(self.mark.position))).strip()

    def advance(self) -> None:
        """Progress clears what was counted against an earlier position."""
        position = self.mark.position
        if position > self.counted_at:
            self.alone = max(0, self.alone - (position - self.counted_at))
            self.crashes, self.counted_at = 0, position

    def judge(self, many: int) -> None:
        """After the crashes that were noted: the next ``many`` records are tried alone, or the next one is buried."""
        if not self.alone and self.crashes >= CRASHES_ALONE:
            log.error(
                "%s@%d: %d starts ended here; its records are tried one by one",
                self.tp,
                self.next,
                self.crashes,
            )
            self.alone, self.crashes = many, 0
        elif self.alone and self.crashes >= CRASHES_BURIED:
            log.error("%s@%d: the record ends the process also when tried alone", self.tp, self.next)
            self.bury, self.crashes = True, 0


class Share:
    """One partition number of the stage: its lines (topics), and the task that works on them in order."""

    def __init__(self, partition: int, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.lines: dict[str, Line] = {}
        self.urgent: deque[Work] = deque()
        self.bulk: deque[Work] = deque()
        self.wake = asyncio.Event()
        self.stopping = False
        self.task: asyncio.Task[None] | None = None
        self.works: dict[tuple[str, int], Work] = {}

    def clear(self) -> None:
        """Nothing of it is ours any more. A record in work knows its share and the share the record: such a ring
        stays until a collection of the oldest objects. Measured: a window of mail, 48 MB, a rebalance."""
        self.urgent.clear()
        self.bulk.clear()
        self.works.clear()
        for line in self.lines.values():
            line.rest.clear()


def read_note(text: str | None) -> tuple[int, int]:
    """Crashes and records to try alone from an offset's metadata: a hint, never truth."""
    if not text or not text.startswith("c"):
        return 0, 0
    crashes, _, alone = text[1:].split(" ")[0].partition("a")
    return (int(crashes) if crashes.isdigit() else 0), (int(alone) if alone.isdigit() else 0)


def beyond(lines: Sequence[Line], window: int) -> tuple[set[str], int]:
    """Topics that hold all of the window (bytes) that they may, and the bytes that each of their lines may hold still.

    A topic may hold as much as it leaves free: one alone the half, the next a quarter; n that grow together a
    part in n + 1 each. So a lane that stands still leaves the others their pace, and their mail its fairness.
    """
    held: dict[str, int] = {}
    for line in lines:
        held[line.name] = held.get(line.name, 0) + line.in_work_bytes
    free = window - sum(held.values())
    return {name for name, size in held.items() if size >= free}, window // max(1, len(lines))

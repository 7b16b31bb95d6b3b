"""How the topics of a stage share the window: a lane that stands still leaves the others room. No broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from schemas.mail import NOW
from streams.incarnation import Marks
from streams.lines import Line, Share
from streams.pipeline import BY_NAME
from streams.runner import WEIGHT, Runner
from streams.settings import Settings
from streams.watermark import Watermark

MAIL = 10_000 + WEIGHT


class Desk:
    """A deliver runner with its lines, of which the test says how much is in work."""

    def __init__(self, partitions: int, window: int = 48_000_000) -> None:
        outbox: Any = SimpleNamespace(full=False, full_now=False, trial=None)
        self.runner = Runner(
            BY_NAME["deliver"], None, Settings(window_bytes=window), outbox, partitions, print,  # type: ignore[arg-type]
            make=lambda *_: SimpleNamespace(), make_swift=lambda _: SimpleNamespace(),  # type: ignore[arg-type, return-value]
        )  # fmt: skip
        self.lines: list[Line] = []
        for number in range(partitions):
            share = self.runner._shares[number] = Share(number, 1)
            share.task = SimpleNamespace()  # type: ignore[assignment]
            for topic in self.runner.stage.topics:
                reader = self.runner._swift if topic.endswith(NOW) else self.runner._consumer
                assert reader is not None
                line = Line(TopicPartition(topic, number), topic, reader, 1, Watermark(0), 0, 0, Marks())
                share.lines[topic] = line
                self.lines.append(line)

    def held(self, topic: str) -> int:
        return sum(line.in_work_bytes for line in self.lines if line.name == topic)

    def fill(self, *topics: str) -> None:
        """These have mail without end, and nothing of it gets done."""
        while True:
            room = {
                tp
                for reader in (self.runner._consumer, self.runner._swift)
                if reader is not None
                for tp in self.runner._with_room(reader)[0]
            }
            mine = [line for line in self.lines if line.tp in room and line.name in topics]
            if not mine:
                return
            for line in mine:
                line.in_work_bytes += MAIL


def test_lanes_that_stand_still_leave_the_others_room() -> None:
    desk = Desk(12)
    slack = 12 * MAIL
    for number, topic in enumerate(("mail-lane-google", "mail-lane-outlook", "mail-lane-yahoo"), 1):
        desk.fill(topic)
        assert abs(desk.held(topic) - 48_000_000 / 2**number) <= slack
    desk.fill("mail-lane-gmx", "mail-lane-google-now")
    assert desk.held("mail-lane-google-now") >= 100 * MAIL
    assert sum(line.in_work_bytes for line in desk.lines) <= 48_000_000 + slack


def test_lanes_that_are_busy_together_have_equal_parts_and_no_partition_is_left_without() -> None:
    desk = Desk(64)
    lanes = [topic for topic in desk.runner.stage.topics if not topic.endswith(NOW)]
    desk.fill(*lanes)
    held = [desk.held(topic) for topic in lanes]
    assert max(held) - min(held) <= 64 * MAIL
    assert all(line.in_work_bytes for line in desk.lines if line.name in lanes)
    assert sum(held) <= 2 * 48_000_000


def test_one_large_record_does_not_keep_the_next_partition_from_its_own() -> None:
    desk = Desk(2, window=1_000_000)
    desk.lines[0].in_work_bytes = 12_000_000
    desk.fill(*desk.runner.stage.topics)
    assert all(line.in_work_bytes for line in desk.lines)

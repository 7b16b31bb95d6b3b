"""Fault points: every one is a real place, the trap falls there once, and a plan comes to all of them."""

from __future__ import annotations

import json
import signal

import pytest

from streams.ops.chaos.plan import BY_NAME, GROUPS, plan, workers
from streams.ops.chaos.points import COMMITS, FLIPS, POINTS, STOPS, TOPICS
from streams.ops.chaos.stumble import Trap
from streams.pipeline import BY_NAME as STAGES
from streams.pipeline import GROUPS as GROUPS_OF_STAGES
from streams.topics import BY_NAME as ALL_TOPICS


class Fallen(BaseException):
    """What stands for the end of the process."""


@pytest.fixture
def trap(tmp_path):
    clock = iter(range(1000))

    def fall(number: int) -> None:
        raise Fallen(number)

    return Trap(tmp_path / "deliver", fall, lambda: float(next(clock)))


def arm(tmp_path, point: str, after: int, act: str = "kill") -> None:
    (tmp_path / "deliver").write_text(json.dumps({"point": point, "after": after, "act": act}))


def test_it_falls_at_the_time_that_was_told_and_takes_the_file_away_before(trap, tmp_path):
    trap.passes("acked", "mail-outcomes")
    arm(tmp_path, "acked mail-outcomes", 2)
    trap.passes("acked", "mail-outcomes")
    trap.passes("before", "mail-outcomes")
    with pytest.raises(Fallen) as fallen:
        trap.passes("acked", "mail-outcomes")
    assert fallen.value.args == (signal.SIGKILL,)
    assert not (tmp_path / "deliver").exists()
    trap.passes("acked", "mail-outcomes")


def test_a_point_may_stand_for_several_topics_and_stop_instead(trap, tmp_path):
    arm(tmp_path, "before mail-wait-*", 1, "stop")
    with pytest.raises(Fallen) as fallen:
        trap.passes("before", "mail-wait-10m")
    assert fallen.value.args == (signal.SIGSTOP,)


def test_who_takes_the_file_away_disarms_it(trap, tmp_path):
    arm(tmp_path, "smtp before dot", 1)
    trap.passes("acked", "mail-outcomes")
    (tmp_path / "deliver").unlink()
    trap.passes("smtp before", "dot")


def test_topics_and_stages_are_those_of_the_group():
    for group, stages in COMMITS.items():
        assert set(stages) <= set(GROUPS_OF_STAGES[group])
    for group, topics in TOPICS.items():
        for topic in topics:
            assert [name for name in ALL_TOPICS if name.startswith(topic.rstrip("*"))]
            written = {out for stage in GROUPS_OF_STAGES[group] for out in STAGES[stage].emits}
            written |= {STAGES[stage].state for stage in GROUPS_OF_STAGES[group]}
            assert group == "hygiene" or any(out.startswith(topic.rstrip("*")) for out in written)
    assert set(STOPS) <= set(POINTS)


def test_as_many_kills_as_points_come_to_each_with_every_flip():
    faults = plan(5, len(POINTS), only=("point-kill",))
    assert {(workers()[f.target], f.point) for f in faults} == {(p.group, p.name) for p in POINTS}
    assert {f.flip for f in faults} == set(FLIPS)
    assert all(1 <= f.after <= 30 for f in faults)
    assert all(str(f).startswith(f"point-kill {f.target} at '{f.point}'") for f in faults)


def test_a_long_plan_comes_to_many_points_of_every_group():
    faults = [f for f in plan(3, 100) if BY_NAME[f.kind].points]
    assert {workers(GROUPS)[f.target] for f in faults} == set(TOPICS)
    assert len({f.point for f in faults}) > 20

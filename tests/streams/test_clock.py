"""A machine's clock that jumps: neither mail nor rows end by it."""

import asyncio

import pytest

from agents.deliver.allowance import Rate
from streams.clock import HOLD, SteadyClock
from tests.support.gates import START, Broker, GateTwo, Servers, mail, virtual


class Machine:
    def __init__(self):
        self.wall, self.steady = START, 50.0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.steady)

    def passes(self, seconds):
        self.wall += seconds
        self.steady += seconds


@pytest.mark.parametrize("jump", [10_000.0, -10_000.0])
def test_a_jump_that_is_set_right_is_never_seen(jump, caplog):
    machine = Machine()
    machine.passes(10)
    assert machine.clock() == START + 10
    machine.wall += jump
    machine.passes(HOLD - 1)
    assert machine.clock() == START + 10 + HOLD - 1
    machine.passes(HOLD - 1)  # from when it was first noticed
    assert machine.clock() == START + 10 + 2 * HOLD - 2
    machine.wall -= jump
    assert machine.clock() == machine.wall == START + 10 + 2 * HOLD - 2
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert f"jumped by {jump:+.0f} s" in texts[0]
    assert "right again" in texts[1]


def test_a_jump_that_lasts_is_believed_in_the_end(caplog):
    machine = Machine()
    machine.wall += 7200
    machine.clock()
    machine.passes(HOLD)
    assert machine.clock() == machine.wall
    machine.passes(1)
    assert machine.clock() == machine.wall
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_another_jump_begins_anew():
    machine = Machine()
    machine.wall += 7200
    machine.clock()
    machine.passes(HOLD - 10)
    machine.wall += 7200
    machine.clock()
    machine.passes(HOLD - 10)
    assert machine.clock() == START + 2 * HOLD - 20


def test_small_corrections_are_followed_without_a_word(caplog):
    machine = Machine()
    for _ in range(100):
        machine.passes(60)
        machine.wall += 0.5
        assert machine.clock() == machine.wall
    assert caplog.records == []


def test_the_real_clocks_agree():
    import time

    assert SteadyClock()() == pytest.approx(time.time(), abs=1)


@pytest.mark.parametrize("jump", [6 * 3600.0, -6 * 3600.0])
def test_a_jump_in_a_running_deliver_ends_no_mail_and_holds_none(jump):
    """Expiry by the steady clock; leases, pace and freshness by the monotonic one."""

    async def story():
        loop = asyncio.get_event_loop()
        off = 0.0
        clock = SteadyClock(lambda: START + loop.time() + off, loop.time)
        made = GateTwo(
            Broker(), Servers(lambda line: line.say(250, "ok")), clock=clock, rate=Rate(50.0, 2, 100, 0.0, "")
        )
        await made.agent.assigned(0)
        await made.take(mail("a", expires=START + 3600))
        await made.ticks(2)
        off = jump
        await made.take(mail("b", expires=START + 3600, offset=1), mail("c", expires=START + 1, offset=2))
        await made.ticks(2)
        assert {o.id: o.state for o in made.broker.outcomes()} == {
            "a": "delivered",
            "b": "delivered",
            "c": "expired",
        }
        assert all(abs(o.time - START) < 60 for o in made.broker.outcomes())

    virtual(story())

"""The wait agent: an alarm clock that forgets nothing and wakes nobody early."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from agents import Out
from agents.wait.agent import STAGE, Wait
from agents.wait.policy import Settings
from schemas.campaign import Campaign, Canary
from schemas.codec import Headers, Record
from schemas.ladder import Rung
from streams.topics import BY_NAME

RUNGS = (Rung("1m", 0.1), Rung("10m", 0.3), Rung("1h", 1.0), Rung("6h", 3.0))


class Paper:
    """A ticket that remembers, and when."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.outs: list[Out] = []
        self.at = 0.0
        self.state = ""
        self.reason = ""

    def emit(self, out: Out, acked: Callable[[], None] | None = None) -> None:
        self.outs.append(out)
        self.at = time.time()

    def done(self) -> None:
        self.state = "done"

    def keep(self) -> None:
        self.state = "kept"

    def reject(self, reason: str, detail: str) -> None:
        self.state, self.reason = "rejected", reason


def paper(due: float, topic: str = "mail-wait-1m", partition: int = 0, **headers: Any) -> Paper:
    texts = {"id": "1", "campaign": "c1", "next": "mail-lane-google-now", "due": f"{due:.3f}", **headers}
    found: Headers = {name: str(text).encode() for name, text in texts.items()}
    return Paper(Record(topic, partition, 1, int(time.time() * 1000), b"key", b"MIME", found))


def agent(campaigns: dict[str, Campaign] | None = None) -> Wait:
    return Wait(Settings(rungs=RUNGS), campaigns if campaigns is not None else {}, time.time)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def test_every_topic_it_writes_exists() -> None:
    assert {*STAGE.emits, *STAGE.topics} <= set(BY_NAME)
    assert not any(topic.endswith("-now") for topic in STAGE.topics)


async def test_records_wake_when_due_in_any_order() -> None:
    wait, now = agent(), time.time()
    papers = [paper(now + 0.08), paper(now + 0.02), paper(now - 5), paper(now + 0.05)]
    await wait.batch(papers, 0)
    assert [p.state for p in papers] == ["kept", "kept", "done", "kept"]
    await until(lambda: all(p.state == "done" for p in papers))
    order = sorted(papers, key=lambda p: p.at)
    assert order == [papers[2], papers[1], papers[3], papers[0]]
    for one, due in zip(papers, (0.08, 0.02, -5, 0.05), strict=True):
        assert one.at >= now + due - 0.002
        (out,) = one.outs
        assert (out.topic, out.value, out.key, out.partition) == ("mail-lane-google-now", b"MIME", b"key", 0)
        assert not {"next", "due"} & set(out.headers)


async def test_a_record_that_is_not_due_takes_the_next_rung() -> None:
    wait = agent()
    one = paper(time.time() + 0.6)
    await wait.batch([one], 0)
    await until(lambda: one.state == "done")
    assert one.outs[0].topic == "mail-wait-10m"
    assert one.outs[0].headers["next"] == b"mail-lane-google-now"
    assert one.outs[0].headers["due"] == one.record.headers["due"]


async def test_a_campaign_that_is_cancelled_while_its_mail_waits() -> None:
    campaigns = {"default/c1": Campaign(id="c1", sender="a@b.de")}
    wait = agent(campaigns)
    one = paper(time.time() + 0.1)
    await wait.batch([one], 0)
    campaigns["default/c1"] = Campaign(id="c1", sender="a@b.de", state="cancelled")
    await until(lambda: one.state == "done")
    (out,) = one.outs
    assert (out.topic, out.value, out.headers["outcome"]) == ("mail-lane-google-now", None, b"cancelled")


async def test_paused_mail_looks_again_and_does_not_spin() -> None:
    wait = agent({"default/c1": Campaign(id="c1", sender="a@b.de", state="paused")})
    one = paper(time.time() - 1)
    await wait.batch([one], 0)
    assert one.outs[0].topic == "mail-wait-10m"
    assert float(one.outs[0].headers["due"]) > time.time() + 0.2


async def test_the_rest_of_a_campaign_waits_for_its_canary() -> None:
    campaigns = {"default/c1": Campaign(id="c1", sender="a@b.de", canary=Canary())}
    wait = agent(campaigns)
    first, rest = paper(time.time() - 1), paper(time.time() - 1, canary="rest")
    await wait.batch([first, rest], 0)
    assert first.outs[0].topic == "mail-lane-google-now"
    assert (rest.outs[0].topic, rest.outs[0].headers["held"]) == ("mail-wait-10m", b"canary")
    campaigns["default/c1"] = Campaign(id="c1", sender="a@b.de", canary=Canary(state="passed"))
    woken = paper(time.time() - 1, canary="rest")
    await wait.batch([woken], 0)
    assert woken.outs[0].topic == "mail-lane-google-now"


async def test_a_forged_record_goes_to_the_dead_letters_and_the_rest_goes_on() -> None:
    wait = agent()
    bad, worse, good = paper(0, next="mail-suppressions"), paper(0, expires="x"), paper(0)
    await wait.batch([bad, worse, good], 0)
    assert (bad.state, bad.reason) == ("rejected", "bad_next")
    assert (worse.state, worse.reason) == ("rejected", "bad_header")
    assert good.state == "done"


async def test_what_waits_for_a_partition_that_went_is_left_to_its_next_owner() -> None:
    wait, now = agent(), time.time()
    gone, stays = paper(now + 0.05, partition=1), paper(now + 0.05, partition=2)
    await wait.batch([gone], 1)
    await wait.batch([stays], 2)
    await wait.revoked(1)
    await until(lambda: stays.state == "done")
    assert gone.state == "kept"
    assert not gone.outs


async def test_one_record_that_fails_does_not_stop_the_clock() -> None:
    class Odd(dict[str, Campaign]):
        def get(self, key: str, default: Any = None) -> Any:
            if key == "default/odd":
                raise KeyError("a bug")
            return default

    wait = agent(Odd())
    bad, good = paper(0, campaign="odd"), paper(0)
    await wait.batch([bad, good], 0)
    assert (bad.state, bad.reason, good.state) == ("rejected", "bug", "done")


async def test_a_clock_that_is_set_back_and_forth_is_noticed() -> None:
    now = [1000.0]
    wait = Wait(Settings(rungs=RUNGS), {}, lambda: now[0])
    one = Paper(
        Record(
            "mail-wait-6h", 0, 1, 1_000_000, None, b"", {"next": b"mail-screened", "due": b"1002", "id": b"1"}
        )
    )
    await wait.batch([one], 0)
    assert one.state == "kept"
    now[0] = 5000.0
    await until(lambda: one.state == "done", 2.5)

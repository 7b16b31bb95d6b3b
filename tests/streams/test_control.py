"""The control plane as a process of its own: reports in, limits and leases out, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents.deliver.allowance import Allowance
from schemas.codec import decode, encode
from schemas.lane_policy import Decision, LaneOrder, LanePolicy, Leader, Lease
from schemas.lane_report import LaneReport, Reply
from streams.control import _record, make_app, run_control
from streams.lab.dns import DnsServer, Zone
from streams.operators import policy_of
from streams.settings import Settings
from tests.support.brokers import Broker, create_topics
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
BROKEN = """
from agents.shape.agent import Shaper
from streams.control import main

def fail(*_):
    raise RuntimeError("a bug of ours")

Shaper.on_report = fail
main()
"""


@dataclass
class Wire:
    """A worker's view of the two topics."""

    broker: Broker
    prefix: str
    producer: AIOKafkaProducer
    consumer: AIOKafkaConsumer
    facts: list[tuple[int, Any]] = field(default_factory=list)
    number: int = 0

    async def report(self, *replies: Reply, **more: Any) -> LaneReport:
        self.number += 1
        fields = {"worker": "w", "provider": "google", "source": "127.0.0.11", "time": time.time()}
        counts = {"attempts": 20, "waiting": 100, "partitions": 8}
        report = LaneReport(**fields | counts | {"number": self.number, "replies": replies} | more)
        await self.raw(encode(report))
        return report

    async def raw(self, value: bytes) -> None:
        headers = [("type", b"lane_report")]
        await self.producer.send_and_wait(self.prefix + "mail-lane-reports", value, headers=headers)

    async def read(self) -> None:
        async for message in self.consumer:
            if message.value is not None:
                self.facts.append((message.offset, decode(_record(message), "lane_policy")))

    def all(self, kind: type, since: int = 0) -> list[tuple[int, Any]]:
        return [(offset, fact) for offset, fact in self.facts if isinstance(fact, kind) and offset >= since]

    async def until(self, kind: type, since: int = 0, seconds: float = 15.0, **want: Any) -> tuple[int, Any]:
        """The first record of ``kind`` from offset ``since`` on whose fields are as wanted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for offset, fact in self.all(kind, since):
                if all(getattr(fact, name) == value for name, value in want.items()):
                    return offset, fact
            await asyncio.sleep(0.02)
        raise AssertionError(
            f"no {kind.__name__} {want} in {[type(fact).__name__ for _, fact in self.facts]}"
        )


@contextlib.asynccontextmanager
async def wire(broker: Broker, prefix: str) -> AsyncIterator[Wire]:
    await create_topics(
        broker, *(prefix + name for name in ("mail-lane-reports", "mail-lane-policy", "mail-campaigns"))
    )
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    consumer = AIOKafkaConsumer(
        prefix + "mail-lane-policy",
        bootstrap_servers=broker.bootstrap,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    await producer.start()
    await consumer.start()
    made = Wire(broker, prefix, producer, consumer)
    reading = asyncio.create_task(made.read())
    try:
        yield made
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await producer.stop()
        await consumer.stop()


@contextlib.asynccontextmanager
async def control(
    broker: Broker, prefix: str, *command: str, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A control process; killed at the end if it still runs."""
    state = Path(tempfile.mkdtemp(prefix="control-"))
    fixed = {"PROFILE": "demo", "SESSION": "3", "STATE": str(state / "made" / "by-it")}
    settings = {"BROKER": broker.bootstrap, "PREFIX": prefix} | fixed | environment
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAILSLUICE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *(command or ("-m", "streams.control"))),
        cwd=ROOT,
        env=clean | {"MAILSLUICE_" + name: value for name, value in settings.items()},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(state)


async def test_reports_are_answered_a_kill_loses_no_limit_and_the_epoch_grows(broker: Broker, prefix: str):
    port = free_port()
    async with wire(broker, prefix) as worker:
        async with control(broker, prefix, METRICS=f"127.0.0.1:{port}") as first:
            epoch, _ = await worker.until(Leader)
            await worker.raw(b"{not json")
            await worker.report(attempts=-5)
            await worker.report()
            _, policy = await worker.until(LanePolicy)
            assert (policy.name, policy.provider, policy.epoch) == ("127.0.0.11", "google", epoch)
            slow = Reply(
                klass="throttled", action="slow", scope="source", count=10, sample="421 4.7.28 unusual"
            )
            asked = time.monotonic()
            await worker.report(slow)
            _, why = await worker.until(Decision, what="cut")
            assert time.monotonic() - asked < 1.0
            assert why.sample == "421 4.7.28 unusual"
            at, cut = worker.all(LanePolicy)[-1]
            assert cut.rate < policy.rate
            while not worker.all(Lease):  # a new leader waits one lease, 3 s
                assert time.monotonic() - asked < 10
                await worker.report(attempts=1)
                await asyncio.sleep(0.3)
            _, lease = await worker.until(Lease)
            assert (lease.worker, lease.epoch) == ("w", epoch)
            await asyncio.sleep(1.1)
            page = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
            assert 'mailsluice_lane_limit{provider="google",source="127.0.0.11"}' in page
            limit = worker.all(LanePolicy)[-1][1]
            first.send_signal(signal.SIGKILL)
            await first.wait()
        async with control(broker, prefix):
            second, _ = await worker.until(Leader, since=at + 1)
            _, again = await worker.until(LanePolicy, since=second)
            assert (again.rate, again.ceiling, again.epoch) == (limit.rate, limit.ceiling, second)
            assert second > epoch
            # A worker that reads all of it obeys the second leader only.
            allowance = Allowance("w", 8)
            allowance.own(8)
            report = await worker.report(attempts=1)
            allowance.sent(report.number, 0.0)
            for offset, fact in worker.facts:
                allowance.feed(offset, fact)
            assert allowance.epoch == second
            found = allowance.rate("google", "127.0.0.11", "", 1.0, time.time())
            assert (found.rate, found.reason) == (again.minimum, "no lease: the floor")


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


async def test_an_address_on_a_block_list_stops_growing_and_a_list_that_errs_stops_nothing(
    broker: Broker, prefix: str
):
    zone = Zone({}, apexes=["bl.test", "lapsed.test"])
    for name in ("2.0.0.127.bl.test", "11.0.0.127.bl.test", "2.0.0.127.lapsed.test", "1.0.0.127.lapsed.test"):
        zone.add(name, "A", "127.0.0.2")
    port = free_port()
    async with wire(broker, prefix) as worker, DnsServer(zone) as dns:
        lists = {
            "DNS": "{}:{}".format(*dns.address),
            "WATCH_LISTS": "lapsed.test,bl.test",
            "WATCH_EVERY": "1",
        }
        async with control(broker, prefix, METRICS=f"127.0.0.1:{port}", **lists):
            await worker.until(Leader)
            await worker.report()
            await worker.report(source="127.0.0.12")
            _, why = await worker.until(Decision, what="freeze", seconds=30.0)
            assert (why.kind, why.name, why.provider) == ("source", "127.0.0.11", "google")
            assert why.reason == "on bl.test by our own check: no growth for now"
            await asyncio.sleep(2.5)  # two more rounds: it is told once
            frozen = [fact.name for _, fact in worker.all(Decision) if fact.what == "freeze"]
            assert frozen == ["127.0.0.11"]
            page = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
            assert 'mailsluice_block_listed{list="bl.test",name="127.0.0.11"} 1.0' in page
            assert "mailsluice_block_lists_dead 1.0" in page


async def test_a_bug_ends_the_process_before_the_report_is_committed(embedded_broker: Broker, prefix: str):
    async with wire(embedded_broker, prefix) as worker:
        await worker.report()
        async with control(embedded_broker, prefix, "-c", BROKEN) as broken:
            assert broken.stderr is not None
            told = await asyncio.wait_for(broken.stderr.read(), 15)
            assert await broken.wait() == 70
            assert b"a bug of ours" in told
        await worker.report(source="127.0.0.12")
        async with control(embedded_broker, prefix) as mended:
            # The report that met the bug was not committed over: it is looked at again.
            await worker.until(LanePolicy, name="127.0.0.11")
            mended.terminate()
            assert await asyncio.wait_for(mended.wait(), 10) == 0


async def test_a_wrong_policy_file_is_told_and_nothing_starts(
    embedded_broker: Broker, prefix: str, tmp_path: Path
):
    wrong = tmp_path / "mine.toml"
    wrong.write_text("[default]\nconnections = 0\n")
    async with control(embedded_broker, prefix, POLICY=str(wrong)) as process:
        assert process.stderr is not None
        told = await asyncio.wait_for(process.stderr.read(), 15)
        assert await process.wait() == 78
    assert b"mine.toml has 4 fault(s)" in told
    assert b"start: missing" in told


async def test_a_changed_policy_file_is_taken_without_a_restart_and_a_faulty_one_is_not(
    embedded_broker: Broker, prefix: str, tmp_path: Path
):
    mine = tmp_path / "mine.toml"
    mine.write_text("[provider.google]\nmaximum = 50\n")
    async with (
        wire(embedded_broker, prefix) as worker,
        control(embedded_broker, prefix, POLICY_OVERRIDE=str(mine)) as process,
    ):
        await worker.until(Leader)
        await worker.report()
        _, first = await worker.until(LanePolicy)
        assert first.rate == 20
        mine.write_text("[provider.google]\nmaximum = 5\nconnections = 0\n[surprise]\n")
        assert process.stderr is not None
        told = b""
        while b"[surprise]" not in told:
            told += await asyncio.wait_for(process.stderr.readline(), 15)
        assert b"the old one stays" in told
        mine.write_text("[provider.google]\nmaximum = 5\n")
        _, policy = await worker.until(LanePolicy, rate=5.0)
        assert policy.reason == "the policy file has changed"
        await worker.until(Decision, what="policy")


async def test_an_order_is_followed_once_with_who_and_why_and_by_the_next_leader_too(
    embedded_broker: Broker, prefix: str, tmp_path: Path
):
    mine = tmp_path / "mine.toml"
    mine.write_text("[plan.slow]\nday = [100, 140, 196]\n")
    order = LaneOrder(
        kind="source",
        name="127.0.0.11",
        provider="google",
        what="day",
        value=2,
        who="dana",
        why="moved",
        time=5.0,
    )
    async with wire(embedded_broker, prefix) as worker:
        async with control(embedded_broker, prefix, POLICY_OVERRIDE=str(mine)):
            await worker.until(Leader)
            await worker.producer.send_and_wait(
                prefix + "mail-lane-policy", encode(order), key=order.key, headers=[("type", b"lane_order")]
            )
            _, policy = await worker.until(LanePolicy, plan="slow")
            _, why = await worker.until(Decision, what="order")
            assert (policy.step, policy.spent.per_day, policy.minimum) == (1, 140, 0.0)
            assert why.reason == "day 2 of slow: 140 a day, 28 an hour (ordered by dana: moved)"
        seen = worker.facts[-1][0]
        async with control(embedded_broker, prefix, POLICY_OVERRIDE=str(mine)):
            second, _ = await worker.until(Leader, since=seen + 1)
            _, again = await worker.until(LanePolicy, since=second)
            assert (again.plan, again.step, again.ordered) == ("slow", 1, 5.0)
            assert worker.all(Decision, since=second) == []


def test_faust_runs_with_what_has_bitten_turned_off():
    app = make_app(Settings(prefix="t-", broker="127.0.0.1:1,127.0.0.1:2"))
    conf = app.conf
    assert conf.id == "t-mailsluice-control"
    assert [str(url) for url in conf.broker] == ["kafka://127.0.0.1:1", "kafka://127.0.0.1:2"]
    assert not conf.web_enabled
    assert not conf.topic_allow_declare
    assert not conf.worker_redirect_stdouts
    assert conf.producer_acks == -1
    assert conf.broker_session_timeout == 10.0


def test_the_profile_chooses_the_policy(tmp_path: Path):
    assert policy_of(Settings(profile="demo")).law.cut_after == 2.0
    assert policy_of(Settings()).law.cut_after == 60.0
    with pytest.raises(OSError, match=r"none\.toml"):
        run_control(Settings(policy=tmp_path / "none.toml"))

"""``mailsluice lanes``: from what shape has published."""

import asyncio
import json
import re
import time

from click.testing import CliRunner, Result

from schemas.codec import Record
from schemas.lane_policy import Decision, LanePolicy, Leader, Lease
from streams.cli import main
from streams.ops.lanes import Policies, rows
from streams.settings import Settings
from tests.support.brokers import Broker
from tests.support.published import applied, fact, published

NOW = time.time()
SLOW = LanePolicy(
    kind="source", name="127.0.0.1", provider="google", rate=12.5, minimum=0.5, connections=4, per_connection=100,
    reason="3 of 50 throttled", time=NOW - 5,
)  # fmt: skip
OFF = LanePolicy(
    kind="dkim", name="news.example.test", provider="yahoo", rate=3, minimum=0.1, connections=2, per_connection=20,
    reason="blocked", suspended_until=NOW + 86400, time=NOW,
)  # fmt: skip
FAULTY = "421 slow down \x1b[2J\r\nplease"


def lease(worker: str, at: float, rate: float = 5.0) -> Lease:
    return Lease(
        worker=worker, number=1, provider="google", kind="source", name="127.0.0.1", rate=rate, connections=2,
        per_connection=100, duration=10.0, time=at,
    )  # fmt: skip


def decision(what: str, at: float, rate: float, sample: str = "") -> Decision:
    return Decision(
        kind="source", name="127.0.0.1", provider="google", time=at, what=what, reason=f"why {what}", sample=sample, rate=rate
    )  # fmt: skip


FACTS = [
    Leader(worker="w", time=NOW),
    decision("cut", NOW - 5, 12.5, FAULTY),
    decision("start", NOW - 50, 20),
    SLOW,
    OFF,
    lease("a", NOW),
    lease("b", NOW, 2.5),
    lease("gone", NOW - 60),
]


def read(facts: list[object]) -> Policies:
    found = Policies()
    for number, event in enumerate(facts):
        out = fact("mail-lane-policy", event)
        found.take(Record(out.topic, 0, number, 0, None, out.value, out.headers))
    found.take(Record("mail-lane-policy", 0, 99, 0, None, b"{", {}))  # not ours to judge
    found.decisions.sort(key=lambda d: d.time)
    return found


def test_rows_sum_the_leases_that_still_run() -> None:
    google, yahoo = rows(read(FACTS), NOW + 1)
    assert (google["provider"], google["workers"], google["lent"]) == ("google", 2, 7.5)
    assert google["last"]["what"] == "cut"
    assert google["suspended_seconds"] == 0
    assert (yahoo["kind"], yahoo["suspended_seconds"], yahoo["last"]) == ("dkim", 86399, None)
    assert rows(read(FACTS), NOW + 60)[0]["workers"] == 0


async def test_lanes_and_explain_on_a_broker(embedded_broker: Broker, prefix: str) -> None:
    settings = await applied(embedded_broker, prefix)
    assert "every lane is fed at its floor" in (await call(settings)).output
    await published(settings, [fact("mail-lane-policy", event, event.key) for event in FACTS])

    shown = (await call(settings)).output
    assert "12.5/s" in shown
    assert "d=news.example.test" in shown
    assert re.search(r"off \d+ s", shown)

    found = json.loads((await call(settings, "--json")).output)
    assert [row["rate"] for row in found] == [12.5, 3]

    told = await call(settings, "explain", "127.0.0.1", "google")
    assert told.exit_code == 0
    assert told.output.index("why start") < told.output.index("why cut")
    assert "\x1b" not in told.output
    listed = json.loads(
        (await call(settings, "explain", "127.0.0.1", "google", "--newest", "1", "--json")).output
    )
    assert [d["what"] for d in listed["decisions"]] == ["cut"]

    unknown = await call(settings, "explain", "127.0.0.9", "google")
    assert unknown.exit_code == 1
    assert "known lanes: 127.0.0.1 google" in unknown.output


async def call(settings: Settings, *arguments: str) -> Result:
    environment = {"MAILSLUICE_BROKER": settings.broker, "MAILSLUICE_PREFIX": settings.prefix}
    return await asyncio.to_thread(CliRunner().invoke, main, ["lanes", *arguments], env=environment)

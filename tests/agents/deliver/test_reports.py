"""Lane reports: sums, numbers, samples, and how long a quiet lane goes on reporting."""

from __future__ import annotations

from agents.deliver.allowance import Allowance
from agents.deliver.feed import Feed
from agents.deliver.job import Mail
from agents.deliver.reports import MAX_REPLIES, MOST_SITES, Reports
from schemas.codec import parse
from schemas.lane_report import LaneReport
from schemas.outcome import Outcome
from tests.support.agents import FakeTicket
from tests.support.gates import START, mail


class Counts:
    """A pool that has three connections of every group."""

    def count(self, group: object) -> int:
        self.asked = group
        return 3


class Desk:
    def __init__(self, *sources: str) -> None:
        self.now = 100.0
        self.out: list[LaneReport] = []
        self.sent: list[int] = []
        self.allowance = Allowance("w", 4)
        self.allowance.sent = self.note_sent  # type: ignore[method-assign]
        self.reports = Reports(
            self.allowance, lambda: sources or ("default",), self.publish, lambda: START, lambda: self.now
        )
        self.pool = Counts()
        self.feeds: dict[str, Feed] = {}

    def note_sent(self, number: int, mono: float) -> None:
        assert mono == self.now
        self.sent.append(number)

    def publish(self, out) -> None:
        assert (out.topic, out.partition) == ("mail-lane-reports", 0)
        assert out.headers == {"type": b"lane_report", "version": b"1"}
        found = parse(out.value, LaneReport)
        assert self.sent[-1] == found.number, "the lease counts from before the report is sent"
        self.out.append(found)

    def mail(self, name: str, key: str, source: str, **headers) -> Mail:
        found = Mail(FakeTicket(mail(name, **headers)), 1, self.now)
        found.feed = self.feeds.setdefault(key, Feed(key))
        found.source = source
        return found

    def send(self, *mails: Mail) -> list[LaneReport]:
        self.out = []
        self.reports.send(mails, 2, self.pool)  # type: ignore[arg-type]
        return self.out


def outcome(state: str, reply: str = "", klass: str = "busy", rule: str = "r") -> Outcome:
    return Outcome(id="x", state=state, attempt=1, reply=reply, klass=klass, action="retry", rule=rule)  # type: ignore[arg-type]


def test_sums_by_lane_source_and_dkim_domain():
    desk = Desk()
    a = desk.mail("a", "gmx", "s1", to="a@one.example")
    b = desk.mail("b", "gmx", "s1", to="b@two.example")
    c = desk.mail("c", "gmx", "s2")
    d = desk.mail("d", "gmx", "s1", dkim="other.example")
    for found, state in (
        (a, "delivered"),
        (a, "delivered"),
        (b, "deferred"),
        (b, "bounced"),
        (a, "unknown"),
        (c, "delivered"),
        (d, "delivered"),
    ):
        desk.reports.count(outcome(state), found)
    found = {(r.source, r.dkim): r for r in desk.send()}
    assert set(found) == {("s1", "a.example"), ("s2", "a.example"), ("s1", "other.example")}
    one = found[("s1", "a.example")]
    assert (one.attempts, one.delivered, one.deferred, one.bounced, one.unknown) == (5, 2, 1, 1, 1)
    assert (one.domains, one.connections, one.partitions, one.worker, one.time) == (2, 3, 2, "w", START)


def test_a_site_without_a_provider_is_named_also_when_nothing_waits_there():
    """An empty feed is false."""
    desk = Desk()
    found = desk.mail("a", "b.example", "s1")
    desk.reports.count(outcome("delivered"), found)
    assert [report.provider for report in desk.send()] == ["b.example"]


def test_what_was_no_attempt_does_not_count():
    desk = Desk()
    found = desk.mail("a", "gmx", "s1")
    for state in ("expired", "cancelled", "suppressed", "rejected", "intent"):
        desk.reports.count(outcome(state), found)
    found.source = ""  # bounced by DNS
    desk.reports.count(outcome("bounced"), found)
    assert desk.send() == []


def test_replies_are_counted_by_kind_with_the_first_as_sample():
    desk = Desk()
    found = desk.mail("a", "gmx", "s1", to="a@one.example")
    for n in range(3):
        desk.reports.count(outcome("deferred", f"421 slow {n}" + "x" * 400), found)
    desk.reports.count(outcome("bounced", "550 unknown", klass="bad_address", rule="u"), found)
    desk.reports.count(outcome("delivered", "250 ok"), found)
    [report] = desk.send()
    slow, unknown = report.replies
    assert (slow.klass, slow.action, slow.rule, slow.count, slow.domain) == (
        "busy",
        "retry",
        "r",
        3,
        "one.example",
    )
    assert slow.sample.startswith("421 slow 0x")
    assert len(slow.sample) == 300
    assert (unknown.klass, unknown.count) == ("bad_address", 1)


def test_no_more_kinds_than_a_report_may_hold_the_frequent_ones_first():
    desk = Desk()
    found = desk.mail("a", "gmx", "s1")
    for n in range(MAX_REPLIES + 10):
        for _ in range(2 if n == MAX_REPLIES + 5 else 1):
            desk.reports.count(outcome("deferred", "451 no", rule=f"r{n}"), found)
    [report] = desk.send()
    assert len(report.replies) == MAX_REPLIES
    assert report.replies[0].rule == f"r{MAX_REPLIES + 5}"
    assert report.deferred == MAX_REPLIES + 11


def test_numbers_grow_and_sums_begin_anew():
    desk = Desk()
    found = desk.mail("a", "gmx", "default")
    desk.reports.count(outcome("delivered"), found)
    assert [(r.number, r.delivered) for r in desk.send()] == [(1, 1)]
    desk.now += 1
    assert [(r.number, r.delivered) for r in desk.send(found)] == [(2, 0)]
    assert desk.sent == [1, 2]


def test_waiting_mail_asks_for_every_source_and_mail_under_way_for_none():
    desk = Desk("127.0.0.11", "127.0.0.12")
    waiting = [desk.mail(f"m{n}", "gmx", "") for n in range(3)]
    waiting[2].stage = "sending"
    found = {r.source: r.waiting for r in desk.send(*waiting)}
    assert found == {"127.0.0.11": 2, "127.0.0.12": 2}


def test_the_default_source_is_counted_under_its_name_and_asked_for_without():
    desk = Desk()
    [report] = desk.send(desk.mail("a", "gmx", ""))
    assert report.source == "default"
    assert desk.pool.asked == ("", "gmx")


def test_a_lane_without_work_reports_for_ten_seconds_more():
    desk = Desk()
    desk.reports.count(outcome("delivered"), desk.mail("a", "gmx", "default"))
    seconds = 0
    while desk.send():
        desk.now += 1
        seconds += 1
        assert seconds < 20
    assert seconds == 11


def test_who_waits_may_go_from_any_source_and_busy_connections_are_told_also_when_nobody_waits() -> None:
    desk = Desk("s1", "s2")
    waiting = [desk.mail(f"w{n}", "gmx", "") for n in range(3)]
    assert {(r.source, r.waiting, r.busy) for r in desk.send(*waiting)} == {("s1", 3, 0), ("s2", 3, 0)}
    desk.feeds["gmx"].busy["s2", "a.example"] += 4
    for mail_ in waiting:
        mail_.stage = "sending"
    assert {(r.source, r.waiting, r.busy) for r in desk.send(*waiting)} == {("s1", 0, 0), ("s2", 0, 4)}
    assert {(r.source, r.waiting, r.busy) for r in desk.send(*waiting)} == {("s1", 0, 0), ("s2", 0, 0)}


def test_very_many_sites_are_told_in_turns_but_named_lanes_and_attempts_at_once() -> None:
    desk = Desk("s1", "s2")
    waiting = [desk.mail(f"w{n}", f"site{n}.example", "", dkim=f"d{n % 7}.example") for n in range(1000)]
    waiting.append(desk.mail("g", "google", ""))
    told: dict[tuple[str, str], int] = {}
    for second in range(14):
        desk.now = 100.0 + second
        tried = desk.mail("t", f"site{second}.example", "s1", dkim=f"d{second % 7}.example")
        desk.reports.count(outcome("delivered"), tried)
        found = desk.send(*waiting)
        assert len(found) == MOST_SITES + 2 + 1
        assert {report.source for report in found if report.provider == "google"} == {"s1", "s2"}
        assert [report.provider for report in found if report.attempts] == [f"site{second}.example"]
        assert all(
            report.seconds == (1.0 if report.provider == "google" else report.seconds) for report in found
        )
        for report in found:
            told[report.provider, report.source] = told.get((report.provider, report.source), 0) + 1
    assert len(told) == 2002
    assert {count for (provider, _), count in told.items() if provider != "google"} <= {1, 2, 3, 4}
    again = [report.seconds for report in found if report.provider != "google"]
    assert max(again) >= 6.0  # a report says what time it is about

"""mailsluice backtest: what another policy, other rules or another engine would have decided of the same record."""

from __future__ import annotations

import asyncio
import csv
import json
from dataclasses import replace
from importlib import resources

from click.testing import CliRunner, Result

from agents.shape.figures import Limits, Reaction
from agents.shape.figures import Settings as Policy
from agents.shape.rules import parse_policy
from schemas.lane_report import LaneReport, Reply
from schemas.outcome import Outcome
from schemas.reply import load_rules
from streams.cli import main
from streams.ops.backtest.law import Fixed, Law, warm
from streams.ops.backtest.people import Attempt, Ours, People, Theirs
from streams.ops.backtest.replay import Assumed, Replay
from streams.ops.backtest.replies import Verdict
from streams.ops.backtest.row import Row
from tests.support.brokers import Broker
from tests.support.published import PARTITIONS, applied, fact, published

START = 1_772_323_200.0  # 2026-03-01 00:00:00Z
DAY = 86400.0
REPLIES = (resources.files("schemas") / "replies.toml").read_text("utf-8")
RULES = load_rules(REPLIES)
LIMITS = Limits(connections=4, per_connection=50, start=5.0, minimum=0.1, maximum=50.0)
POLICY = Policy(LIMITS)
AWAY = replace(POLICY, reactions=(Reaction("listed", classes=("blocklist",), suspend=7200.0),))
LISTED = "554 5.7.1 Service unavailable; Client host [192.0.2.10] blocked using zen.spamhaus.org"
UNKNOWN = "550 5.1.1 <a@shop.example>: Recipient address rejected: User unknown in virtual mailbox table"
FULL = "452 4.2.2 The email account that you tried to reach is over quota"
SLOW = "421 4.7.0 [TSS04] Messages from 192.0.2.10 temporarily deferred due to unexpected volume or user complaints"
BY_CATEGORY = Assumed("category", frozenset({"bad-mailbox"}))


def row(
    at: float,
    reply: str = "",
    to: str = "a@shop.example",
    kind: str = "bounced",
    category: str = "",
    mx: str = "",
) -> Row:
    return Row(
        START + at, kind, to, "v1", "yahoo" if "yahoo" in mx else "shop.example", reply, "", mx, category
    )  # type: ignore[arg-type]


def replay(assumed: Assumed | None = BY_CATEGORY, before: Policy = POLICY, after: Policy = POLICY) -> Replay:
    people = People(Theirs() if assumed else Ours(), Ours())
    return Replay(RULES, Law(warm(before)), Law(warm(after)), people, assumed)


def test_a_block_that_another_engine_calls_a_bad_mailbox_suppresses_nobody():
    work = replay()
    work.logs([
        row(0, LISTED, "blocked@shop.example", category="bad-mailbox"),
        row(1, UNKNOWN, "gone@shop.example", category="bad-mailbox"),
        row(2, LISTED, "policy@shop.example", category="policy-related"),
        row(3, UNKNOWN, "uncategorised@shop.example"),
        row(4, "", "blocked@shop.example", "delivered"),
    ])  # fmt: skip
    assert work.changes.read == 4
    (group,) = work.changes.ordered()
    assert (group["before"]["action"], group["after"]["klass"], group["count"]) == (
        "suppress",
        "blocklist",
        1,
    )
    found = work.people.counts()
    assert (found["before"], found["after"], found["only_before"], found["only_before_took_mail_later"]) == (
        3,
        2,
        1,
        1,
    )
    assert [to for to, _ in work.people.only(True)] == ["blocked@shop.example"]


def test_what_the_other_engine_suppresses_upon_is_an_assumption_that_can_be_changed():
    rows = [
        row(0, LISTED, "a@x.example", category="spam-related"),
        row(1, FULL, "b@x.example", category="quota-issues"),
    ]
    wanted = {"category": 0, "5xx": 1, "none": 0}
    for how, count in wanted.items():
        work = replay(Assumed(how, frozenset({"bad-mailbox"})))
        work.logs(rows)
        assert work.people.counts()["before"] == count
    work = replay(Assumed("category", frozenset({"quota-issues"})))
    work.logs(rows)
    assert [to for to, _ in work.people.only(True)] == ["b@x.example"]


def test_a_mailbox_that_stays_full_is_suppressed_by_our_window_and_a_delivery_starts_it_anew():
    work = replay()
    full = [
        row(day * DAY, FULL, to, "deferred")
        for day in range(3)
        for to in ("full@x.example", "once@x.example")
    ]
    full.insert(4, row(1.5 * DAY, "", "once@x.example", "delivered"))
    work.logs(full)
    assert [to for to, _ in work.people.only(False)] == ["full@x.example"]
    assert work.people.counts()["before"] == 0


def test_the_law_under_two_policies_differs_where_the_policies_do():
    work = replay(before=AWAY)
    for second in range(0, 7200, 10):
        for _ in range(5):
            work.row(row(second, kind="delivered"))
        if second == 600:
            work.row(row(second, LISTED))
    work.logs([])
    before, after = work.before.ledger.totals(), work.after.ledger.totals()
    assert (before["suspensions"], before["away"]) == (1, 7200)
    # 5 mails in each of the 10 seconds after the first that was refused.
    assert before["within"] == 5 * (720 - 61)
    assert after["suspensions"] == after["within"] == 0
    assert before["attempts"] == after["attempts"] == 5 * 720 + 1
    (decision,) = [found for found in work.before.ledger.decisions if found.what == "suspend"]
    assert (decision.provider, decision.name, decision.time) == ("shop.example", "v1", START + 610)


def test_fixed_reactions_stay_away_where_the_law_slows_down():
    rules = (resources.files("streams.ops.simulate") / "rules.toml").read_text("utf-8")
    fixed, law = Fixed(parse_policy(rules)), Law(warm(POLICY))
    for second in range(0, 3600, 10):
        slow = Reply(klass="rate", action="slow", scope="source", rule="yahoo-tss04", count=2, sample=SLOW)
        report = LaneReport(
            worker="log", number=second + 1, provider="yahoo", source="v1", time=START + second, seconds=10.0, attempts=40,
            delivered=38, deferred=2, replies=(slow,) if second in (600, 610) else (),
        )  # fmt: skip
        fixed.report(report)
        law.report(report)
    assert fixed.ledger.totals()["suspensions"] == 1
    assert fixed.ledger.totals()["away"] == 7200
    assert law.ledger.totals()["suspensions"] == 0
    assert law.ledger.totals()["cuts"] >= 1


def test_reports_that_come_late_or_from_the_future_do_not_turn_the_clock_back():
    law = Law(warm(POLICY))
    for number, at in enumerate((0.0, 500.0, 20.0, 510.0, 0.0), 1):
        law.report(
            LaneReport(
                worker="log",
                number=number,
                provider="yahoo",
                source="v1",
                time=START + at,
                attempts=1,
                delivered=1,
            )
        )
    times = [found.time for found in law.ledger.decisions]
    assert times == sorted(times)
    assert law.ledger.totals()["attempts"] == 5


def test_rows_outside_the_time_asked_for_are_passed_over():
    work = replay()
    work.begin, work.end = START + 10, START + 20
    work.logs([row(5, UNKNOWN), row(15, UNKNOWN, "in@x.example"), row(20, UNKNOWN, "late@x.example")])
    assert (work.rows, list(work.people.found)) == (1, ["in@x.example"])


def test_verdicts_of_both_sides_are_kept_for_a_person():
    people = People(Theirs(), Ours())
    verdicts = Verdict("suppress", "bad-mailbox"), Verdict("hold", "block", "r")
    people.add(Attempt(START, "a@x.example", "bounced", "x.example", "550 no", *verdicts))
    assert people.found["a@x.example"].verdicts == verdicts


OUTCOMES = [
    Outcome(id="1", state="bounced", attempt=1, to="a@x.example", time=START + 1, reply=UNKNOWN, phase="rcpt", klass="unknown_user", action="suppress", scope="address", rule="user-unknown", provider="yahoo", source="127.0.0.1"),
    Outcome(id="2", state="bounced", attempt=1, to="b@x.example", time=START + 2, reply=LISTED, phase="rcpt", klass="unknown_user", action="suppress", scope="address", rule="old-rule", provider="yahoo", source="127.0.0.1"),
    Outcome(id="3", state="delivered", attempt=1, to="c@x.example", time=START + 3, provider="yahoo", source="127.0.0.1"),
    Outcome(id="4", state="bounced", attempt=1, to="d@x.example", time=START + 9000, reply=LISTED, klass="unknown_user", action="suppress", rule="old-rule"),
]  # fmt: skip


def report(second: int, *replies: Reply) -> LaneReport:
    return LaneReport(
        worker="w", number=second + 1, provider="yahoo", source="127.0.0.1", dkim="news.example", time=START + second,
        attempts=4, delivered=4 - len(replies), bounced=len(replies), domains=1, replies=replies,
    )  # fmt: skip


async def test_our_own_record_under_today_s_rules_and_another_policy(
    embedded_broker: Broker, prefix: str, tmp_path
) -> None:
    settings = await applied(embedded_broker, prefix)
    wrong = Reply(klass="unknown_user", action="suppress", scope="address", rule="old-rule", sample=LISTED)
    reports = [report(second, *((wrong,) if second == 5 else ())) for second in range(60)]
    outs = [fact("mail-outcomes", one, partition=number % PARTITIONS) for number, one in enumerate(OUTCOMES)]
    await published(settings, outs + [fact("mail-lane-reports", one) for one in reports])
    policy = tmp_path / "policy.toml"
    policy.write_text('[[reaction]]\nname = "listed"\nclasses = ["blocklist"]\nsuspend = 3600\n')
    differ = tmp_path / "differ.csv"

    done = await call(
        settings,
        "--policy",
        str(policy),
        "--to",
        "2026-03-01T01:00:00Z",
        "--json",
        "--recipients",
        str(differ),
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["rows"], found["replies"]["read"], found["replies"]["judged_otherwise"]) == (3, 2, 1)
    assert found["replies"]["by_action"] == [{"before": "suppress", "after": "hold", "count": 1}]
    assert (found["recipients"]["before"], found["recipients"]["after"]) == (2, 1)
    assert found["law"]["before"]["suspensions"] == 0
    assert found["law"]["after"]["suspensions"] == 1
    assert found["law"]["after"]["sent_while_suspended"] == 4 * 54
    assert [one["what"] for one in found["law"]["decisions_after"]["told"]] == ["suspend"]
    with differ.open() as source:
        (who,) = csv.DictReader(source)
    assert (who["address"], who["suppressed"], who["class"]) == ("b@x.example", "before", "blocklist")

    shown = await call(settings, "--policy", str(policy))
    assert shown.exit_code == 0
    assert "b…@x.example" in shown.output
    assert "b@x.example" not in shown.output
    nothing = await call(settings, "--policy", str(policy), "--from", "2030-01-01T00:00:00Z")
    assert nothing.exit_code == 1
    assert "no outcome lies in that time" in nothing.output


async def call(settings, *arguments: str) -> Result:
    environment = {"MAILSLUICE_BROKER": settings.broker, "MAILSLUICE_PREFIX": settings.prefix}
    return await asyncio.to_thread(CliRunner().invoke, main, ["backtest", *arguments], env=environment)


def test_wrong_usage_is_one_clear_sentence(tmp_path):
    def said(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["backtest", *arguments])

    assert "nothing would be different" in said().output
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[default]\nconnections = -1\n[law]\nwindows = 3\n")
    faulty = said("--policy", str(wrong), "--log", "x")
    assert faulty.exit_code == 2
    assert "2 fault(s)" in faulty.output
    wrong.write_text("rule = 3")
    assert said("--rules", str(wrong), "--log", "x").exit_code == 2
    absent = said("--log", str(tmp_path / "absent.csv"))
    assert absent.exit_code == 1
    assert "No such file" in absent.output
    wrong.write_text("type,timeLogged,rcpt\nb,never,a@b.example\n")
    empty = said("--log", str(wrong))
    assert empty.exit_code == 1
    assert "1 bad" in empty.output
    assert f"{wrong}:2:" in empty.output


def test_a_log_as_a_table_for_people_cuts_addresses_and_tells_assumptions(tmp_path):
    log = tmp_path / "acct.csv"
    head = "type,timeLogged,rcpt,dsnStatus,dsnDiag,dsnMta,bounceCat,vmta\n"
    log.write_text(
        head
        + f'b,1772323200,who@x.example,5.7.1,"smtp;{LISTED} \x1b[2J who@x.example",mx.x.example,bad-mailbox,v1\nx9,1,2\n'
    )
    shown = CliRunner().invoke(main, ["backtest", "--log", str(log)])
    assert shown.exit_code == 0, shown.output
    assert (
        "PowerMTA, assumed to suppress upon the categories bad-mailbox, bad-domain, inactive-mailbox"
        in shown.output
    )
    assert "1 would not have been suppressed" in shown.output
    assert f"{log}:3:" in shown.output
    assert "who@x.example" not in shown.output
    assert "\x1b" not in shown.output

"""Gate two in stories: what may start, what is journaled in which order, and what comes back."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest

from agents.deliver.allowance import Rate
from agents.deliver.connect import ConnectFailed
from agents.deliver.policy import Settings
from schemas.campaign import Campaign
from schemas.codec import encode
from schemas.hosts import NO_DOMAIN, NULL_MX, UNKNOWN
from schemas.ladder import off_ladder
from schemas.mail import verdict
from schemas.reply import Meaning
from schemas.suppression import Suppression
from tests.support.gates import HASHES, START, Broker, GateTwo, Line, Servers, hosts_of, mail, virtual, woken

QUIET = None
"""Servers that say nothing by themselves."""


def story(test):
    """Runs an async test on a virtual clock."""

    def run(**arguments):
        virtual(test(**arguments))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = __import__("inspect").signature(test)
    return run


async def world(*, hold: bool = False, answer=QUIET, **changes) -> GateTwo:
    """A worker that owns partition 0."""
    made = GateTwo(Broker(hold), Servers(answer), **changes)
    await made.agent.assigned(0)
    return made


async def settled() -> None:
    """Let everything run that is due now (the allowance begins empty: a mail or two take milliseconds)."""
    await asyncio.sleep(0.05)


def states(made: GateTwo, name: str = "") -> list[str]:
    return [outcome.state for outcome in made.broker.outcomes(name)]


def sending(made: GateTwo) -> list[str]:
    return [line.job.id for line in made.servers.lines if line.job]


# -- an attempt and its journal -----------------------------------------------------------------------


@story
async def test_a_mail_ends_as_delivered_and_only_then_is_its_record_done():
    made = await world(hold=True)
    [ticket] = await made.take(mail("a"))
    await settled()
    [line] = made.servers.lines
    line.say(250, "2.0.0 queued")
    assert not ticket.said_done
    made.broker.ack()
    assert ticket.committable
    [outcome] = made.broker.outcomes()
    assert (outcome.state, outcome.attempt, outcome.origin) == ("delivered", 1, "mail-sends/0/a")
    assert (outcome.reply, outcome.phase, outcome.mx, outcome.tls) == (
        "250 2.0.0 queued",
        "dot",
        "mx.test",
        "TLSv1.3",
    )
    assert (outcome.lane, outcome.site, outcome.source) == ("mail-lane-other-1", "b.example", "default")
    assert [age for _, age, _ in made.seen] == pytest.approx([5.05])


@story
async def test_a_deferred_mail_is_on_the_ladder_before_its_outcome_is_written():
    made = await world(hold=True)
    [ticket] = await made.take(mail("a"))
    await settled()
    made.servers.lines[0].say(451, "4.2.1 later")
    assert [out.topic for out, _ in made.broker.flight] == ["mail-wait-1m"]
    made.broker.ack(1)
    assert [out.topic for out, _ in made.broker.flight] == ["mail-outcomes"]
    assert not ticket.said_done
    made.broker.ack()
    assert ticket.committable
    [copy] = made.broker.ladder()
    assert (copy.headers["attempt"], copy.headers["next"]) == (b"2", b"mail-lane-other-1")
    assert copy.value == ticket.record.value
    [outcome] = made.broker.outcomes()
    assert outcome.next_at == pytest.approx(START + 60.05, abs=0.01) == float(copy.headers["due"])


@story
async def test_a_deferral_without_time_left_ends_as_expired_with_the_last_reply():
    made = await world(answer=lambda line: line.say(452, "4.2.2 full"))
    [ticket] = await made.take(mail("a", expires=START + 59))
    await settled()
    [outcome] = made.broker.outcomes()
    assert (outcome.state, outcome.reply, outcome.attempt) == ("expired", "452 4.2.2 full", 1)
    assert made.broker.ladder() == []
    assert ticket.committable


@story
async def test_the_reply_of_an_attempt_that_was_the_last_one_is_reported():
    made = await world(answer=lambda line: line.say(421, "4.7.0 slow down"))
    await made.take(mail("a", expires=START + 30))
    await made.ticks(1)
    assert states(made) == ["expired"]
    [report] = [encode_report(out) for out in made.broker.landed["mail-lane-reports"]]
    assert (report["attempts"], report["deferred"]) == (1, 1)
    assert report["replies"][0]["sample"] == "421 4.7.0 slow down"


@story
async def test_attempts_grow_until_the_mail_expires():
    made = await world(answer=lambda line: line.say(451, "4.0.0 no"))
    record = mail("a", expires=START + 86400)
    due = []
    for n in itertools.count(1):
        await made.take(record)
        await settled()
        if len(made.broker.ladder()) < n:
            break
        copy = made.broker.ladder()[-1]
        due.append(float(copy.headers["due"]) - made.clock())
        made.ahead += due[-1]
        record = woken(copy)
    assert due[:3] == pytest.approx([60, 180, 540], abs=1)
    assert max(due) <= 21600 * 1.2
    assert states(made)[-1] == "expired"
    assert [outcome.attempt for outcome in made.broker.outcomes()] == list(range(1, n + 1))


@pytest.mark.parametrize(("code", "state"), [(550, "bounced"), (451, "deferred"), (250, "delivered")])
@story
async def test_the_reply_decides(code: int, state: str):
    made = await world(answer=lambda line: line.say(code, "so it is"))
    await made.take(mail("a"))
    await settled()
    assert states(made) == [state]


@story
async def test_a_connection_that_dies_after_the_dot_is_unknown_and_tried_later():
    made = await world()
    [ticket] = await made.take(mail("a"))
    await settled()
    line: Line = made.servers.lines[0]
    line.to_dot()
    line.die()
    [outcome] = made.broker.outcomes()
    assert (outcome.state, outcome.final) == ("unknown", False)
    [copy] = made.broker.ladder()
    assert copy.headers["attempt"] == b"2"
    assert ticket.committable


# -- repeats, reservations ----------------------------------------------------------------------------


@story
async def test_an_attempt_that_the_journal_knows_is_dropped_and_counted():
    made = await world(answer=lambda line: line.say(451, "4.0.0 later"))
    await made.take(mail("a"))
    await settled()
    [again] = await made.take(mail("a"))
    await settled()
    assert again.committable
    assert len(made.broker.outcomes()) == 1
    assert [repeat for _, _, repeat in made.seen] == [0, 1]


@story
async def test_nothing_runs_after_the_end():
    made = await world(answer=lambda line: line.say(250, "ok"))
    await made.take(mail("a"))
    await settled()
    await made.take(mail("a", attempt=7), mail("a", type="verdict", outcome="expired", body=None, attempt=9))
    await settled()
    assert states(made) == ["delivered"]


@story
async def test_a_copy_that_meets_a_reservation_goes_back_to_the_shortest_rung_unchanged():
    made = await world()
    [first, copy] = await made.take(mail("a"), mail("a", offset=1))
    await settled()
    assert sending(made) == ["a"]
    assert copy.committable
    [back] = made.broker.ladder()
    assert back.topic == "mail-wait-1m"
    assert back.value == copy.record.value
    assert {k: v for k, v in back.headers.items() if k not in ("next", "due")} == copy.record.headers
    assert not first.said_done


@story
async def test_a_copy_stays_until_the_outcome_is_acknowledged():
    """Else a crash between the copy's commit and the outcome's acknowledgement would lose the mail."""
    made = await world(hold=True)
    [ticket] = await made.take(mail("a"))
    await settled()
    await made.ticks(31)
    made.broker.ack()
    assert ticket.committable  # it blocked too long: only the copy on the ladder holds the mail now
    [copy] = made.broker.ladder()
    made.servers.lines[0].say(250, "ok")
    assert [out.topic for out, _ in made.broker.flight if out.topic == "mail-outcomes"] == ["mail-outcomes"]
    [second] = await made.take(woken(copy))
    await settled()
    assert [out.topic for out in second.outs] == ["mail-wait-1m"]
    made.broker.ack()
    [third] = await made.take(woken(made.broker.ladder()[-1]))
    assert third.outs == []
    assert third.committable


# -- the lane stays free ------------------------------------------------------------------------------


@story
async def test_a_started_mail_that_blocks_is_copied_to_the_longest_rung_and_the_watermark_passes():
    made = await world()
    [ticket] = await made.take(mail("a"))
    await made.ticks(29)
    assert not ticket.said_done
    await made.ticks(2)
    assert ticket.committable
    [copy] = made.broker.ladder()
    assert (copy.topic, copy.headers["attempt"]) == ("mail-wait-6h", b"1")
    made.servers.lines[0].say(250, "ok")
    assert states(made) == ["delivered"]
    await made.ticks(60)
    assert len(made.broker.ladder()) == 1


@story
async def test_a_clock_that_moves_between_two_looks_does_not_shorten_the_rung():
    made = await world()
    tick = itertools.count()
    made.agent._clock = lambda: START + made.loop.time() + next(tick) * 1e-6
    await made.take(mail("a"))
    await made.ticks(32)
    made.campaigns["default/c"] = Campaign(id="c", sender="a@a.example", state="paused")
    await made.take(mail("b"))
    await settled()
    assert [copy.topic for copy in made.broker.ladder()] == ["mail-wait-6h", "mail-wait-10m"]


@story
async def test_a_mail_held_after_it_was_copied_is_not_copied_again():
    made = await world()
    [ticket] = await made.take(mail("a"))
    await made.ticks(31)
    assert ticket.committable
    made.is_fresh = False
    made.servers.lines[0].to_dot()
    await settled()
    made.campaigns["default/c"] = Campaign(id="c", sender="a@a.example", state="paused")
    made.is_fresh = True
    await made.ticks(2)
    assert len(made.broker.ladder()) == 1
    assert sending(made) == []
    made.campaigns.clear()
    await made.take(woken(made.broker.ladder()[0]))
    await settled()
    assert sending(made) == ["a"]


@story
async def test_no_attempt_lasts_longer_than_fifty_minutes():
    """A server that takes a byte now and then keeps every phase alive."""
    made = await world()
    await made.take(mail("a"))
    await made.ticks(3002)
    assert states(made) == ["deferred"]
    assert made.servers.lines == []


@story
async def test_a_tarpit_in_a_shared_lane_steps_aside_and_holds_nobody():
    made = await world(answer=lambda line: line.say(250, "ok"))
    made.servers.delay = lambda hosts: 3600.0 if hosts == ("mx.tar.example",) else 0.0
    tar = [mail(f"t{n}", f"t{n}@tar.example", offset=n) for n in range(30)]
    rest = [mail(f"m{n}", f"m@d{n}.example", offset=100 + n) for n in range(100)]
    tickets = await made.take(*tar, *rest)
    await settled()
    assert states(made) == ["delivered"] * 100
    assert not any(ticket.said_done for ticket in tickets[:30])
    await made.ticks(12)
    aside = made.broker.ladder()
    assert [ticket.committable for ticket in tickets[:30]] == [True] * 29 + [False]
    assert {copy.headers["attempt"] for copy in aside} == {b"1"}
    assert len(made.broker.outcomes()) == 100
    due = [float(copy.headers["due"]) for copy in aside]
    assert due == sorted(due)


@story
async def test_turns_of_a_slow_site_are_as_far_apart_as_its_rate_says():
    made = await world(rate=Rate(2.0, 1, 20, 0.0, ""), sources=("127.0.0.11", "127.0.0.12"))
    made.agent._settings = Settings(patience=0.5)
    await made.take(*(mail(f"t{n}", "t@slow.example", offset=n) for n in range(600)))
    await made.ticks(2)
    due = [float(copy.headers["due"]) for copy in made.broker.ladder()]
    assert len(due) > 500
    assert due[-1] - due[-101] == pytest.approx(100 / 4.0, rel=0.05)  # two sources of 2/s


@story
async def test_mail_of_a_providers_own_lane_never_steps_aside():
    """Though the provider was met in a shared lane first (a domain that moved there)."""
    made = await world(rate=Rate(0.0, 0, 20, 0.0, ""))
    made.names.found = {domain: hosts_of("aspmx.l.google.com") for domain in ("moved.example", "g.example")}
    await made.take(mail("moved", "x@moved.example"))
    tickets = await made.take(
        *(mail(f"g{n}", "x@g.example", topic="mail-lane-google", offset=n) for n in range(50))
    )
    await made.ticks(30)
    assert not any(ticket.said_done for ticket in tickets)


@story
async def test_expired_mail_leaves_the_queue_of_a_suspended_lane():
    made = await world(rate=Rate(0.0, 0, 20, START + 7200, "suspended"))
    tickets = await made.take(
        *(mail(f"m{n}", "x@b.example", topic="mail-lane-gmx", expires=START + 10 + n) for n in range(20))
    )
    await made.ticks(5)
    assert made.broker.outcomes() == []
    await made.ticks(20)
    assert [(o.state, o.reason) for o in made.broker.outcomes()] == [("expired", "in_lane")] * len(
        made.broker.outcomes()
    )
    assert sum(ticket.committable for ticket in tickets) >= 15
    assert made.servers.tried == 0


# -- the last look ------------------------------------------------------------------------------------


@story
async def test_a_cancelled_campaign_ends_in_the_lane():
    made = await world(answer=lambda line: line.say(250, "ok"))
    made.campaigns["default/c"] = Campaign(id="c", sender="a@a.example", state="cancelled")
    [ticket] = await made.take(mail("a"))
    assert [(o.state, o.reason) for o in made.broker.outcomes()] == [("cancelled", "campaign_cancelled")]
    assert ticket.committable


@story
async def test_a_paused_campaign_steps_to_the_10m_rung_with_the_same_attempt():
    made = await world(answer=lambda line: line.say(250, "ok"))
    made.campaigns["default/c"] = Campaign(id="c", sender="a@a.example", state="paused")
    await made.take(mail("a", attempt=3))
    [copy] = made.broker.ladder()
    assert (copy.topic, copy.headers["attempt"]) == ("mail-wait-10m", b"3")
    assert made.broker.outcomes() == []
    made.campaigns.clear()
    await made.take(woken(copy))
    await settled()
    assert states(made) == ["delivered"]


@story
async def test_a_suppression_that_arrives_after_screen_is_obeyed():
    made = await world(rate=Rate(0.0, 0, 20, START + 3, "suspended"))
    [ticket] = await made.take(mail("a", "a@b.example"))
    await made.ticks(1)
    row = Suppression(tenant="default", to="a@b.example", reason="unsubscribe")
    made.suppressed.rows[row.key] = encode(row)
    await made.ticks(5)
    assert [(o.state, o.reason) for o in made.broker.outcomes()] == [("suppressed", "unsubscribe")]
    assert ticket.committable
    assert made.servers.tried == 0


@story
async def test_mail_that_waits_in_its_lane_is_not_sent_to_who_was_erased():
    made = await world(rate=Rate(0.0, 0, 20, START + 3, "suspended"))
    [ticket, other] = await made.take(mail("a", "a@b.example"), mail("b", "b@b.example"))
    await made.ticks(1)
    row = Suppression(tenant="", to=HASHES.of("a@b.example")[0], scope="global", reason="erased")
    made.suppressed.rows[row.key] = encode(row)
    await made.ticks(5)
    assert ("suppressed", "erased") in [(o.state, o.reason) for o in made.broker.outcomes()]
    assert ticket.committable
    assert [o.id for o in made.broker.outcomes() if o.state == "suppressed"] == [
        ticket.record.headers["id"].decode()
    ]
    assert other.record.headers["id"] != ticket.record.headers["id"]


@story
async def test_a_suppression_of_another_tenant_or_stream_does_not_count():
    made = await world(answer=lambda line: line.say(250, "ok"))
    for row in (
        Suppression(tenant="other", to="a@b.example", reason="unsubscribe"),
        Suppression(tenant="default", to="a@b.example", scope="stream", stream="news", reason="unsubscribe"),
        Suppression(tenant="default", to="a@b.example", reason="complaint", active=False),
        Suppression(tenant="default", to="a@b.example.org", reason="complaint"),
    ):
        made.suppressed.rows[row.key] = encode(row)
    await made.take(mail("a", "a@b.example"))
    await settled()
    assert states(made) == ["delivered"]


# -- DNS ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("hosts", "reason", "status"), [(NULL_MX, "null_mx", "5.1.10"), (NO_DOMAIN, "no_domain", "5.1.2")]
)
@story
async def test_a_domain_that_takes_no_mail_is_a_bounce(slow: bool, hosts, reason: str, status: str):
    made = await world()
    made.names.found["b.example"] = hosts
    if slow:
        made.names.slow["b.example"] = 1.5
    [ticket] = await made.take(mail("a"))
    await asyncio.sleep(2)
    [outcome] = made.broker.outcomes()
    assert (outcome.state, outcome.reason, outcome.phase) == ("bounced", reason, "dns")
    assert status in outcome.reply
    assert ticket.committable


@story
async def test_dns_that_does_not_answer_defers():
    made = await world()
    made.names.found["b.example"] = UNKNOWN
    await made.take(mail("a"))
    await settled()
    assert [(o.state, o.phase) for o in made.broker.outcomes()] == [("deferred", "dns")]
    assert len(made.broker.ladder()) == 1


@story
async def test_an_answer_of_dns_after_the_revoke_starts_nothing():
    made = await world(answer=lambda line: line.say(250, "ok"))
    made.names.slow["b.example"] = 1.0
    [ticket] = await made.take(mail("a"))
    await made.agent.revoked(0)
    await asyncio.sleep(3)
    assert made.broker.outcomes() == []
    assert not ticket.said_done


# -- connections --------------------------------------------------------------------------------------


@story
async def test_a_refused_connection_defers_and_is_told_with_its_source():
    made = await world()
    made.servers.refuse = lambda group, hosts: ConnectFailed(
        "connect", 421, "4.7.0 [TSS04] deferred", True, "reply", "mx.b.example"
    )
    await made.take(mail("a"))
    await made.ticks(1)
    [outcome] = made.broker.outcomes()
    assert (outcome.state, outcome.reply) == ("deferred", "421 4.7.0 [TSS04] deferred")
    reports = [encode_report(out) for out in made.broker.landed["mail-lane-reports"]]
    assert [reply["sample"] for report in reports for reply in report.get("replies", ())] == [
        "421 4.7.0 [TSS04] deferred"
    ]


@pytest.mark.parametrize(
    ("phase", "text"),
    [
        ("connect", "5.7.1 IP 192.0.2.1 is blocked"),
        ("connect", "5.1.1 User unknown"),
        ("connect", ""),
        ("ehlo", "5.7.1 bad HELO"),
        ("starttls", "5.7.0 no TLS for you"),
    ],
)
@story
async def test_a_refusal_before_mail_ends_no_mail_before_its_time(phase, text):
    """It is about us, never about a recipient, also with a 5xx."""
    made = await world()
    made.servers.refuse = lambda group, hosts: ConnectFailed(phase, 554, text, False, "reply", "mx.b.example")
    record = mail("a", expires=START + 3600)
    while True:
        before = len(made.broker.ladder())
        await made.take(record)
        await settled()
        if len(made.broker.ladder()) == before:
            break
        copy = made.broker.ladder()[-1]
        made.ahead += float(copy.headers["due"]) - made.clock()
        record = woken(copy)
    assert states(made)[:2] == ["deferred", "deferred"]
    assert states(made)[-1] == "expired"
    first = made.broker.outcomes()[0]
    assert (first.reply, first.phase, first.mx, first.reason) == (
        f"554 {text}",
        phase,
        "mx.b.example",
        "reply",
    )
    # A connection again: the next mail goes.
    made.servers.refuse = lambda group, hosts: None
    made.servers.answer = lambda line: line.say(250, "ok")
    await made.take(mail("b", "b@b.example"))
    await made.ticks(3)
    assert states(made, "b") == ["delivered"]


def encode_report(out) -> dict:
    import orjson

    return dict(orjson.loads(out.value))


@story
async def test_crowded_is_no_attempt_and_wakes_again():
    made = await world(rate=Rate(10_000.0, 4, 100, 0.0, ""))
    await made.take(mail("a", "a@b.example"))
    await settled()
    assert sending(made) == ["a"]
    made.servers.refuse = lambda group, hosts: ConnectFailed("connect", 421, "too many", True, "reply")
    await made.take(mail("b", "b@b.example"))
    await settled()
    tried = made.servers.tried
    assert made.broker.outcomes() == []
    await made.ticks(5)
    assert made.servers.tried == tried  # no further one is opened meanwhile
    made.servers.lines[0].say(250, "ok")
    await settled()
    assert sending(made) == ["b"]
    made.servers.lines[0].say(250, "ok")
    assert states(made) == ["delivered", "delivered"]
    assert [o.attempt for o in made.broker.outcomes("b")] == [1]
    made.agent.tick()
    samples = [
        r["sample"]
        for out in made.broker.landed["mail-lane-reports"]
        for r in encode_report(out).get("replies", ())
    ]
    assert samples == ["421 too many"]


@story
async def test_crowded_wakes_when_the_last_connection_is_gone():
    made = await world()
    await made.take(mail("a", "a@b.example"))
    await settled()
    made.servers.refuse = lambda group, hosts: ConnectFailed("connect", 421, "too many", True, "reply")
    await made.take(mail("b", "b@b.example"))
    await settled()
    made.servers.refuse = lambda group, hosts: None
    made.servers.lines[0].die()
    await asyncio.sleep(0.1)
    assert sending(made) == ["b"]


@story
async def test_a_dead_host_of_one_domain_does_not_hold_the_others_of_its_provider():
    made = await world(answer=lambda line: line.say(250, "ok"), rate=Rate(10_000.0, 40, 100, 0.0, ""))

    def refuse(group, hosts):
        if hosts[0].startswith("dead"):
            return ConnectFailed("connect", 0, "no address to send to", True, "no_hosts")
        return None

    made.servers.refuse = refuse
    records = []
    for n in range(20):
        name = f"dead{n}" if n % 2 else f"live{n}"
        made.names.found[f"{name}.example"] = hosts_of(f"{name}.mail.protection.outlook.com")
        records.append(mail(name, f"x@{name}.example", topic="mail-lane-microsoft365", offset=n))
    await made.take(*records)
    await asyncio.sleep(4.0)
    assert sorted(states(made)) == ["deferred"] * 10 + ["delivered"] * 10


@story
async def test_a_stale_idle_connection_is_no_attempt():
    made = await world(rate=Rate(10_000.0, 1, 100, 0.0, ""))
    await made.take(mail("a", "a@b.example"))
    await settled()
    [line] = made.servers.lines
    line.say(250, "ok")
    await made.take(mail("b", "b@b.example"))
    assert line.job.id == "b"
    line.finish("failed", 0, "the server closed an idle connection", "mail", close=True)
    await asyncio.sleep(0.5)
    assert states(made) == ["delivered"]
    assert sending(made) == ["b"]
    made.servers.lines[0].finish("failed", 0, "the server closed the connection", "mail", close=True)
    assert states(made, "b") == ["deferred"]  # the first mail of a connection: that is an attempt


@story
async def test_five_hundred_mails_that_no_server_of_this_kind_takes_do_not_nest():
    made = await world(answer=lambda line: line.say(250, "ok"))
    await made.take(mail("first", "x@b.example"))
    await asyncio.sleep(1.0)  # the allowance fills up: from here on nothing has to wait
    await made.take(*(mail(f"m{n}", "x@b.example", body=b"too big", offset=n) for n in range(500)))
    await made.ticks(2)
    assert states(made) == ["delivered"] + ["bounced"] * 500


@story
async def test_feeds_of_sites_that_have_nothing_left_are_forgotten():
    made = await world(answer=lambda line: line.say(250, "ok"))
    await made.take(*(mail(f"m{n}", f"x@d{n}.example", offset=n) for n in range(300)))
    await made.ticks(2)
    assert states(made) == ["delivered"] * 300
    await made.ticks(3)
    assert len(made.agent.feeds.feeds) == 300  # their connections are kept a while
    for line in list(made.servers.lines):
        line.quit()
    await made.ticks(3)
    assert len(made.agent.feeds.feeds) == 0
    await made.take(mail("again", "x@d1.example"))
    await settled()
    assert states(made, "again") == ["delivered"]


# -- what the guarantee forbids -----------------------------------------------------------------------


@story
async def test_without_freshness_nothing_starts_and_nothing_gets_its_dot():
    made = await world()
    await made.take(mail("a", "a@b.example"), mail("b", "b@b.example", offset=1))
    await settled()
    assert sorted(sending(made)) == ["a", "b"]
    made.is_fresh = False
    for line in list(made.servers.lines):
        assert not line.to_dot()
    await made.take(mail("c", "c@b.example"))
    await asyncio.sleep(5)
    assert sending(made) == []
    assert made.broker.outcomes() == []
    made.is_fresh = True
    await asyncio.sleep(1)
    assert sorted(sending(made)) == ["a", "b", "c"]
    for line in list(made.servers.lines):
        line.say(250, "ok")
    assert sorted(states(made)) == ["delivered"] * 3
    assert {outcome.attempt for outcome in made.broker.outcomes()} == {1}


@story
async def test_more_than_200_open_outcomes_stop_new_mail():
    made = await world(hold=True, answer=lambda line: line.say(250, "ok"))
    made.agent._settings = Settings(unacked_age=1e9)
    await made.take(*(mail(f"m{n}", "x@b.example", offset=n) for n in range(400)))
    await asyncio.sleep(0.9)
    assert 200 <= made.agent.journal.open == len(made.broker.flight) <= 204  # four were under way
    made.broker.ack(50)
    await asyncio.sleep(0.5)
    assert 200 <= made.agent.journal.open <= 204
    while made.broker.flight:
        made.broker.ack()
        await asyncio.sleep(0.1)
    assert len(states(made)) == 400


@story
async def test_an_outcome_that_is_open_for_over_a_second_stops_new_mail():
    made = await world(hold=True, answer=lambda line: line.say(250, "ok"))
    await made.take(mail("a"))
    await asyncio.sleep(1.1)
    await made.take(mail("b"))
    await asyncio.sleep(3)
    assert [out.key for out, _ in made.broker.flight] == [b"a"]
    made.broker.ack()
    await asyncio.sleep(0.1)
    assert [out.key for out, _ in made.broker.flight] == [b"b"]


@story
async def test_no_mail_without_a_fresh_view_of_suppressions():
    made = await world(answer=lambda line: line.say(250, "ok"))
    made.suppressed.is_fresh = False
    await made.take(mail("a"))
    await made.ticks(5)
    assert made.broker.outcomes() == []
    made.suppressed.is_fresh = True
    await asyncio.sleep(0.1)
    assert states(made) == ["delivered"]


@story
async def test_a_server_without_pipelining_is_asked_again_before_data():
    """``may_start`` is asked twice: the second time an outage of the broker counts too."""
    made = await world()
    await made.take(mail("a"))
    await settled()
    job = made.servers.lines[0].job
    assert job.may_start()
    made.suppressed.is_fresh = False
    assert not job.may_start()


# -- verdicts -----------------------------------------------------------------------------------------


@story
async def test_a_verdict_ends_with_its_outcome_and_obeys_the_gate():
    made = await world(answer=lambda line: line.say(250, "ok"))
    verdict = {"type": "verdict", "body": None, "reason": "template_error", "detail": "line 3: no such name"}
    [first, second] = await made.take(
        mail("a", outcome="rejected", **verdict), mail("a", outcome="expired", **verdict)
    )
    [outcome] = made.broker.outcomes()
    assert (outcome.state, outcome.reason, outcome.reply) == (
        "rejected",
        "template_error",
        "line 3: no such name",
    )
    assert first.committable
    assert second.committable
    [late] = await made.take(mail("a", attempt=2))
    await settled()
    assert late.committable
    assert states(made) == ["rejected"]


@story
async def test_a_verdict_behind_a_mail_under_way_waits_for_its_end():
    made = await world()
    await made.take(mail("a"))
    await settled()
    [verdict] = await made.take(mail("a", type="verdict", outcome="cancelled", body=None))
    assert verdict.committable
    [copy] = made.broker.ladder()
    assert (copy.headers["type"], copy.value) == (b"verdict", None)
    assert made.broker.outcomes() == []


# -- at most once -------------------------------------------------------------------------------------

ONCE = {"guarantee": "at_most_once"}


@story
async def test_at_most_once_journals_its_intent_before_mail():
    made = await world(hold=True)
    [ticket] = await made.take(mail("a", **ONCE))
    await asyncio.sleep(0.5)
    assert sending(made) == []
    assert [out.topic for out, _ in made.broker.flight] == ["mail-outcomes"]
    made.broker.ack()
    await settled()
    assert sending(made) == ["a"]
    made.servers.lines[0].say(250, "ok")
    made.broker.ack()
    assert states(made) == ["intent", "delivered"]
    assert ticket.committable


@story
async def test_at_most_once_journals_no_intent_for_a_mail_that_cannot_start():
    """A crash would end every one of them as unknown, though nothing was sent."""
    made = await world(rate=Rate(0.0, 0, 20, START + 3600, "suspended"))
    await made.take(*(mail(f"m{n}", "x@b.example", offset=n, **ONCE) for n in range(50)))
    await made.ticks(3)
    assert made.broker.outcomes() == []


@story
async def test_an_intent_without_an_outcome_ends_as_unknown():
    made = await world(hold=True)
    await made.take(mail("a", **ONCE))
    await settled()
    made.broker.ack()
    after = GateTwo(made.broker)
    await after.agent.assigned(0)
    [ticket] = await after.take(mail("a", **ONCE))
    made.broker.ack()
    [_, end] = made.broker.outcomes()
    assert (end.state, end.final, end.reason) == ("unknown", True, "intent_without_outcome")
    assert ticket.committable
    assert made.broker.ladder() == []


@story
async def test_at_most_once_lost_after_the_dot_ends_as_unknown():
    made = await world()
    [ticket] = await made.take(mail("a", **ONCE))
    await settled()
    made.servers.lines[0].to_dot()
    made.servers.lines[0].die()
    assert [(o.state, o.final) for o in made.broker.outcomes()] == [("intent", False), ("unknown", True)]
    assert made.broker.ladder() == []
    assert ticket.committable


@story
async def test_at_most_once_is_tried_again_after_a_refusal():
    made = await world(answer=lambda line: line.say(451, "4.0.0 later"))
    await made.take(mail("a", **ONCE))
    await settled()
    await made.take(woken(made.broker.ladder()[-1]))
    await settled()
    assert [(o.state, o.attempt) for o in made.broker.outcomes()] == [
        ("intent", 1),
        ("deferred", 1),
        ("intent", 2),
        ("deferred", 2),
    ]


@story
async def test_at_most_once_under_way_at_a_revoke_is_tried_again_where_nothing_was_sent():
    made = await world()
    await made.take(mail("a", "a@b.example", **ONCE), mail("b", "b@b.example", offset=1, **ONCE))
    await settled()
    for line in made.servers.lines:
        if line.job.id == "b":
            line.to_dot()
    await made.agent.revoked(0)
    assert [(o.state, o.final) for o in made.broker.outcomes("a")] == [("intent", False), ("deferred", False)]
    assert [(o.state, o.final) for o in made.broker.outcomes("b")] == [("intent", False), ("unknown", True)]
    [copy] = made.broker.ladder()
    assert (copy.headers["id"], copy.headers["attempt"]) == (b"a", b"2")


@story
async def test_at_most_once_held_and_then_aside_is_no_orphan():
    made = await world()
    await made.take(mail("a", **ONCE))
    await settled()
    made.is_fresh = False
    made.servers.lines[0].to_dot()
    made.campaigns["default/c"] = Campaign(id="c", sender="a@a.example", state="paused")
    made.is_fresh = True
    await made.ticks(2)
    made.campaigns.clear()
    made.servers.answer = lambda line: line.say(250, "ok")
    await made.take(woken(made.broker.ladder()[-1]))
    await settled()
    assert states(made)[-1] == "delivered"
    assert "unknown" not in states(made)


@story
async def test_an_intent_acknowledged_after_the_revoke_ran_out_of_time_is_not_sent():
    made = await world(hold=True)
    await made.take(mail("a", **ONCE))
    await settled()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.agent.revoked(0), 5)
    made.epoch += 1
    await made.agent.assigned(0)
    made.broker.ack()
    await made.ticks(2)
    assert sending(made) == []
    made.broker.ack()
    [copy] = made.broker.ladder()
    assert states(made) == ["intent", "deferred"]
    made.servers.answer = lambda line: line.say(250, "ok")
    await made.take(mail("x", "x@b.example"), woken(copy))
    made.broker.hold = False
    made.broker.ack()
    await made.ticks(3)
    assert states(made, "x") == ["delivered"]
    assert states(made, "a")[-1] == "delivered"


# -- revoke and stop ----------------------------------------------------------------------------------


@story
async def test_revoke_before_the_dot_leaves_the_mail_undone():
    made = await world()
    [started, _] = await made.take(mail("a"), mail("b", "b@c.example", offset=1))
    made.names.slow["c.example"] = 100
    await settled()
    await made.agent.revoked(0)
    assert not started.said_done
    assert made.broker.outcomes() == []
    assert made.broker.ladder() == []
    assert sending(made) == []


@story
async def test_revoke_past_the_dot_gives_ladder_and_unknown_and_journals_the_late_reply():
    made = await world()
    [ticket] = await made.take(mail("a"))
    await settled()
    line = made.servers.lines[0]
    line.to_dot()
    await made.agent.revoked(0)
    assert states(made) == ["unknown"]
    assert ticket.committable
    [copy] = made.broker.ladder()
    # Not before the dot's time-out: until then the reply may still come.
    assert float(copy.headers["due"]) - made.clock() >= 598
    line.say(250, "2.0.0 after all")
    assert states(made) == ["unknown", "delivered"]
    after = GateTwo(made.broker)
    await after.agent.assigned(0)
    [again] = await after.take(woken(copy))
    assert again.committable
    assert again.outs == []


@story
async def test_a_reply_within_the_settling_time_is_an_ordinary_outcome():
    made = await world()
    await made.take(mail("a"))
    await settled()
    line = made.servers.lines[0]
    line.to_dot()
    made.loop.call_later(1.0, line.say, 250, "ok")
    await made.agent.revoked(0)
    assert states(made) == ["delivered"]
    assert made.broker.ladder() == []


@story
async def test_revoke_waits_for_its_outcomes_and_the_state_is_closed():
    made = await world(hold=True)
    await made.take(mail("a"))
    await settled()
    made.servers.lines[0].say(250, "ok")
    made.loop.call_later(3.0, made.broker.ack)
    await made.agent.revoked(0)
    assert states(made) == ["delivered"]
    assert made.agent._rows.open_now == set()


@story
async def test_a_revoke_that_runs_out_of_time_closes_the_state_too():
    made = await world(hold=True)
    await made.take(mail("a"))
    await settled()
    made.servers.lines[0].say(250, "ok")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.agent.revoked(0), 5)
    assert made.agent._rows.open_now == set()
    made.broker.ack()  # the outcome still lands
    assert states(made) == ["delivered"]


@story
async def test_a_deferral_after_a_revoke_that_ran_out_of_time_is_not_lost():
    """Its journal entry alone would make the next owner drop the only copy."""
    made = await world(hold=True)
    await made.take(mail("a"))
    await settled()
    made.servers.lines[0].say(451, "4.0.0 later")
    await made.take(mail("b", "b@b.example"))
    await settled()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.agent.revoked(0), 5)
    while made.broker.flight:
        made.broker.ack()
    for outcome in made.broker.outcomes():
        if outcome.state in ("deferred", "unknown"):
            assert [
                c.headers["attempt"] for c in made.broker.ladder() if c.headers["id"] == outcome.id.encode()
            ] == [b"2"]


@story
async def test_an_intent_that_is_answered_when_the_partition_is_gone_leaves_ladder_and_outcome():
    """An outcome alone would make the next owner drop its record as a repeat."""
    made = await world(hold=True)
    [ticket] = await made.take(mail("a", **ONCE))
    await settled()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.agent.revoked(0), 5)
    while made.broker.flight:
        made.broker.ack(1)
    assert states(made) == ["intent", "deferred"]
    assert [copy.headers["attempt"] for copy in made.broker.ladder()] == [b"2"]
    assert not ticket.said_done  # its offset is not ours to commit
    assert made.agent._mails == {}


@story
async def test_stop_keeps_what_is_past_its_dot():
    made = await world()
    await made.take(mail("a"))
    await settled()
    line = made.servers.lines[0]
    line.to_dot()
    await made.agent.revoked(0)
    await made.agent.stop(1.0)
    line.say(550, "5.1.1 no such user")
    assert states(made) == ["unknown", "bounced"]


# -- hostile records ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"id": None},
        {"to": None},
        {"origin": None},
        {"id": b"\xff\xfe"},
        {"id": ""},
        {"to": b""},
        {"attempt": "-3"},
        {"attempt": "0"},
        {"attempt": "1.5"},
        {"attempt": "nan"},
        {"attempt": "1e308"},
        {"attempt": "one"},
        {"expires": "1e300"},
        {"expires": "-1"},
        {"expires": "inf"},
        {"expires": "soon"},
        {"received": "nan"},
        {"received": "1e300"},
        {"type": "verdict", "outcome": "exploded", "body": None},
        {"type": "verdict", "outcome": "deferred", "body": None},
        {"type": "verdict", "outcome": "", "body": None},
        {"type": "verdict", "body": None},
        {"type": "accepted"},
        {"body": None},
    ],
    ids=repr,
)
@story
async def test_a_record_that_cannot_be_a_mail_is_rejected_and_the_batch_goes_on(headers: dict):
    made = await world(answer=lambda line: line.say(250, "ok"))
    [_, bad, _] = await made.take(
        mail("before"), mail(**({"name": "bad"} | headers)), mail("after", offset=2)
    )
    await settled()
    assert bad.rejected is not None
    reason, detail = bad.rejected
    assert reason.replace("_", "").isalpha()
    assert detail
    assert sorted(o.id for o in made.broker.outcomes()) == ["after", "before"]
    assert made.agent.journal.open == 0
    assert made.agent._mails == {}


@story
async def test_the_hundredth_attempt_is_no_arithmetic_error():
    made = await world(answer=lambda line: line.say(451, "later"))
    await made.take(mail("a", attempt=9999))
    await settled()
    assert states(made) == ["deferred"]


# -- what replies say about coming back ---------------------------------------------------------------


def replying(klass: str, text: str):
    def said(reply: str, mx: str, phase: str, provider: str) -> Meaning:
        return Meaning(klass, "domain", "transient", "retry", "rule") if reply else PLAIN

    return said, lambda line: line.say(int(text[:3]), text[4:])


PLAIN = Meaning("unclassified", "", "unknown", "none", "none")


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("450 4.2.0 Greylisted, please try again in 400 seconds", 401, 431),
        ("450 4.2.0 Greylisted", 300, 300),
        ("450 4.2.0 Greylisted, try again in 30 seconds", 31, 34),
    ],
)
@story
async def test_a_greylisted_mail_comes_back_when_it_was_told_to(text, least, most):
    meaning, answer = replying("greylist", text)
    made = await world(answer=answer, meaning=meaning)
    await made.take(mail("a"))
    await settled()
    [outcome] = made.broker.outcomes()
    assert outcome.state == "deferred"
    assert least <= outcome.next_at - outcome.time <= most + 0.01


@story
async def test_a_4xx_that_says_never_ends_the_mail():
    meaning, answer = replying(
        "reputation", "421 4.7.1 [TS03] permanently deferred; retrying will not succeed"
    )
    made = await world(answer=answer, meaning=meaning)
    await made.take(mail("a"))
    await settled()
    [outcome] = made.broker.outcomes()
    assert (outcome.state, outcome.klass, outcome.action) == ("bounced", "reputation", "retry")


@story
async def test_what_expires_while_it_waits_tells_the_last_reply():
    made = await world(answer=lambda line: line.say(451, "4.3.2 busy " + "x" * 900))
    await made.take(mail("a"))
    await settled()
    [out] = made.broker.ladder()
    assert out.headers["reply"] == ("451 4.3.2 busy " + "x" * 900).encode()[:500]
    late = verdict(off_ladder(out.headers), "expired", "while_waiting", "too late")
    [ticket] = await made.take(msgspec.structs.replace(woken(out), headers=late, value=None))
    last = made.broker.outcomes()[-1]
    assert (last.state, last.reason, last.reply[:14]) == ("expired", "while_waiting", "451 4.3.2 busy")
    assert ticket.committable


@story
async def test_what_this_server_cannot_take_is_not_held_against_us():
    """``hold`` would slow the lane for an address that only needs another server."""
    held = Meaning("protocol", "config", "permanent", "hold", "protocol")
    made = await world(meaning=lambda *_: held)
    await made.take(mail("a", body=b"too big"))
    await settled()
    [outcome] = made.broker.outcomes()
    assert (outcome.state, outcome.action, outcome.scope) == ("bounced", "none", "domain")

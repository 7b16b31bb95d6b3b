"""Every stage runs over every example of what it consumes: no golden record may surprise an agent.

Mail on its way has no examples of its own: it is what the stages before make of the sends, so the chain
enqueue, screen, render, sign, wait is run over all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from agents import Out
from agents.classify.agent import Classify
from agents.classify.book import SqliteBook
from agents.deliver.allowance import Allowance
from agents.deliver.holds import Holds
from agents.deliver.job import Mail
from agents.deliver.row import newer, read_row, reduce_outcome
from agents.enqueue.campaigns import CheckCampaigns
from agents.score import policy as score
from agents.score.agent import Score
from agents.screen.consents import agreed, read_standing
from agents.shape.agent import Shaper
from agents.shape.campaigns import Campaigns
from agents.shape.rules import parse_policy
from agents.suppress import policy as suppress
from agents.suppress.agent import Suppress
from agents.suppress.asking import Asking
from agents.wait import policy as wait
from schemas.codec import Record, encode, parse, registered
from schemas.consent import StreamConsent
from schemas.consent_rules import ConsentRule, ConsentRules
from schemas.contact import Contact
from schemas.erasure import Pseudonyms
from schemas.event import MailEvent
from schemas.inbound import inbound_headers
from schemas.ladder import onto_ladder
from schemas.lane_policy import LanePolicy, Lease
from schemas.lane_report import LaneReport
from schemas.mail import is_verdict
from schemas.outcome import Outcome
from schemas.reply import load_rules
from schemas.suppression import Suppression
from streams.topics import BY_NAME
from tests.support.agents import FakeTicket, MemoryState, MemoryStates
from tests.support.examples import INBOUND, examples_of, read
from tests.support.passage import (
    NOW,
    STAGE,
    TOKENS,
    P,
    check,
    enqueued,
    examples,
    filled,
    of,
    rendered,
    screened,
    screener,
    signed,
    through,
)

RULES = load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))
MAIL = read(next(path for path in examples_of("outcome") if path.stem == "delivered")).id


# --- mail on its way


async def enqueue_reads_sends(_: Path) -> None:
    kinds = [record.text("type") for record in await enqueued()]
    assert (kinds.count("accepted"), kinds.count("verdict")) == (4, 3)


async def screen_reads_accepted(_: Path) -> None:
    assert len(await screened()) == 3  # refused: three by enqueue, one whose domain takes no mail


async def screen_reads_suppressions(_: Path) -> None:
    rows, nobody = MemoryStates("mail-screen-log"), MemoryState("mail-contacts")
    agent = screener(rows, filled("mail-suppressions", "suppression"), nobody)
    found = await through(agent, STAGE["screen"], await enqueued())
    told = [parse(record.value, MailEvent) for record in of("mail-events", found)]
    assert ("suppressed", "complaint") in {(event.kind, event.reason) for event in told}


async def screen_reads_consents(_: Path) -> None:
    for path in examples_of("consent"):
        row: StreamConsent = read(path)
        found = agreed(read_standing(path.read_bytes()), ConsentRule(require=True, tracking="consent"), NOW)
        assert (not found.refusal, found.letters) == (row.in_force(NOW), row.tracking.encode())


async def screen_reads_gate_rows(_: Path) -> None:
    rows = MemoryStates("mail-screen-log")
    rows.all[0] = filled("mail-screen-log", "gate")
    agent = screener(rows, MemoryState("mail-suppressions"), MemoryState("mail-contacts"))
    found = await through(agent, STAGE["screen"], await enqueued())
    told = [parse(record.value, MailEvent) for record in of("mail-events", found)]
    assert ("suppressed", "duplicate") in {(event.kind, event.reason) for event in told}


async def render_reads_accepted(_: Path) -> None:
    records = await rendered()
    mails = [record for record in records if not is_verdict(record)]
    assert len(records) == 3
    assert all(b"\r\n\r\n" in (record.value or b"") for record in mails)
    refused = {record.text("reason") for record in records if is_verdict(record)}
    assert (len(mails), refused) == (2, {"attachment"})  # no store is allowed here


async def sign_reads_mail(_: Path) -> None:
    records = await signed()
    assert len(records) == 3
    mails = [record for record in records if not is_verdict(record)]
    assert all((record.value or b"").count(b"DKIM-Signature:") == 2 for record in mails)


async def deliver_reads_mail(_: Path) -> None:
    for record in await signed():
        mail = Mail(FakeTicket(record), 0, NOW)
        assert (mail.attempt, mail.expires > NOW) == (1, True)
        assert bool(mail.body) is not is_verdict(record)


async def wait_reads_mail(_: Path) -> None:
    settings = wait.Settings()
    for record in await signed():
        for state in ("active", "paused", "cancelled"):
            for due in (NOW - 1, NOW + 90, NOW + 100_000, NOW + 1e9):
                topic, headers = onto_ladder(record.headers, record.topic, due, NOW)
                there = Record(topic, 0, 0, int(NOW * 1000), None, record.value, headers)
                slip = wait.read(there)
                assert wait.wakes_at(there, slip, settings.rungs, NOW) <= NOW + settings.rungs[-1].seconds
                later = max(NOW, due)
                aim, after = wait.onward(there, slip, state, settings, later)
                check(STAGE["wait"], Out(aim, record.value, after))


# --- what became of it


def classifier(folder: Path) -> Classify:
    return Classify(RULES, lambda n: SqliteBook(folder / f"{n}.sqlite"), lambda: NOW, TOKENS, P, "w1")


async def classify_reads_outcomes(folder: Path) -> None:
    agent, given = classifier(folder), examples("outcome", "mail-outcomes")
    told = [parse(out.value, MailEvent).kind for out in await through(agent, STAGE["classify"], given)]
    states = [parse(record.value, Outcome).state for record in given]
    assert told == [state for state in states if state != "intent"]


async def classify_reads_engagement(folder: Path) -> None:
    agent, given = classifier(folder), examples("engagement", "mail-engagement")
    await through(agent, STAGE["classify"], examples("outcome", "mail-outcomes"))
    told = [parse(out.value, MailEvent) for out in await through(agent, STAGE["classify"], given)]
    assert {
        path.stem: event.machine for path, event in zip(examples_of("engagement"), told, strict=True)
    } == {
        "minimal": True,  # no User-Agent
        "full": False,
        "clicked": False,
        "opened-by-proxy": True,
        "subscribed": False,
        "subscribed-confirmed": False,
        "subscription_requested": False,
        "consent_revoked": False,
    }


async def classify_reads_inbound(folder: Path) -> None:
    agent = classifier(folder)
    await through(agent, STAGE["classify"], examples("outcome", "mail-outcomes"))
    told = {}
    for path in INBOUND:
        headers = inbound_headers(NOW, "", TOKENS.verp(MAIL, 0, "bounces.acme.test"), "192.0.2.9", MAIL)
        given = Record("mail-inbound", 0, 0, int(NOW * 1000), None, path.read_bytes(), headers)
        told[path.stem] = [
            (event.kind, event.action)
            for out in await through(agent, STAGE["classify"], [given])
            for event in [parse(out.value, MailEvent)]
        ]
    assert told == {
        "dsn-failed": [("bounced", "suppress")],
        "dsn-delayed": [("deferred", "retry")],
        "arf-abuse": [("complained", "complaint")],
        "reply": [("replied", "none")],
        "auto-reply": [],
        "not-mime": told["not-mime"],  # whatever it is taken for
    }


async def deliver_reads_outcomes(_: Path) -> None:
    rows = [reduce_outcome(path.read_bytes())[0] for path in examples_of("outcome")]
    for row in rows:
        assert read_row(row).attempt >= 1
        for other in rows:  # of two entries at most one takes the other's place: they merge in any order
            assert not (newer(row, other) and newer(other, row))


async def deliver_reads_suppressions(_: Path) -> None:
    for path in examples_of("suppression"):
        row: Suppression = read(path)
        assert row.applies("acme", "marketing", NOW) is (path.stem not in ("full", "unsubscribe-released"))


async def suppress_reads_events(_: Path) -> None:
    states, consents = MemoryStates("mail-suppressions"), MemoryStates("mail-consents")
    rules = ConsentRules({("acme", "marketing"): ConsentRule(sender="Acme <a@acme.test>", wording="yes")})
    asking = Asking(
        consents, rules, lambda link: TOKENS.confirm_url("https://t.acme.test", link), lambda: NOW
    )
    names = Pseudonyms([b"0" * 32]).of
    agent = Suppress(states, suppress.Settings(), asking, names)
    await through(agent, STAGE["suppress"], examples("event", "mail-events"))
    assert names("anna@example.org")[0] in {parse(raw, Suppression).to for raw in states.all[0].rows.values()}
    agreed = [parse(raw, StreamConsent) for raw in consents.all[0].rows.values()]
    assert {row.to for row in agreed} >= {"li.wei+shop@example.org"}
    assert {change.basis for row in agreed for change in row.changes} >= {"purchase", "double_opt_in"}
    rows = [parse(raw, Suppression) for raw in states.all[0].rows.values()]
    assert {row.reason for row in rows} == {
        "hard_bounce",
        "soft_bounces",
        "complaint",
        "unsubscribe",
        "manual",
        "erased",
    }


async def screen_reads_erasures(_: Path) -> None:
    rows = MemoryStates("mail-screen-log")
    rows.all[0] = filled("mail-screen-log", "gate")
    rows.all[0].rows[b"c|anna@example.org|acme|c"] = b"{}"
    agent = screener(rows, MemoryState("mail-suppressions"), MemoryState("mail-contacts"))
    await through(agent, STAGE["screen"], examples("erasure", "mail-enqueued"))
    for _ in range(5):  # beside the mail
        await asyncio.sleep(0)
    assert b"c|anna@example.org|acme|c" not in rows.all[0].rows


async def classify_reads_erasures(folder: Path) -> None:
    agent = classifier(folder)
    assert await through(agent, STAGE["classify"], examples("erasure", "mail-engagement")) == []


async def score_reads_events(_: Path) -> None:
    states = MemoryStates("mail-contacts")
    agent = Score(states, score.Settings(), Pseudonyms([b"0" * 32]).of)
    await through(agent, STAGE["score"], examples("event", "mail-events"))
    contacts = [parse(raw, Contact) for raw in states.all[0].rows.values()]
    contact, mark = sorted(contacts, key=lambda row: row.erased)
    assert mark.to[0] == "#"
    assert (contact.delivered, contact.opens, contact.clicks, contact.machine_opens) == (1, 1, 1, 1)


async def suppress_reads_its_consents(_: Path) -> None:
    consents = MemoryStates("mail-consents")
    consents.all[0] = filled("mail-consents", "consent")
    asking = Asking(consents, ConsentRules(), lambda link: "", lambda: NOW)
    names = Pseudonyms([b"0" * 32]).of
    agent = Suppress(MemoryStates("mail-suppressions"), suppress.Settings(), asking, names)
    await through(agent, STAGE["suppress"], examples("event", "mail-events"))
    row = parse(consents.all[0].rows[b"li.wei@example.org|acme|marketing"], StreamConsent)
    assert (row.state, row.changes[0].source) == ("revoked", "one_click")


async def campaigns_reads_campaigns(_: Path) -> None:
    assert await through(CheckCampaigns(), STAGE["campaigns"], examples("campaign", "mail-campaigns")) == []


# --- how fast


FACTS = ("leader", "lane_policy", "lease", "decision", "lane_order")


def policy_facts() -> Iterable[tuple[int, Any]]:
    """The examples of all that is on mail-lane-policy, in several orders."""
    paths = [path for event in FACTS for path in examples_of(event)]
    return enumerate(read(path) for path in (*paths, *reversed(paths)))


def shaper() -> Shaper:
    return Shaper(parse_policy((resources.files("agents.shape") / "policy.toml").read_text("utf-8")))


async def shape_reads_policy(_: Path) -> None:
    agent = shaper()
    for offset, fact in policy_facts():
        agent.remember(fact, offset, 0.0)
    assert agent.published
    agent.lead(1000, 0.0)
    for policy in list(agent.published.values()):
        assert agent.renewed(policy).epoch == 1000
    facts, drops = agent.tick(NOW, 1e6)
    assert all(encode(fact) for fact in facts)
    assert any(key.startswith(b"lease|") for key in drops)


async def shape_reads_reports(_: Path) -> None:
    agent = shaper()
    agent.lead(1000, 0.0)
    facts = []
    for path in examples_of("lane_report"):
        report: LaneReport = read(path)
        facts += agent.on_report(report, report.time, 100.0)
    assert agent.refusals == 0
    assert {type(fact) for fact in facts} >= {LanePolicy, Lease}
    for fact in facts:
        assert parse(encode(fact), type(fact)) == fact


async def shape_reads_gates(_: Path) -> None:
    campaigns = Campaigns()
    for path in examples_of("campaign_gate"):
        campaigns.remember(read(path))
    for path in examples_of("lane_report"):
        campaigns.add(read(path), NOW)
    known = [read(path) for path in examples_of("campaign")]
    campaigns.due({campaign.key.decode(): campaign for campaign in known}, NOW)
    records, drops = campaigns.records(NOW)
    assert "acme/spring-2026" in {gate.name for gate in records}
    assert drops == []


async def deliver_reads_policy(_: Path) -> None:
    allowance = Allowance("deliver-0-4f2a", P)
    allowance.own(P)
    for number in (60, 61):
        allowance.sent(number, 100.0)
    for offset, fact in policy_facts():
        allowance.feed(offset, fact)
        rate = allowance.rate("google", "192.0.2.10", "acme.test", 100.5, NOW)
        assert 0.0 <= rate.rate <= 25.0
        assert allowance.take("google", "192.0.2.10", "acme.test", 100.5, NOW) >= 0.0


async def deliver_reads_holds(_: Path) -> None:
    holds = Holds()
    for path in examples_of("hold"):
        holds.feed(read(path))
    assert (holds.tenant("acme"), holds.tenant("other")) == ("paused", "active")
    assert not holds.source("192.0.2.10")


TABLE: dict[tuple[str, str], Callable[[Path], Awaitable[None]]] = {
    ("campaigns", "campaign"): campaigns_reads_campaigns,
    ("enqueue", "send"): enqueue_reads_sends,
    ("screen", "accepted"): screen_reads_accepted,
    ("screen", "suppression"): screen_reads_suppressions,
    ("screen", "consent"): screen_reads_consents,
    ("screen", "gate"): screen_reads_gate_rows,
    ("screen", "erasure"): screen_reads_erasures,
    ("render", "accepted"): render_reads_accepted,
    ("sign", "mail"): sign_reads_mail,
    ("deliver", "mail"): deliver_reads_mail,
    ("deliver", "outcome"): deliver_reads_outcomes,
    ("deliver", "suppression"): deliver_reads_suppressions,
    ("deliver", "lane_policy"): deliver_reads_policy,
    ("deliver", "hold"): deliver_reads_holds,
    ("wait", "mail"): wait_reads_mail,
    ("classify", "outcome"): classify_reads_outcomes,
    ("classify", "engagement"): classify_reads_engagement,
    ("classify", "inbound"): classify_reads_inbound,
    ("classify", "erasure"): classify_reads_erasures,
    ("suppress", "event"): suppress_reads_events,
    ("suppress", "consent"): suppress_reads_its_consents,
    ("score", "event"): score_reads_events,
    ("shape", "lane_report"): shape_reads_reports,
    ("shape", "lane_policy"): shape_reads_policy,
    ("shape", "campaign_gate"): shape_reads_gates,
}
"""(stage, event that it reads) -> runs it over all examples. What a stage follows by hand is here too."""


@pytest.mark.parametrize(("stage", "event"), TABLE)
async def test_a_stage_runs_over_every_example(stage: str, event: str, tmp_path: Path) -> None:
    await TABLE[stage, event](tmp_path)


def test_no_stage_is_left_out() -> None:
    wanted = {(stage.name, BY_NAME[topic].event) for stage in STAGE.values() for topic in stage.consumes}
    assert wanted <= set(TABLE), f"add {sorted(wanted - set(TABLE))} to TABLE"


def test_no_event_is_left_out() -> None:
    read_by_stages = {event for _, event in TABLE} | set(FACTS) | {"contact", "command", "replayed"}
    assert {name for name, _ in registered()} - read_by_stages == {
        "topology"
    }  # workers check it at their start

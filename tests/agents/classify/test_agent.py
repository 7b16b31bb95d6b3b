"""What comes back becomes events, and nobody but the mail's own recipient can be hurt by it."""

from __future__ import annotations

from importlib import resources

import pytest
from msgspec.structs import replace

from agents.classify.agent import STAGE, Classify
from agents.classify.book import SqliteBook
from agents.shape.agent import Shaper
from agents.shape.campaigns import Campaigns
from agents.shape.check import refused
from agents.shape.figures import Limits, Settings
from schemas.codec import Record, encode, parse
from schemas.engagement import Engagement
from schemas.erasure import Erasure
from schemas.event import MailEvent, headers_of
from schemas.identity import partition_of
from schemas.inbound import inbound_headers
from schemas.lane_report import LaneReport
from schemas.outcome import Outcome
from schemas.reply import load_rules
from schemas.token import Tokens
from tests.support.agents import FakeTicket
from tests.support.agents import record as record_of

RULES = load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))
TOKENS = Tokens([b"a secret of sixteen bytes or more"])
P = 8
TO = "anna@example.org"
PART = partition_of(TO, P)
ID = "00112233445566778899aabbccddeeff"
DOMAIN = "bounce.example.com"
NOW = 1_800_000_000.0


def make(tmp_path, tokens=TOKENS):
    return Classify(RULES, lambda n: SqliteBook(tmp_path / f"{n}.sqlite"), lambda: NOW, tokens, P, "w1")


async def run(agent, *records: Record) -> list[FakeTicket]:
    partition = records[0].partition
    if partition not in agent._books:
        await agent.assigned(partition)
    tickets = [FakeTicket(record) for record in records]
    await agent.batch(tickets, partition)
    assert all(ticket.committable for ticket in tickets)
    return tickets


def events(tickets) -> list[MailEvent]:
    outs = [out for ticket in tickets for out in ticket.outs if out.topic == "mail-events"]
    found = [parse(out.value, MailEvent) for out in outs]
    assert [out.headers for out in outs] == [headers_of(event.kind) for event in found]
    return found


def outcome(state="delivered", attempt=1, **fields) -> Record:
    fields = {"tenant": "t1", "campaign": "c1", "to": TO, "origin": "o1", "time": NOW} | fields
    fields = {"provider": "google", "source": "192.0.2.1", "dkim": "news.example.com"} | fields
    value = Outcome(id=ID, state=state, attempt=attempt, **fields)
    return Record("mail-outcomes", PART, 0, 0, None, encode(value), {"type": b"outcome", "version": b"1"})


def act(kind="opened", after=3600.0, agent="Mozilla/5.0 (X11) Firefox/140", **fields) -> Record:
    value = Engagement(
        kind=kind, mail=ID, tenant="t1", campaign="c1", to=TO, time=NOW + after, agent=agent, **fields
    )
    return Record(
        "mail-engagement", PART, 0, 0, None, encode(value), {"type": b"engagement", "version": b"1"}
    )


def inbound(raw: bytes, mail=ID, rcpt="", partition=PART, time=NOW + 60) -> Record:
    rcpt = rcpt or TOKENS.verp(ID, PART, DOMAIN)
    return Record(
        "mail-inbound", partition, 0, 0, None, raw, inbound_headers(time, "", rcpt, "192.0.2.9", mail)
    )


def dsn(status="5.1.1", diagnostic="550 5.1.1 User unknown", action="failed", who=TO, original="") -> bytes:
    return (
        "From: mailer-daemon@mx.example.org\nSubject: Undelivered\n"
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n"
        f"--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {who}\n"
        f"Action: {action}\nStatus: {status}\nDiagnostic-Code: smtp; {diagnostic}\n"
        f"\n--b\nContent-Type: message/rfc822\n\nMessage-ID: <{ID}@example.com>\n{original}\n\n--b--\n"
    ).encode()


def arf(original="", mail_from="", feedback="abuse") -> bytes:
    return (
        "From: fbl@provider.example\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\n\n"
        f"--b\nContent-Type: message/feedback-report\n\nFeedback-Type: {feedback}\nOriginal-Mail-From: <{mail_from}>\n"
        f"\n--b\nContent-Type: message/rfc822\n\nMessage-ID: <{ID}@example.com>\n{original}\n\n--b--\n"
    ).encode()


def link() -> str:
    token = TOKENS.mail_token(ID, "t1", "c1", "marketing", TO, PART, "google")
    return f"List-Unsubscribe: <{TOKENS.unsubscribe_url('https://e.example.com', token)}>"


# --- outcomes


@pytest.mark.parametrize(
    "state", ["delivered", "bounced", "deferred", "expired", "cancelled", "suppressed", "rejected", "unknown"]
)
async def test_an_outcome_is_told(tmp_path, state):
    (told,) = events(
        await run(make(tmp_path), outcome(state, 2, action="soft", klass="full", reply="552 full"))
    )
    assert (told.kind, told.mail, told.attempt, told.to, told.tenant) == (state, ID, 2, TO, "t1")
    assert (told.action, told.klass, told.reply, told.origin) == ("soft", "full", "552 full", "o1")
    assert told.terminal is (state not in ("deferred", "unknown"))


async def test_an_intent_is_not_told(tmp_path):
    assert events(await run(make(tmp_path), outcome("intent"))) == []


async def test_a_replay_tells_the_same(tmp_path):
    agent = make(tmp_path)
    records = [outcome("deferred", 1), outcome("deferred", 2), outcome("delivered", 3), act(), inbound(dsn())]
    first, again = events(await run(agent, *records)), events(await run(agent, *records))
    assert first == again
    assert len({told.id for told in first}) == 5


# --- bounces


async def test_a_late_bounce_belongs_to_the_mail_that_its_token_names(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    (told,) = events(await run(agent, inbound(dsn(who="alias@forward.example"))))
    assert (told.kind, told.reason, told.action, told.terminal) == ("bounced", "late_dsn", "suppress", True)
    assert (told.to, told.tenant, told.campaign, told.origin) == (TO, "t1", "c1", "o1")
    assert (told.klass, told.provider, told.dkim) == ("unknown_user", "google", "news.example.com")


@pytest.mark.parametrize(
    ("status", "diagnostic", "action", "kind", "then"),
    [
        ("5.2.2", "552 5.2.2 Mailbox full", "failed", "bounced", "soft"),
        ("5.7.1", "550 5.7.1 spam", "failed", "bounced", "hold"),
        ("4.4.7", "delivery time expired", "failed", "bounced", "soft"),
        ("4.4.1", "451 4.4.1 no answer", "delayed", "deferred", "retry"),
        ("5.1.1", "550 5.1.1 User unknown", "delayed", "deferred", "retry"),
    ],
)
async def test_what_a_report_leads_to(tmp_path, status, diagnostic, action, kind, then):
    agent = make(tmp_path)
    await run(agent, outcome())
    (told,) = events(await run(agent, inbound(dsn(status, diagnostic, action))))
    assert (told.kind, told.action, told.terminal) == (kind, then, kind == "bounced")


async def test_a_success_report_says_nothing(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    assert events(await run(agent, inbound(dsn("2.0.0", "250 OK", "delivered")))) == []


async def test_a_forged_report_hurts_nobody(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    forged = inbound(dsn(), mail="", rcpt=f"postmaster@{DOMAIN}")
    (told,) = events(await run(agent, forged))
    assert (told.action, told.to, told.reason, told.terminal) == ("none", "", "unverified", False)
    assert "no token" in told.detail
    (told,) = events(await run(agent, inbound(arf(), mail="", rcpt=f"fbl@{DOMAIN}")))
    assert (told.action, told.to, told.reason) == ("none", "", "unverified")
    assert agent.flush(NOW) == []


async def test_a_token_for_one_mail_does_not_bounce_another_recipient(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    (told,) = events(await run(agent, inbound(dsn(who="victim@example.org"))))
    assert told.to == TO


async def test_a_lost_book_is_made_up_for_by_the_links_that_a_report_quotes(tmp_path):
    (told,) = events(await run(make(tmp_path), inbound(dsn(original=link()))))
    assert (told.to, told.tenant, told.action) == (TO, "t1", "suppress")


async def test_without_book_and_links_a_report_counts_against_nobody(tmp_path):
    (told,) = events(await run(make(tmp_path), inbound(dsn())))
    assert (told.mail, told.to, told.action, told.reason) == (ID, "", "none", "unverified")
    other = link().replace("/u/", "/u/x")  # a token that was tampered with
    (told,) = events(await run(make(tmp_path), inbound(dsn(original=other))))
    assert told.action == "none"


# --- complaints, unsubscribes, answers


async def test_a_complaint_to_a_common_address_goes_to_the_partition_of_its_mail(tmp_path):
    agent, common = make(tmp_path), (PART + 1) % P
    verp = TOKENS.verp(ID, PART, DOMAIN)
    (ticket,) = await run(
        agent, inbound(arf(mail_from=verp), mail="", rcpt=f"fbl@{DOMAIN}", partition=common)
    )
    (out,) = ticket.outs
    assert (out.topic, out.partition, out.headers["id"]) == ("mail-inbound", PART, ID.encode())
    await run(agent, outcome())
    (told,) = events(await run(agent, Record(out.topic, PART, 1, 0, None, out.value, out.headers)))
    assert (told.kind, told.action, told.to, told.tenant) == ("complained", "complaint", TO, "t1")


async def test_not_spam_and_auto_replies_say_nothing(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    assert events(await run(agent, inbound(arf(feedback="not-spam")))) == []
    away = b"From: anna@example.org\nAuto-Submitted: auto-replied\nSubject: away\n\nI am away\n"
    assert events(await run(agent, inbound(away))) == []


async def test_an_unsubscribe_by_mail(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    rcpt = TOKENS.unsubscribe_address(ID, PART, DOMAIN)
    (told,) = events(
        await run(agent, inbound(b"From: Anna <other@example.org>\nSubject: please\n\n", rcpt=rcpt))
    )
    assert (told.kind, told.action, told.to, told.tenant) == ("unsubscribed", "unsubscribe", TO, "t1")


async def test_an_unsubscribe_long_after_the_mail_is_forgotten(tmp_path):
    rcpt = TOKENS.unsubscribe_address(ID, PART, DOMAIN)
    (told,) = events(
        await run(make(tmp_path), inbound(b"From: Anna@Example.org\nSubject: stop\n\n", rcpt=rcpt))
    )
    assert (told.kind, told.to, told.tenant) == ("unsubscribed", TO, "default")
    stranger = next(f"s{n}@example.org" for n in range(99) if partition_of(f"s{n}@example.org", P) != PART)
    assert events(await run(make(tmp_path), inbound(f"From: {stranger}\n\n".encode(), rcpt=rcpt))) == []


async def test_a_person_answers(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    (told,) = events(await run(agent, inbound(b"From: anna@example.org\nSubject: Re: hello\n\nThanks\n")))
    assert (told.kind, told.action, told.to) == ("replied", "none", TO)


# --- readers


@pytest.mark.parametrize(
    ("agent", "after", "address", "machine"),
    [
        ("Mozilla/5.0 (iPhone) Mobile/15E148", 600.0, "192.0.2.4", False),
        ("Mozilla/5.0 (X11) Firefox/140", 0.4, "192.0.2.4", True),
        ("Mozilla/5.0", 600.0, "192.0.2.4", True),
        ("Mozilla/5.0 (Macintosh) Safari/605", 600.0, "17.58.1.1", True),
        ("Mozilla/5.0 Chrome/42.0.2311.135 Safari/537.36 Edge/12.246", 600.0, "66.249.1.1", True),
        ("Mozilla/5.0 Firefox/11.0 (via ggpht.com GoogleImageProxy)", 600.0, "66.249.1.1", False),
        ("Mozilla/5.0 (compatible; Barracuda Sentinel)", 600.0, "192.0.2.4", True),
        ("python-requests/2.32", 600.0, "192.0.2.4", True),
        ("", 600.0, "192.0.2.4", True),
    ],
)
async def test_machines_are_told_from_people(tmp_path, agent, after, address, machine):
    classify = make(tmp_path)
    await run(classify, outcome())
    for kind in ("opened", "clicked"):
        (told,) = events(await run(classify, act(kind, after, agent, address=address)))
        assert (told.kind, told.machine, told.source) == (kind, machine, "192.0.2.1")
    (told,) = events(await run(classify, act("unsubscribed", after, agent, address=address, one_click=True)))
    assert (told.machine, told.action, told.reason) == (False, "unsubscribe", "one_click")


async def test_what_cannot_be_read_is_dead_lettered_and_the_rest_goes_on(tmp_path):
    bad = Record("mail-engagement", PART, 0, 0, None, b"{", {})
    tickets = await run(make(tmp_path), bad, outcome())
    assert tickets[0].rejected is not None
    assert tickets[0].rejected[0] == "bad_json"
    assert len(events(tickets)) == 1


# --- sums


async def test_sums_go_to_shape_once(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    robot = act("opened", 700.0, "curl/8")
    await run(agent, act(), act("clicked", url="https://example.com/"), robot, inbound(dsn()), inbound(arf()))
    (out,) = agent.flush(NOW + 1)
    report = parse(out.value, LaneReport)
    assert (out.topic, out.partition, out.headers["type"]) == ("mail-lane-reports", 0, b"lane_report")
    assert (report.worker, report.number, report.kind, report.time) == ("w1", 1, "feedback", NOW + 1)
    assert (report.provider, report.source, report.dkim) == ("google", "192.0.2.1", "news.example.com")
    assert (report.opens, report.clicks, report.complaints, report.late_bounces) == (1, 1, 1, 1)
    assert [(r.klass, r.action, r.count, r.domain) for r in report.replies] == [
        ("unknown_user", "suppress", 1, "example.org")
    ]
    assert agent.flush(NOW + 2) == []


async def test_a_partition_goes_and_comes_back_with_its_book(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    await agent.revoked(PART)
    await agent.revoked(PART)
    (told,) = events(await run(agent, inbound(dsn())))
    assert told.to == TO


async def test_it_works_without_tokens(tmp_path):
    agent = make(tmp_path, tokens=None)
    await run(agent, outcome())
    (told,) = events(await run(agent, inbound(dsn())))
    assert told.action == "suppress"
    (told,) = events(await run(agent, inbound(arf(mail_from=TOKENS.verp(ID, PART, DOMAIN)), mail="")))
    assert told.action == "none"


def test_the_stage():
    assert STAGE.consumes == ("mail-outcomes", "mail-inbound", "mail-engagement")
    assert not STAGE.twins


# --- what is believed


def common(raw: bytes, partition: int, **headers: bytes) -> Record:
    found = inbound_headers(NOW + 60, "", f"postmaster@{DOMAIN}", "192.0.2.9") | headers
    return Record("mail-inbound", partition, 0, 0, None, raw, found)


@pytest.mark.parametrize(("days", "believed"), [(0.0, True), (13.9, True), (14.1, False), (-0.1, False)])
async def test_a_bounce_counts_only_at_a_plausible_age(tmp_path, days, believed):
    agent = make(tmp_path)
    await run(agent, outcome())
    (told,) = events(await run(agent, inbound(dsn(), time=NOW + days * 86400)))
    assert (told.action, told.to, told.reason, told.terminal) == (
        ("suppress", TO, "late_dsn", True) if believed else ("none", "", "implausible", False)
    )


async def test_a_message_id_of_ours_counts_for_a_mail_that_is_remembered(tmp_path):
    agent, elsewhere = make(tmp_path), (PART + 1) % P
    raw = dsn(original="").replace(f"<{ID}@".encode(), f"<{ID}.0011aabb@".encode())
    (ticket,) = await run(agent, common(raw, elsewhere))
    (out,) = ticket.outs
    assert (out.topic, out.partition, out.headers["claim"]) == ("mail-inbound", PART, b"message-id")
    again = Record(out.topic, PART, 1, 0, None, out.value, out.headers)
    (told,) = events(await run(agent, again))
    assert (told.action, told.reason, told.mail) == ("none", "unverified", "")
    await run(agent, outcome())
    (told,) = events(await run(agent, again))
    assert (told.action, told.to, told.mail) == ("suppress", TO, ID)


async def test_a_message_id_does_not_bounce_somebody_else(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    victim = next(f"v{n}@example.org" for n in range(99) if partition_of(f"v{n}@example.org", P) == PART)
    raw = dsn(who=victim).replace(f"<{ID}@".encode(), f"<{ID}.0011aabb@".encode())
    (told,) = events(await run(agent, common(raw, PART)))
    assert (told.action, told.to, told.reason) == ("none", "", "unverified")


async def test_a_flood_about_one_address_is_capped_and_told(tmp_path):
    rung: list[str] = []
    agent = Classify(
        RULES, lambda n: SqliteBook(tmp_path / f"{n}.sqlite"), lambda: NOW, TOKENS, P, "w1", alarm=rung.append
    )
    await run(agent, outcome())
    told = events(await run(agent, *[inbound(dsn(), time=NOW + 60 + n) for n in range(12)]))
    assert [one.action for one in told] == ["suppress"] * 10 + ["hold"] * 2
    assert {one.reason for one in told[10:]} == {"flood"}
    assert rung == ["address", "address"]
    assert len({one.id for one in told}) == 1  # one mail bounces once
    (later,) = events(await run(agent, inbound(dsn(), time=NOW + 7300)))
    assert later.action == "suppress"


async def test_somebody_writes_stop(tmp_path):
    agent = make(tmp_path)
    await run(agent, outcome())
    raw = "From: anna@example.org\nSubject: AW: News\n\nBitte abmelden!\n\nAm 1.6. schrieb Shop:\n> Hallo\n"
    (told,) = events(await run(agent, inbound(raw.encode())))
    assert (told.kind, told.action, told.to) == ("unsubscribed", "unsubscribe", TO)
    (told,) = events(await run(agent, inbound(arf(feedback="opt-out"))))
    assert (told.kind, told.reason) == ("unsubscribed", "opt-out")


# --- what shape hears of it


async def test_a_complaint_about_a_site_without_a_lane_of_its_own_reaches_the_limits_and_the_campaign(
    tmp_path,
):
    agent = make(tmp_path)
    await run(agent, outcome(provider="", site="mx.small.example"))
    await run(agent, inbound(arf()), act("opened"))
    (report,) = (parse(out.value, LaneReport) for out in agent.flush(NOW))
    assert (report.provider, report.source, report.dkim) == (
        "mx.small.example",
        "192.0.2.1",
        "news.example.com",
    )
    assert refused(report) == ""
    shaper, gates = Shaper(Settings(Limits(2, 20, 1.0, 0.05, 20.0))), Campaigns()
    shaper.lead(0, 0.0, NOW)
    shaper.on_report(report, NOW, 0.0)
    gates.add(report, NOW)
    assert shaper.refusals == 0
    assert {key: limit.tally.complaints for key, limit in shaper.state.items()} == {
        ("source", "192.0.2.1", "mx.small.example"): 1,
        ("dkim", "news.example.com", "mx.small.example"): 1,
    }
    assert gates.kept["t1/c1"].complaints == 1


async def test_a_complaint_about_a_mail_that_is_no_longer_remembered_reaches_its_campaign(tmp_path):
    agent = make(tmp_path)
    token = TOKENS.mail_token(ID, "t1", "c1", "marketing", TO, PART, "")
    link = f"List-Unsubscribe: <{TOKENS.unsubscribe_url('https://e.example.com', token)}>"
    await run(agent, inbound(arf(link)))
    (report,) = (parse(out.value, LaneReport) for out in agent.flush(NOW))
    assert (report.provider, report.source, report.dkim) == ("", "", "")
    assert refused(report) == ""
    shaper, gates = Shaper(Settings(Limits(2, 20, 1.0, 0.05, 20.0))), Campaigns()
    shaper.lead(0, 0.0, NOW)
    assert shaper.on_report(report, NOW, 0.0) == []
    gates.add(report, NOW)
    assert (shaper.refusals, shaper.state) == (0, {})
    assert gates.kept["t1/c1"].complaints == 1
    # Deliver knows where its mail went.
    assert refused(replace(report, kind="delivery")) == "provider and source must be named"


async def test_whose_mail_it_was_is_forgotten_when_suppress_says_so(tmp_path):
    agent = Classify(RULES, lambda p: SqliteBook(tmp_path / "b"), lambda: 1e9, TOKENS)
    await agent.assigned(0)
    mails = [f"{n:032x}" for n in range(2)]
    people = ["anna@example.org", "eve@example.org"]
    delivered = [
        FakeTicket(
            record_of(Outcome(id=id, state="delivered", attempt=1, to=to, time=1e9), topic="mail-outcomes")
        )
        for id, to in zip(mails, people, strict=True)
    ]
    await agent.batch(delivered, 0)
    order = FakeTicket(record_of(Erasure(id="e", to=people[0]), topic="mail-engagement"))
    await agent.batch([order], 0)
    assert order.committable
    assert order.outs == []
    opened = [
        FakeTicket(
            record_of(Engagement(kind="opened", mail=id, tenant="t", campaign="c"), topic="mail-engagement")
        )
        for id in mails
    ]
    await agent.batch(opened, 0)
    assert [parse(ticket.outs[0].value, MailEvent).to for ticket in opened] == ["", people[1]]

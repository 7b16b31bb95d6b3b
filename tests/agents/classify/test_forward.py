"""What people answer goes on once, harmless and to nobody who would send it back."""

from __future__ import annotations

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.classify.agent import STAGE, Classify
from agents.classify.book import SqliteBook
from agents.classify.forward import CAMPAIGN, Answer, Forwards, Limits, Routes, routes_of, subject_of
from schemas.campaign import Campaign
from schemas.codec import Record, encode, parse
from schemas.event import MailEvent
from schemas.identity import partition_of
from schemas.inbound import inbound_headers
from schemas.outcome import Outcome
from schemas.reply import load_rules
from schemas.send import Send
from schemas.token import Tokens
from tests.support.agents import FakeTicket

RULES = load_rules((resources.files("schemas") / "replies.toml").read_text("utf-8"))
TOKENS = Tokens([b"a secret of sixteen bytes or more"])
P, TO, ID, DOMAIN, NOW = (
    8,
    "anna@example.org",
    "00112233445566778899aabbccddeeff",
    "bounce.example.com",
    1.8e9,
)
PART = partition_of(TO, P)
DESK, FROM = "replies@shop.example", "news@shop.example"
ROUTES = routes_of([f"t1={DESK}"], [f"*={FROM}"], DOMAIN)
EVENT = MailEvent(id="e1", kind="replied", mail=ID, time=NOW, tenant="t1", campaign="c1", to=TO)
ANSWER = Answer(TO, "Hello", "When do you open?", b"raw")


def make(tmp_path, routes=ROUTES, campaigns=None, limits=None):
    forwards = Forwards(routes, {} if campaigns is None else campaigns, limits)
    return Classify(
        RULES,
        lambda n: SqliteBook(tmp_path / f"{n}.sqlite"),
        lambda: NOW,
        TOKENS,
        P,
        "w1",
        forwards=forwards,
    )


async def run(agent, *records: Record):
    """What the agent writes, each batch in its partition; the event of each mail that came in."""
    outs = []
    for record in records:
        if record.partition not in agent.owned:
            await agent.assigned(record.partition)
        ticket = FakeTicket(record)
        await agent.batch([ticket], record.partition)
        assert ticket.committable
        assert ticket.rejected is None
        assert {out.topic.removesuffix("-now") for out in ticket.outs} <= set(STAGE.emits)
        outs += ticket.outs
    return outs


def delivered(to=TO, campaign="c1", tenant="t1") -> Record:
    value = Outcome(
        id=ID, state="delivered", attempt=1, tenant=tenant, campaign=campaign, to=to, origin="o", time=NOW
    )
    headers = {"type": b"outcome", "version": b"1"}
    return Record("mail-outcomes", partition_of(to, P), 0, 0, None, encode(value), headers)


def letter(text="When do you open?", subject="Re: Hello", sender=TO, more="", **how) -> Record:
    raw = how.get("raw") or f"From: Anna <{sender}>\nSubject: {subject}\n{more}\n{text}\n".encode()
    partition = how.get("partition", PART)
    rcpt = how.get("rcpt") or TOKENS.verp(ID, partition, DOMAIN)
    headers = inbound_headers(
        how.get("time", NOW + 60), how.get("envelope", sender), rcpt, "192.0.2.9", how.get("mail", ID)
    )
    return Record("mail-inbound", partition, 0, 0, None, raw, headers)


def sends(outs) -> list[Send]:
    return [parse(out.value, Send) for out in outs if out.topic == "mail-sends-now"]


def kinds(outs) -> list[str]:
    return [parse(out.value, MailEvent).kind for out in outs if out.topic == "mail-events"]


async def test_an_answer_is_forwarded(tmp_path):
    outs = await run(make(tmp_path), delivered(), letter())
    assert [out.topic for out in outs] == ["mail-events", "mail-campaigns", "mail-sends-now", "mail-events"]
    campaign, (send,) = parse(outs[1].value, Campaign), sends(outs)
    told = parse(outs[-1].value, MailEvent)
    assert (campaign.id, campaign.tenant, campaign.sender) == (CAMPAIGN, "t1", FROM)
    assert (campaign.stream, campaign.tracking, outs[1].key) == ("transactional", False, campaign.key)
    assert (send.campaign, send.tenant, send.to, send.reply_to) == (CAMPAIGN, "t1", DESK, TO)
    assert (told.kind, send.key, outs[2].key) == ("replied", f"forward|{told.id}", DESK.encode())
    assert send.variables["subject"] == "Re: Hello"
    assert send.variables["said"] == "When do you open?"
    assert f"{TO} answered the mail of campaign c1 to {TO}." in send.variables["about"]
    (file,) = send.attachments
    assert (file.filename, file.data) == ("reply.eml", letter().value)


async def test_the_same_answer_again_makes_the_same_send(tmp_path):
    first = sends(await run(make(tmp_path), delivered(), letter()))
    agent = make(tmp_path, limits=Limits(hourly=1))
    assert sends(await run(agent, letter(), letter())) == first * 2


async def test_who_writes_stop_leaves_and_is_forwarded(tmp_path):
    outs = await run(make(tmp_path), delivered(), letter("Bitte abmelden!", "AW: News"))
    assert kinds(outs) == ["delivered", "unsubscribed"]
    (send,) = sends(outs)
    assert send.variables["subject"] == "Re: News"
    assert "have been unsubscribed" in send.variables["about"]


@pytest.mark.parametrize(
    "mail",
    [
        letter(more="Auto-Submitted: auto-replied\n"),
        letter("I am away.", "Out of office"),
        letter(envelope=""),
        letter(raw=b"From: mailer-daemon@mx.example\nSubject: Undelivered Mail Returned to Sender\n\n"
               b"<anna@example.org>: 550 5.1.1 User unknown\n", envelope=""),
        letter("", "unsubscribe", rcpt=TOKENS.unsubscribe_address(ID, PART, DOMAIN)),
        letter("please", "hello", rcpt=TOKENS.unsubscribe_address(ID, PART, DOMAIN)),
        letter(mail="", rcpt=f"postmaster@{DOMAIN}"),
    ],
    ids=["auto_reply", "vacation", "null_sender", "bounce", "one_click", "to_unsubscribe", "nobody's"],
)  # fmt: skip
async def test_what_is_for_nobody_to_read_goes_nowhere(tmp_path, mail):
    assert sends(await run(make(tmp_path), delivered(), mail)) == []


async def test_without_a_route_nothing_is_forwarded(tmp_path):
    other = make(tmp_path, routes_of([f"t2={DESK}"], [f"t2={FROM}"], DOMAIN))
    outs = await run(other, delivered(), letter())
    assert [out.topic for out in outs] == ["mail-events"] * 2
    other = make(tmp_path, Routes({}, {}))
    assert sends(await run(other, letter())) == []


@pytest.mark.parametrize(("to", "campaign"), [(DESK, CAMPAIGN), (TO, CAMPAIGN), (DESK, "c1")])
async def test_what_would_come_round_goes_nowhere(tmp_path, to, campaign):
    partition = partition_of(to, P)
    outs = await run(
        make(tmp_path), delivered(to, campaign), letter("Thanks, we got it", sender=to, partition=partition)
    )
    assert (kinds(outs), sends(outs)) == (["delivered", "replied"], [])


async def test_an_answer_to_a_common_address_counts_from_the_recipient_of_that_mail(tmp_path):
    agent = make(tmp_path)
    more, where = f"In-Reply-To: <{ID}.0011aabb@shop.example>\n", {"mail": "", "rcpt": f"replies@{DOMAIN}"}
    elsewhere = (PART + 1) % P
    (moved,) = await run(agent, letter("Stop", "Re: News", more=more, partition=elsewhere, **where))
    assert (moved.topic, moved.partition) == ("mail-inbound", PART)
    again = Record("mail-inbound", PART, 0, 0, None, moved.value, moved.headers)
    outs = await run(agent, delivered(), again)
    assert kinds(outs) == ["delivered", "unsubscribed"]
    assert len(sends(outs)) == 1
    # Somebody else's, and a mail that nobody remembers.
    stranger = next(f"s{n}@example.org" for n in range(99) if partition_of(f"s{n}@example.org", P) == PART)
    assert await run(agent, letter("Stop", sender=stranger, more=more, **where)) == []
    assert await run(agent, letter("Stop", more=more.replace(ID, ID[::-1]), **where)) == []


async def test_so_many_an_hour(tmp_path):
    agent = make(tmp_path, limits=Limits(hourly=2))
    letters = [letter(time=NOW + n) for n in range(4)]
    outs = await run(agent, delivered(), *letters)
    assert len(sends(outs)) == 2
    told = [parse(out.value, MailEvent) for out in outs if out.topic == "mail-events"]
    assert ["not forwarded" in event.detail for event in told] == [False, False, False, True, True]
    assert len(sends(await run(agent, letter(time=NOW + 3600)))) == 1


async def test_a_large_answer_goes_on_without_its_attachments(tmp_path):
    big = letter("word " * 50_000).value
    (send,) = sends(await run(make(tmp_path), delivered(), letter(raw=big)))
    assert send.attachments == ()
    assert f"{len(big)} bytes" in send.variables["about"]
    assert "first 50000 characters" in send.variables["about"]
    assert len(send.variables["said"]) <= 50_000
    assert len(encode(send)) < 100_000


def test_the_largest_send_is_one_that_is_taken():
    from agents.enqueue.policy import Settings as Enqueue

    limits = Limits()
    answer = Answer(TO, "s" * 998, "\U0001f4e7" * limits.text, b"x" * limits.attached)
    _, outs = Forwards(ROUTES, {}).take(EVENT, lambda: answer)
    assert len(outs[1].value) < Enqueue().largest
    assert limits.attached <= Enqueue().inline_attachments


def test_tokens_in_what_is_quoted_are_cut():
    link = TOKENS.unsubscribe_url(
        "https://e.example", TOKENS.mail_token(ID, "t1", "c1", "marketing", TO, PART, "")
    )
    path = TOKENS.verp(ID, PART, DOMAIN)
    _, outs = Forwards(ROUTES, {}).take(EVENT, lambda: ANSWER._replace(text=f"Why?\n> {link}\n> {path}\n"))
    (send,) = sends(outs)
    assert link.rpartition("/")[2] not in send.variables["said"]
    assert path.partition("@")[0] not in send.variables["said"]
    assert send.variables["said"].startswith("Why?\n> https://e.example/u/...")


def test_a_campaign_is_published_where_another_one_or_none_stands():
    campaigns: dict[str, Campaign] = {}
    forwards = Forwards(ROUTES, campaigns)
    made = parse(forwards.take(EVENT, lambda: ANSWER)[1][0].value, Campaign)
    campaigns[made.key.decode()] = replace(made, state="paused")
    assert [out.topic for out in forwards.take(EVENT, lambda: ANSWER)[1]] == ["mail-sends-now"]
    campaigns[made.key.decode()] = replace(made, state="paused", sender="old@shop.example")
    new = parse(forwards.take(EVENT, lambda: ANSWER)[1][0].value, Campaign)
    assert new == replace(made, state="paused")


@pytest.mark.parametrize(
    ("subject", "seen"),
    [
        ("Hello", "Re: Hello"),
        ("RE: AW: Re[2]: Hello", "Re: Hello"),
        ("", "Re:"),
        ("Reading", "Re: Reading"),
        ("a\r\nBcc: x@example.org\x00\u202egnp.exe\ud800", "Re: a Bcc: x@example.org gnp.exe"),
        ("{{ 7 * 7 }} {% raw %}", "Re: {{ 7 * 7 }} {% raw %}"),
        ("x" * 500, "Re: " + "x" * 150),
    ],
)
def test_subjects(subject, seen):
    assert subject_of(subject) == seen


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=60))
def test_whatever_is_written_makes_a_send(subject, text, sender):
    answer = Answer(sender, subject + "\ud83d", text + "\udce4", b"")
    _, outs = Forwards(ROUTES, {}).take(EVENT, lambda: answer)
    (send,) = sends(outs)
    assert "@" in send.reply_to
    assert send.variables["subject"].isprintable()
    assert "\r" not in send.variables["said"]


def test_routes():
    found = routes_of(
        [f"shop={DESK}", "*=Post@Firm.Example"], ["*=a@firm.example", f"shop={FROM}"], DOMAIN, ["abuse"]
    )
    assert found.of("shop") == (DESK, FROM)
    assert found.of("other") == ("post@firm.example", "a@firm.example")
    assert routes_of([], [], DOMAIN).of("shop") is None
    with pytest.raises(ValueError, match="is not TENANT=ADDRESS") as caught:
        routes_of(
            ["shop", "a b=x@y.example", f"t=fbl@{DOMAIN}", "u=nobody", "v=x@y.example", "v=z@y.example", "w=In@y.example"],
            ["t=a@firm.example", "v=a@firm.example"],
            DOMAIN,
            ["in@y.example"],
        )  # fmt: skip
    for part in ("'a b=", "'shop'", "t=fbl@", "'u=nobody'", "v is named twice", "w=in@", "w needs a From"):
        assert part in str(caught.value)
    assert str(caught.value).count(", ") == 7

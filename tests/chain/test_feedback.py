"""What comes back about a mail, by the simulated providers and by forgers: who gets no more mail, and who still does.

One pipeline for all stories, in one process, with a clock that the stories set on.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from email import message_from_bytes
from email.policy import default
from email.utils import formatdate

import msgspec
import pytest
import pytest_asyncio

from schemas.lanes import lane_names, lane_topic
from streams.lab.feedback import arf, dsn
from streams.lab.ledger import Take
from streams.lab.site import Fault
from streams.ops.audit import audit
from streams.ops.campaign import change_hold
from streams.ops.kept import homes_in
from streams.ops.read import read_to_end
from streams.ops.recompute import differences
from streams.ops.scene import DOMAIN, RETURN_DOMAIN
from tests.support.days import DAY, Days

pytestmark = pytest.mark.asyncio(loop_scope="module")
_ROOM = "rate = 100000\nconnections = 100\nper_connection = 100000\nverify = 0\n"
PROVIDERS = f"""
[providers.gmail]
domains = ["gmail.test"]
mx = ["mx1.gmail.test-lab.google.com"]
address = "127.0.0.11"
share = 0.4
dialect = "google"
unknown_pattern = "^unknown"
late_bounce = 0.3
late_bounce_after = 0.1
complaint = 0.3
complaint_after = 0.1
{_ROOM}
[providers.outlook]                  # its reports do not say who complained
domains = ["outlook.test"]
mx = ["outlook-test.mail.protection.outlook.com"]
address = "127.0.0.12"
share = 0.2
dialect = "outlook"
complaint = 1.0
complaint_after = 0.1
{_ROOM}
[providers.full]
domains = ["full.test"]
mx = ["mx.full.test"]
address = "127.0.0.13"
share = 0.2
full = 1.0
full_tries = 0
{_ROOM}
[providers.desk]
domains = ["desk.test"]
mx = ["mx.desk.test"]
address = "127.0.0.15"
share = 0.0
{_ROOM}
[providers.small]
domains = ["small.test"]
mx = ["mx.small.test"]
address = "127.0.0.14"
share = 0.2
{_ROOM}
"""
DESK = "replies@desk.test"
FBL = f"fbl@{RETURN_DOMAIN}"
DELIVERED, HARD, LEFT = ("delivered", ""), ("suppressed", "hard_bounce"), ("suppressed", "unsubscribe")
WHY = ("a test", "test")


@pytest.fixture(scope="module")
def own_prefix(session_brokers):
    own = f"t{secrets.token_hex(3)}-"
    yield own
    session_brokers.drop_topics(own)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def days(embedded_broker, own_prefix, tmp_path_factory):
    home, sender = tmp_path_factory.mktemp("days"), f"*=hello@{DOMAIN}"
    forward = {"classify_forward": (f"*={DESK}",), "classify_forward_from": (sender,)}
    async with Days(embedded_broker, own_prefix, home, PROVIDERS, **forward) as found:
        yield found


def person(days: Days, fate: str, domain: str = "gmail.test") -> str:
    """Somebody to whose mail this happens at their provider."""
    world = days.world.settings
    people = (f"{fate}-{n}@{domain}" for n in range(1000))
    return next(to for to in people if world.provider_of(to).fate(world.seed, to) == fate)


def header(raw: bytes, name: str) -> str:
    return str(message_from_bytes(raw, policy=default)[name])


def letter_of(sender: str, to: str, subject: str, text: str, more: str = "") -> bytes:
    """A mail that somebody, or their machine, writes to one of our addresses."""
    top = f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\nDate: {formatdate()}\r\nMessage-ID: <{subject[:4]}@x.test>\r\n"
    return f"{top}{more}\r\n{text}\r\n".encode()


def about(take: Take, **changes: str) -> Take:
    """What was taken, as a forger would have it."""
    return msgspec.structs.replace(take, **changes)


async def test_an_unknown_user_gets_nothing_more_not_even_receipts(days):
    to = "unknown-1@gmail.test"
    await days.campaign("u1")
    await days.send("u1", to)
    await days.known("hard_bounce", to)
    assert days.told(to) == [("bounced", "")]
    await days.campaign("u2")
    await days.campaign("u3", stream="transactional")
    await days.send("u2", to)
    await days.send("u3", to, now=True)
    assert await days.ends("u2", to) == await days.ends("u3", to) == [HARD]


async def test_a_late_report_turns_delivered_into_bounced_once(days):
    to = person(days, "late_bounce")
    await days.campaign("l1")
    await days.send("l1", to)
    await days.known("hard_bounce", to)
    assert days.told(to) == [DELIVERED, ("bounced", "late_dsn")]
    ((take, raw),) = days.letters(to)
    # The report once more, and a relay's own, later.
    for host in ("mx1.gmail.test-lab.google.com", "relay.test"):
        report = dsn(take, raw, host, "550 5.1.1 gone", days.clock())
        assert await days.mail_in("", take.sender, report) == 250
    await days.campaign("l2")
    await days.send("l2", to)
    assert await days.ends("l2", to) == [HARD]
    assert days.told(to, "l1") == [DELIVERED, ("bounced", "late_dsn")]
    found = await audit(days.settings, campaign="l1")
    assert (found.counts["bounced"], found.counts["delivered"], found.bounced_late) == (1, 0, 1)


async def test_a_complaint_ends_the_newsletter_and_not_the_receipts(days):
    people = [person(days, "complaint"), person(days, "complaint", "outlook.test")]
    await days.campaign("c1")
    await days.send("c1", *people)
    await days.known("complaint", *people)
    assert [days.told(to) for to in people] == [[DELIVERED, ("complained", "abuse")]] * 2
    await days.campaign("c2")
    await days.campaign("c3", stream="transactional")
    await days.send("c2", *people)
    await days.send("c3", *people, now=True)
    assert await days.ends("c2", *people) == [("suppressed", "complaint")] * 2
    assert await days.ends("c3", *people) == [DELIVERED] * 2


async def test_forgers_suppress_nobody(days):
    victim, forger = "victim@small.test", "forger@small.test"
    await days.campaign("f1")
    await days.send("f1", victim, forger)
    assert await days.ends("f1", victim, forger) == [DELIVERED] * 2
    ((take, _),), ((own, mine),) = days.letters(victim), days.letters(forger)
    gone = "550 5.1.1 no such user"
    guess = f"b-{'0123456789abcdef' * 3}0123@{RETURN_DOMAIN}"
    made_up = (
        b"Message-ID: <0123456789abcdef0123456789abcdef.f1@news.mailsluice.test>\r\nSubject: Hello\r\n\r\n"
    )
    now = days.clock()
    assert await days.mail_in("", guess, dsn(about(take, sender=guess), made_up, "mx.test", gone, now)) == 550
    # To the address for reports: without a token; with the Message-ID of another mail; a complaint.
    other = f"Message-ID: {own.message}\r\nSubject: Hello\r\n\r\n".encode()
    for raw in (made_up, other):
        assert await days.mail_in("", FBL, dsn(about(take, sender=FBL), raw, "mx.test", gone, now)) == 250
    assert await days.mail_in("", FBL, arf(about(take, sender=FBL), made_up, "mx.test", False, now)) == 250
    forged = [("bounced", "unverified"), ("bounced", "unverified"), ("complained", "unverified")]
    await days.until(lambda: sorted(days.told("")) == forged)
    # With a token of their own mail, about somebody else: it can only be their own mail that came back.
    raw = dsn(about(own, rcpt=victim), mine, "mx.test", gone, now)
    assert await days.mail_in("", own.sender, raw) == 250
    await days.until(lambda: days.suppressed(forger) == ["hard_bounce"])
    await days.campaign("f2")
    await days.send("f2", victim)
    assert await days.ends("f2", victim) == [DELIVERED]
    assert (days.told(victim), days.suppressed(victim)) == ([DELIVERED] * 2, [])


async def test_machines_that_answer_say_nothing_and_people_are_told(days):
    to = "ann@small.test"
    await days.campaign("a1")
    await days.send("a1", to)
    assert await days.ends("a1", to) == [DELIVERED]
    ((take, _),) = days.letters(to)
    answers = [
        ("", "Automatic reply: Hello", "I am away until Monday. Stop by later.", "Auto-Submitted: auto-replied\r\n"),
        (to, "Out of office", "Unsubscribe me? No, I am on holiday.", "X-Autoreply: yes\r\n"),
        (to, "Please confirm your message", "To deliver your mail, click to verify that you are human.", ""),
        (to, "Re: Hello", "When do you open on Sundays?", ""),
    ]  # fmt: skip
    for sender, subject, text, more in answers:
        raw = letter_of(to, take.sender, subject, text, more)
        assert await days.mail_in(sender, take.sender, raw) == 250
    # The person wrote last: by then the machines were listened to.
    await days.until(lambda: ("replied", "") in days.told(to))
    assert (days.told(to), days.suppressed(to)) == ([DELIVERED, ("replied", "")], [])


async def test_what_people_answer_goes_to_whoever_reads_it_and_comes_round_no_more(days):
    """The answer names our mail, and came to the address that the campaign gives for answers."""
    to = "asker@small.test"
    await days.campaign("w1", reply_to=FBL)
    await days.send("w1", to)
    assert await days.ends("w1", to) == [DELIVERED]
    ((take, _),) = days.letters(to)
    raw = letter_of(to, FBL, "AW: Hello", "Open on {{ name }}?", f"In-Reply-To: {take.message}\r\n")
    assert await days.mail_in(to, FBL, raw) == 250

    def forwarded() -> list[tuple[Take, bytes]]:
        return [one for one in days.letters(DESK) if header(one[1], "Reply-To") == to]

    ((copy, content),) = await days.until(forwarded)
    message = message_from_bytes(content, policy=default)
    assert (message["From"], message["Subject"]) == (f"hello@{DOMAIN}", "Re: Hello")
    assert message["Auto-Submitted"] == "auto-generated"
    words, attached = message.iter_parts()
    assert "Open on {{ name }}?" in words.get_content()
    assert attached.get_payload(decode=True).split() == raw.split()
    # The desk's machine answers, and nobody can tell: to the copy's sender, and to the person.
    assert await days.mail_in(DESK, copy.sender, letter_of(DESK, copy.sender, "Got it", "Soon.")) == 250
    await days.until(lambda: ("replied", "") in days.told(DESK))
    # Another answer of the person comes later than what that could have led to.
    assert await days.mail_in(to, take.sender, letter_of(to, take.sender, "Stop", "please")) == 250
    await days.until(lambda: len(forwarded()) == 2)
    assert days.suppressed(to) == ["unsubscribe"]
    assert [one for one in days.letters(DESK) if header(one[1], "Reply-To") == DESK] == []


async def test_who_leaves_by_mail_gets_nothing_more_not_even_what_is_on_its_way(days):
    """One mail waits on the ladder, another in the lane; both were let through by screen."""
    to, other = "leaver@small.test", "stays@small.test"
    await days.campaign("m1")
    await days.send("m1", to, other)
    assert await days.ends("m1", to, other) == [DELIVERED] * 2
    days.world.providers["small"].script(Fault("rcpt", "reply", text="451 4.3.0 not now", count=2))
    await days.campaign("m2")
    await days.send("m2", to, other)
    await days.until(lambda: all(("deferred", "") in days.told(who, "m2") for who in (to, other)))
    await change_hold(days.settings, "tenant", "pause", "default", *WHY)
    await days.campaign("m3")
    await days.send("m3", to, other)
    async with asyncio.timeout(60):
        while await in_lanes(days, "m3") < 2:
            await days.look()
    ((_, raw),) = days.letters(to)
    leave = re.search(r"<mailto:([^>?]+)", header(raw, "List-Unsubscribe"))[1]
    assert await days.mail_in(to, leave, letter_of(to, leave, "unsubscribe", "")) == 250
    await days.known("unsubscribe", to)
    await change_hold(days.settings, "tenant", "resume", "default", *WHY)
    days.pass_time(1200.0)
    for campaign in ("m2", "m3"):
        assert await days.ends(campaign, to, other) == [LEFT, DELIVERED]
    assert (len(days.letters(to)), len(days.letters(other))) == (1, 3)


async def recomputed(days: Days) -> None:
    """The states are what follows from the topics."""
    for _ in range(20):
        told = await differences(days.settings, homes_in(days.settings.state))
        if not told:
            return
        await asyncio.sleep(0.5)
    raise AssertionError(told)


async def in_lanes(days: Days, campaign: str) -> int:
    """Records of a campaign in the lanes."""
    parts = range(days.settings.partitions)
    places = [(lane_topic(lane), partition) for lane in lane_names() for partition in parts]
    wanted = campaign.encode()
    return [r.headers.get("campaign") async for r in read_to_end(days.settings, places)].count(wanted)


async def test_a_mailbox_that_is_full_on_three_days_is_left_alone_and_a_success_begins_anew(days):
    stuck, emptied = person(days, "full", "full.test"), "emptied@small.test"
    full = Fault("rcpt", "reply", count=-1, text="452 4.2.2 mailbox is full", rcpt=emptied)
    small = days.world.providers["small"]

    def refused(to: str, times: int) -> bool:
        return sum(e["kind"] == "deferred" for e in days.events if e.get("to") == to) >= times

    def hits(to: str) -> list[int]:
        """On how many days it was full."""
        return [len(row.hits) for row in days.rows.values() if row.to == to and not row.active]

    small.script(full)
    await days.campaign("d1")
    await days.send("d1", stuck, emptied)
    for times, count in ((1, 1), (2, 1), (3, 2)):  # twice on the first day
        await days.until(lambda: refused(stuck, times) and refused(emptied, times))  # noqa: B023
        await days.until(lambda: hits(stuck) == hits(emptied) == [count])  # noqa: B023
        days.pass_time(DAY if times > 1 else 600.0)
    small.clear(rcpt=emptied)
    await days.until(lambda: days.suppressed(stuck) == ["soft_bounces"])  # the third day
    assert await days.ends("d1", emptied) == [DELIVERED]
    await days.until(lambda: hits(emptied) == [0])

    days.pass_time(DAY)  # what was on the ladder is not tried again
    assert await days.ends("d1", stuck) == [("suppressed", "soft_bounces")]
    small.script(full)  # two more days are not five
    await days.campaign("d2")
    await days.send("d2", stuck, emptied)
    assert await days.ends("d2", stuck) == [("suppressed", "soft_bounces")]
    for count in (1, 2):
        await days.until(lambda: hits(emptied) == [count])  # noqa: B023
        days.pass_time(DAY)
    small.clear(rcpt=emptied)
    assert await days.ends("d2", emptied) == [DELIVERED]
    assert sum(e["kind"] == "deferred" for e in days.events if e.get("to") == stuck) == 4

    await recomputed(days)  # after all these stories; what ends by its time comes later
    # A month later somebody may have made room; and a report about a mail of then is no report.
    days.pass_time(31 * DAY)
    ((take, raw), _) = days.letters(emptied)
    assert (
        await days.mail_in("", take.sender, dsn(take, raw, "mx.test", "550 5.1.1 gone", days.clock())) == 250
    )
    await days.until(lambda: ("bounced", "implausible") in days.told(""))
    assert days.suppressed(stuck) == days.suppressed(emptied) == []
    await days.campaign("d3")
    await days.send("d3", stuck, emptied)
    assert await days.ends("d3", emptied) == [DELIVERED]
    await days.until(lambda: refused(stuck, 5))

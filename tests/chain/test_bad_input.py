"""Hostile and broken input of every kind, all at once: each ends in a clear event, and the rest goes on."""

import asyncio
import json

import aiohttp
import orjson
import pytest

from streams.lab.control import tell
from tests.support.stories import Story

GOOD = [f"good{n}@gmail.test" for n in range(40)]


def outcome_of(events, to):
    """(kind, reason) of the terminal event of an address."""
    ended = [e for e in events if e.get("to") == to and e.get("terminal")]
    return [(e["kind"], e.get("reason", "")) for e in ended]


@pytest.fixture
async def short(broker, prefix, tmp_path):
    """A story whose mails live two minutes."""
    async with Story(broker, prefix, tmp_path, lifetime=120.0) as story:
        yield story


@pytest.mark.timeout(180)
async def test_bad_sends_end_in_clear_events_and_the_good_ones_go_out(short):
    story = short
    await story.campaign("c", subject="Hi {{ name }}", html="<p>{{ name }}</p>")
    await story.campaign("town", subject="News from {{ city }}")
    await story.campaign("broken", html="<p>{{ nobody_set_this }}</p>")
    await story.campaign(
        "endless", html="{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}"
    )
    await story.campaign("gone", state="cancelled")
    await story.send(*GOOD[:20])
    # What cannot be parsed at all goes to the dead letters as it came.
    raw = [
        b"",
        b"{",
        b"\xff\xfe",
        b'"text"',
        b'{"campaign":"c"}',
        b'{"campaign":"c","to":"x@gmail.test","nope":1}',
        b"[" * 20000,
    ]
    await story.publish(raw)
    await story.publish(
        [b'{"campaign":"c","to":"v@gmail.test"}'], headers=[("type", b"send"), ("version", b"9")]
    )
    await story.publish(
        [b'{"campaign":"c","to":"t@gmail.test"}'], headers=[("type", b"lunch"), ("version", b"1")]
    )
    await story.publish([b'{"id": "bad id", "from": "a@b"}', b"nonsense"], "mail-campaigns", key=b"x")
    # What can be read but not sent is rejected, with the reason.
    await story.send("crlf\r\nRcpt: x@gmail.test", "bölle@gmail.test", "no-at-sign", "a@localhost")
    await story.send("template@gmail.test", campaign="broken")
    await story.send("fuel@gmail.test", campaign="endless")
    await story.send("late@gmail.test", campaign="gone")
    await story.send("nocampaign@gmail.test", campaign="never-published")
    await story.publish(
        [
            orjson.dumps(
                {
                    "campaign": "town",
                    "to": "inject@gmail.test",
                    "name": "x",
                    "variables": {"city": "a\r\nBcc: all@gmail.test"},
                }
            )
        ]
    )
    await story.publish(
        [
            orjson.dumps(
                {"campaign": "c", "to": "huge@gmail.test", "name": "x", "variables": {"a": "y" * 10_000_000}}
            )
        ]
    )
    await story.send("nobody@nowhere.invalid", "null@example.test", "unknown-user@gmail.test")
    await story.send(*GOOD[20:])
    found = await story.settled(100, 20 + len(raw) + 2 + 4 + 4 + 2 + 3 + 20)
    events = [orjson.loads(m.value) for m in await story.records("mail-events")]

    assert found.counts["lost"] == 0
    assert found.counts["pending"] == 0, story.logs()
    assert {e["to"] for e in events if e["kind"] == "delivered"} == set(GOOD), story.logs()
    dead = await story.records("mail-sends-dlq", 1)
    assert sorted(m.value for m in dead if len(m.value) < 1000)[:2] == [b"", b'"text"']
    assert len(dead) == len(raw) + 2
    reasons = sorted(dict(m.headers)["dlq_reason"].decode() for m in dead)
    assert set(reasons) <= {"empty", "bad_json", "bad_field", "unknown_version", "unknown_type"}
    assert {dict(m.headers)["dlq_stage"] for m in dead} == {b"enqueue"}
    campaigns = await story.records("mail-campaigns-dlq", 1)
    assert sorted(m.value for m in campaigns) == [b"nonsense", b'{"id": "bad id", "from": "a@b"}']

    assert outcome_of(events, "template@gmail.test") == [("rejected", "template_error")]
    assert outcome_of(events, "fuel@gmail.test") == [("rejected", "template_error")]
    assert outcome_of(events, "late@gmail.test")[0][0] == "cancelled"
    assert outcome_of(events, "nocampaign@gmail.test") in (
        [("rejected", "unknown_campaign")],
        [("expired", "before_screen")],
    )
    assert outcome_of(events, "inject@gmail.test") == [("rejected", "header_injection")]
    assert outcome_of(events, "huge@gmail.test")[0][0] == "rejected"
    assert outcome_of(events, "nobody@nowhere.invalid") == [("bounced", "no_domain")]
    assert outcome_of(events, "null@example.test") == [("bounced", "null_mx")]
    assert outcome_of(events, "unknown-user@gmail.test")[0][0] == "bounced"
    rejected = [e for e in events if e["kind"] == "rejected"]
    named = {e["detail"].partition(":")[0] for e in rejected if e["reason"] == "bad_address"}
    assert named == {"control_character", "non_ascii_local", "no_at", "single_label"}
    assert all(
        e.get("detail") or e.get("reply")
        for e in rejected
        if e["reason"] in ("template_error", "header_injection")
    )
    # A bad address is remembered; a fault of ours suppresses nobody.
    rows = [orjson.loads(m.value) for m in await story.until("mail-suppressions", lambda r: len(r) >= 1, 10)]
    assert {row["to"] for row in rows} == {"unknown-user@gmail.test"}
    theirs = await story.theirs()
    assert theirs["distinct"] == len(GOOD)
    assert theirs["duplicates"] == 0

    # A link that was tampered with changes nothing.
    base = story.scene.settings.base_url
    async with aiohttp.ClientSession() as web:
        for path in ("/u/AAAA", "/o/" + "x" * 100 + ".gif", "/c/zzz?u=http://evil.test/&s=1"):
            async with web.get(base + path, allow_redirects=False) as answer:
                assert answer.status == 400
        async with web.post(base + "/u/" + "B" * 98, data="List-Unsubscribe=One-Click") as answer:
            assert answer.status == 400


SMTP = [
    {"phase": "connect", "act": "nonsense", "count": 2},
    {"phase": "ehlo", "act": "close", "count": 2},
    {"phase": "mail", "act": "reset", "count": 2},
    {"phase": "rcpt", "act": "nonsense", "count": 2},
    {"phase": "data", "act": "close", "count": 2},
    {"phase": "content", "act": "reset", "count": 2},
]


@pytest.mark.timeout(180)
async def test_a_server_that_talks_nonsense_or_hangs_up_in_any_phase_holds_nobody_else(
    embedded_broker, prefix, tmp_path
):
    async with Story(embedded_broker, prefix, tmp_path, lifetime=90.0) as story:
        host, _, port = story.scene.world["control"].rpartition(":")
        for fault in SMTP:
            tell((host, int(port)), "fault", provider="small", kept=False, **fault)
        await story.campaign()
        await story.send(*[f"s{n}@small.test" for n in range(12)], *[f"g{n}@gmail.test" for n in range(100)])
        gmail = await story.until(
            "mail-outcomes",
            lambda r: sum(b"@gmail.test" in m.value and b'"delivered"' in m.value for m in r) == 100,
            40,
        )
        assert gmail
        found = await story.settled(80, 112)
        theirs = await story.theirs()
        assert found.counts["delivered"] == 112, (found.as_dict(), story.logs())
        assert theirs["distinct"] == 112
        assert theirs["duplicates"] == 0
        outcomes = [orjson.loads(m.value) for m in await story.records("mail-outcomes")]
        deferred = [o for o in outcomes if o["state"] == "deferred"]
        assert deferred, "no fault was met"
        assert {o["to"].partition("@")[2] for o in deferred} == {"small.test"}


@pytest.mark.timeout(120)
async def test_a_tarpit_holds_nobody_else(embedded_broker, prefix, tmp_path):
    async with Story(embedded_broker, prefix, tmp_path, lifetime=20.0) as story:
        host, _, port = story.scene.world["control"].rpartition(":")
        tell((host, int(port)), "fault", provider="small", phase="connect", act="silent", count=-1)
        await story.campaign()
        await story.send(*[f"s{n}@small.test" for n in range(50)], *[f"g{n}@gmail.test" for n in range(200)])
        await story.until("mail-outcomes", lambda r: sum(b'"delivered"' in m.value for m in r) == 200, 30)
        found = await story.settled(45, 250)
        assert found.counts["delivered"] == 200
        assert found.counts["expired"] == 50, found.as_dict()
        assert json.dumps(found.as_dict())
        await asyncio.sleep(0)

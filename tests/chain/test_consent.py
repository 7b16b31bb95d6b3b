"""Double opt-in from the form to the campaign: nobody without a consent is written to, nobody is bombed."""

from __future__ import annotations

import asyncio
import json
import re
from email import message_from_bytes, policy

import aiohttp
import orjson
import pytest

from schemas.lanes import lane_names, lane_topic
from schemas.send import Consent
from streams.ops.kept import homes_in
from streams.ops.recompute import differences
from streams.ops.scene import SENDER
from tests.support.stories import Story

RULES = f"""
[default.marketing]
require = true
tracking = "consent"
[quay.marketing]
from = "{SENDER}"
wording = "I want the harbour news by e-mail"
[pier.marketing]
from = "{SENDER}"
wording = "I want the pier news by e-mail"
"""
KNOWN = 2.5
"""Seconds after which every stage knows what a state's topic says: 2 are promised."""
ADA, EVE, MAX = "ada@small.test", "eve@small.test", "max@gmail.test"
PAGE = '<p>Hello</p><a href="https://quay.test/">here</a>'


def links(lanes: dict[str, list], to: str) -> list[str]:
    """The confirmation links in the signed mails to somebody, as their mail program shows them."""
    found = []
    for records in lanes.values():
        for record in records:
            message = message_from_bytes(record.value or b"", policy=policy.default)
            if message["To"] == to:
                body = message.get_body(("plain",)).get_content()
                found += re.findall(r"http://[^\s]+/confirm/[\w-]+", body)
    return found


async def mails(story: Story) -> dict[str, list]:
    return {lane: await story.records(lane_topic(lane) + "-now") for lane in lane_names()}


@pytest.mark.timeout(240)
async def test_who_confirmed_gets_the_campaign_and_nobody_else_does(embedded_broker, prefix, tmp_path):
    rules = tmp_path / "consent.toml"
    rules.write_text(RULES)
    async with (
        Story(embedded_broker, prefix, tmp_path, consent=rules) as story,
        aiohttp.ClientSession() as client,
    ):
        base = story.scene.settings.base_url
        await story.until("mail-campaigns", lambda found: len(found) >= 2, partitions=1)

        async def subscribe(email: str, tenant: str = "quay", **more: str) -> None:
            for _ in range(100):  # the edge may still be starting
                try:
                    async with client.post(
                        f"{base}/subscribe", json={"email": email, "tenant": tenant, **more}
                    ) as answer:
                        assert answer.status == 202
                        return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.1)
            raise AssertionError("the edge never came")

        await subscribe(ADA, opens="1")
        await subscribe(EVE)  # who never looks into her mailbox
        await story.settled(60, 2)
        assert (await story.theirs())["distinct"] == 2

        # Max is bombed: six forms of two tenants; three mails reach him.
        for n in range(5):
            await subscribe(MAX, "quay" if n % 2 else "pier")
            if n == 2:
                assert story.kill("hygiene")  # what is worked on twice asks nobody twice
        await story.settled(60, 5)
        await story.until("mail-events", lambda found: said(found, "subscription_requested", MAX) == 5)
        lanes = await mails(story)
        assert len(links(lanes, MAX)) == 3

        # A scanner looks at the link; only the button confirms.
        (url,) = links(lanes, ADA)
        async with client.get(url) as answer:
            assert answer.status == 200
        async with client.post(url) as answer:
            assert (answer.status, "You are subscribed" in await answer.text()) == (200, True)
        consents = await story.until(
            "mail-consents", lambda found: any(b'"granted"' in r.value for r in found)
        )
        row = next(json.loads(r.value) for r in consents if b'"state":"granted"' in r.value)
        assert (row["to"], row["basis"], row["tracking"]) == (ADA, "double_opt_in", "o")
        assert row["changes"][0]["wording"] == "I want the harbour news by e-mail"
        assert "from 127.0.0.1" in row["changes"][0]["proof"]

        await asyncio.sleep(KNOWN)
        await story.campaign("news", tenant="quay", html=PAGE)
        await story.send(
            ADA, EVE, MAX, campaign="news", tenant="quay", consent=Consent(opens=True, clicks=True)
        )
        found = await story.settled(60, 8)
        assert found.balanced
        events = [orjson.loads(r.value) for r in await story.records("mail-events")]
        ends = {
            e["to"]: (e["kind"], e.get("reason", ""))
            for e in events
            if e.get("campaign") == "news" and e.get("terminal")
        }
        assert ends == {
            ADA: ("delivered", ""),
            EVE: ("rejected", "no_consent"),
            MAX: ("rejected", "no_consent"),
        }
        theirs = await story.theirs()
        assert (theirs["distinct"], theirs["duplicates"]) == (6, 0)

        # Opens may be tracked, clicks not, whatever the send claimed; then opens no more.
        (mail,) = await campaign_mails(story)
        body = mail.get_body(("html",)).get_content()
        assert ("/o/" in body, 'href="https://quay.test/"' in body) == (True, True)
        leave = re.search(r"<(http[^>]+/u/[^>]+)>", mail["List-Unsubscribe"])[1]
        async with client.post(leave, data={"action": "untrack_opens"}) as answer:
            assert answer.status == 200
        await story.until("mail-consents", lambda found: any(map(revoked, found)))
        await asyncio.sleep(KNOWN)
        await story.campaign("more", tenant="quay", html=PAGE)
        await story.send(ADA, campaign="more", tenant="quay")
        await story.settled(60, 9)
        mails_now = await campaign_mails(story)
        assert sorted("/o/" in m.get_body(("html",)).get_content() for m in mails_now) == [False, True]
        # Whoever leaves has no consent any more, and is suppressed as ever.
        async with client.post(leave) as answer:
            assert answer.status == 200
        await story.until("mail-suppressions", lambda found: any(ADA.encode() in r.value for r in found))
        await asyncio.sleep(KNOWN)
        await story.campaign("last", tenant="quay", html=PAGE)
        await story.send(ADA, campaign="last", tenant="quay")
        assert (await story.settled(60, 10)).balanced
        events = [orjson.loads(r.value) for r in await story.records("mail-events")]
        assert [e["kind"] for e in events if e.get("campaign") == "last" and e.get("terminal")] == [
            "suppressed"
        ]

        # The consents are what the events say, also after a kill.
        for _ in range(40):
            told = await differences(story.scene.settings, homes_in(story.scene.settings.state))
            if not told:
                break
            await asyncio.sleep(0.5)
        assert told == []


def revoked(record) -> bool:
    return any(change["says"] == "revoked" for change in json.loads(record.value).get("changes", ()))


async def campaign_mails(story: Story) -> list:
    return [
        message_from_bytes(r.value, policy=policy.default)
        for lane in lane_names()
        for r in await story.records(lane_topic(lane))
        if r.value
    ]


def said(records: list, kind: str, to: str) -> int:
    """How many different events: after a kill some come twice."""
    events = [orjson.loads(r.value) for r in records]
    return len({e["id"] for e in events if e["kind"] == kind and e.get("to") == to})

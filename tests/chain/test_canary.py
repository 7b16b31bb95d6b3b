"""A campaign whose canary bounces stops by itself, before the rest of it has left; an operator lets it go on."""

from __future__ import annotations

import asyncio
import json

import pytest
from click.testing import CliRunner

from agents.enqueue.due import in_canary
from schemas.campaign import Canary
from streams.cli import main
from streams.ops.campaign import change_campaign
from tests.support.stories import Story

SHARE = 0.3


@pytest.mark.timeout(90)
async def test_a_bad_canary_pauses_its_campaign_and_the_rest_goes_when_somebody_says_so(
    embedded_broker, prefix, tmp_path
):
    async with Story(embedded_broker, prefix, tmp_path) as story:
        settings = story.scene.settings
        names = (f"{kind}{n}@small.test" for n in range(1000) for kind in ("unknown", "p"))
        chosen = {True: [], False: []}
        for to in names:
            first = in_canary("default", "c", to, SHARE)
            if first == to.startswith("unknown"):
                chosen[first].append(to)
        canary, rest = chosen[True][:25], chosen[False][:60]
        await story.campaign(canary=Canary(share=SHARE, minimum=20))
        await story.send(*rest, *canary)
        paused = await story.until(
            "mail-campaigns", lambda r: any(b'"paused"' in m.value for m in r), partitions=1
        )
        assert json.loads(paused[-1].value)["canary"]["state"] == "failed"
        listed = await asyncio.to_thread(_call, settings, "campaign", "list", "--json")
        (row,) = json.loads(listed.output)
        assert (row["state"], row["canary"]) == ("paused", "failed")
        assert "bounced, the limit is 5.00%" in row["why"]
        log = json.loads((await asyncio.to_thread(_call, settings, "queue", "log", "--json")).output)
        assert [(c["what"], c["who"]) for c in log] == [("campaign pause", "shape")]
        assert (await story.theirs())["distinct"] == 0  # nobody of the rest
        refused = await asyncio.to_thread(_call, settings, "campaign", "release", "c", "--why", "x")
        assert refused.exit_code == 1
        assert "`campaign resume`" in refused.output

        counts = await change_campaign(settings, "resume", "c", "default", "test", "the list was corrected")
        assert counts["copied"] >= 60
        found = await story.settled(30, 85)
        theirs = await story.theirs()
        assert found.balanced
        assert (found.counts["delivered"], found.counts["bounced"]) == (60, 25), story.logs()
        assert (theirs["distinct"], theirs["duplicates"]) == (60, 0)


def _call(settings, *arguments):
    environment = {"MAILSLUICE_BROKER": settings.broker, "MAILSLUICE_PREFIX": settings.prefix,
                   "MAILSLUICE_BROKER_IDEMPOTENT": "0"}  # fmt: skip
    return CliRunner().invoke(main, arguments, env=environment)

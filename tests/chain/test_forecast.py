"""What `mailsluice forecast` says before and during a campaign is what then comes about."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from schemas.campaign import Schedule
from streams.cli import main
from tests.support.stories import Story

ROOMY = Path(__file__).parents[1] / "support" / "roomy_providers.toml"
POLICY = """
[campaign]
bounces = 1.0
complaints = 1.0
[default]
connections = 4
per_connection = 1000
start = 12.0
minimum = 2.0
maximum = 12.0
[dkim."news.mailsluice.test"]
start = 1000.0
maximum = 1000.0
"""


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_the_forecast_comes_true(embedded_broker, prefix, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    async with Story(embedded_broker, prefix, tmp_path, providers=ROOMY, policy=policy) as story:
        settings = story.scene.settings
        await story.campaign(id="before", tenant="other")
        await story.campaign()
        file = tmp_path / "c.toml"
        file.write_text('id = "c"\nfrom = "News <hello@news.mailsluice.test>"\nsubject = "x"\ntext = "x"\n')
        people = tmp_path / "people.csv"
        people.write_text("email\n" + "".join(f"b{n}@gmail.test\n" for n in range(240)) + "nobody\n")
        early = await call(settings, str(file), "--recipients", str(people))
        assert early.exit_code == 0, early.output
        (lane,) = json.loads(early.stdout)["lanes"]
        assert (lane["provider"], lane["waiting"], lane["why"]) == ("google", 240, "rate 12/s")
        assert lane["seconds"] == pytest.approx(20, abs=2)
        assert "people.csv:242:" in early.stderr

        await story.send(*(f"a{n}@gmail.test" for n in range(120)), campaign="before", tenant="other")
        await story.until("mail-lane-google", lambda records: len(records) >= 120)
        await story.send(*(f"b{n}@gmail.test" for n in range(240)))
        await story.until("mail-lane-google", lambda records: len(records) >= 360)
        asked = time.time()
        told = json.loads((await call(settings, "c")).stdout)
        (lane,) = told["lanes"]
        assert lane["provider"] == "google"
        assert lane["others_waiting"] + lane["waiting"] <= 360
        await story.settled(60, 360)
        outcomes = [json.loads(record.value) for record in await story.records("mail-outcomes")]
        last = max(one["time"] for one in outcomes if one["campaign"] == "c")
        assert len(outcomes) >= 360
        assert lane["seconds"] == pytest.approx(last - asked, abs=max(4.0, 0.2 * (last - asked)))
        done = json.loads((await call(settings, "c")).stdout)
        assert (done["waiting"], done["lanes"], done["left_at_end"]) == (0, [], 0)


@pytest.mark.timeout(90)
async def test_what_is_spread_or_held_says_so(embedded_broker, prefix, tmp_path):
    async with Story(embedded_broker, prefix, tmp_path, providers=ROOMY) as story:
        settings = story.scene.settings
        await story.campaign(schedule=Schedule(spread_hours=2.0))
        await story.send(*(f"b{n}@gmail.test" for n in range(60)))
        await story.until("mail-enqueued", lambda records: len(records) >= 60)
        await asyncio.sleep(2)
        told = json.loads((await call(settings, "c")).stdout)
        (lane,) = told["lanes"]
        assert 1.5 * 3600 < lane["seconds"] < 2.1 * 3600
        assert lane["why"] == "it is spread over 2 h"
        assert told["left_at_end"] == 0
        shown = await call(settings, "c", json=False)
        assert "it is spread over 2 h" in shown.output
        await story.campaign(state="paused", schedule=Schedule(spread_hours=2.0))
        paused = json.loads((await call(settings, "c")).stdout)
        assert paused["notes"] == ["the campaign is paused: as if it were resumed now"]


async def test_wrong_usage(embedded_broker, prefix, tmp_path):
    async with Story(embedded_broker, prefix, tmp_path, {}, providers=ROOMY) as story:
        settings = story.scene.settings
        unknown = await call(settings, "spring")
        assert unknown.exit_code == 1
        assert "no campaign 'spring' of tenant 'default'" in unknown.output
        file = tmp_path / "c.toml"
        file.write_text("id = 3\n")
        assert (await call(settings, str(file))).exit_code == 2
        file.write_text('id = "c"\nfrom = "News <hello@news.mailsluice.test>"\nsubject = "x"\ntext = "x"\n')
        alone = await call(settings, str(file))
        assert alone.exit_code == 2
        assert "--recipients" in alone.output
        absent = await call(settings, str(file), "--recipients", str(tmp_path / "absent.csv"))
        assert absent.exit_code == 1
        assert "No such file" in absent.output


async def call(settings, *arguments: str, json: bool = True) -> Result:
    words = ["forecast", *arguments, *(["--json"] if json else [])]
    return await asyncio.to_thread(CliRunner().invoke, main, words, env=settings.environment())

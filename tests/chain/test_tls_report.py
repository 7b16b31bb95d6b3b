"""Connections of a day, told to the domain that asks for it: through sign and deliver, once however often it is sent."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from streams.cli import main
from streams.ops.scene import DOMAIN
from streams.ops.tls_report.send import make, read_day, send
from streams.ops.tls_report.tally import Reporter
from streams.resolver import Resolver
from tests.support.stories import Story

PROVIDERS = """
[records."_smtp._tls.gmail.test"]
TXT = "v=TLSRPTv1; rua=mailto:tls-reports@gmail.test"
[records."_smtp._tls.strict.test"]
TXT = "v=TLSRPTv1; rua=mailto:tls-reports@strict.test"
[providers.strict]
domains = ["strict.test"]
mx = ["mx1.strict.test-lab.example"]
address = "127.0.0.13"
share = 0.2
rate = 1000
starttls = false
[providers.gmail]
domains = ["gmail.test"]
mx = ["mx1.gmail.test-lab.google.com"]
address = "127.0.0.11"
share = 0.4
rate = 1000
connections = 100
[providers.bare]
domains = ["bare.test"]
mx = ["mx1.bare.test-lab.example"]
address = "127.0.0.12"
share = 0.4
rate = 1000
starttls = false
"""


@pytest.mark.timeout(90)
async def test_a_day_is_told_to_who_asks_for_it(embedded_broker, prefix, tmp_path):
    providers = tmp_path / "providers.toml"
    providers.write_text(PROVIDERS)
    delivery = tmp_path / "delivery.toml"
    delivery.write_text('[tls]\ndefault = "opportunistic"\ndomains = { "strict.test" = "require" }\n')
    async with Story(embedded_broker, prefix, tmp_path, providers=providers, delivery=delivery) as story:
        settings = story.scene.settings
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        await story.campaign()
        await story.send(*(f"a{n}@{domain}" for n in range(12) for domain in ("gmail.test", "bare.test")))
        await story.send("s@strict.test")
        await story.until(
            "mail-outcomes", lambda records: sum(b'"delivered"' in m.value for m in records) >= 24
        )
        await story.until("mail-outcomes", lambda records: any(b"tls_required" in m.value for m in records))
        words = ["report", "tls", "--day", today]
        shown = await asyncio.to_thread(
            CliRunner().invoke, main, [*words, "--json"], env=settings.environment()
        )
        rows = {row["domain"]: row for row in json.loads(shown.stdout)["domains"]}
        assert set(rows) == {"gmail.test", "bare.test", "strict.test"}
        assert rows["strict.test"]["good"] == 0
        assert set(rows["strict.test"]["results"]) == {"starttls-not-supported"}
        assert rows["gmail.test"]["failed"] == 0
        assert 1 <= rows["gmail.test"]["good"] <= 12
        assert rows["bare.test"]["good"] == 0
        assert rows["bare.test"]["results"] == {"starttls-not-supported": rows["bare.test"]["failed"]}

        resolver = Resolver(settings.dns)
        us = Reporter("Lakeside", "mail@shop.example", DOMAIN)
        day = await read_day(settings, today)
        made = await make(settings, day, us, resolver, None, day.names())
        assert [one.domain for one in made] == ["gmail.test", "strict.test"]
        before = await story.theirs()
        for _ in range(2):
            assert await send(settings, made, f"tlsrpt@{DOMAIN}", us, resolver, time.time()) == 2
        # Also to the domain that mail must not reach without TLS: it is to hear of it.
        await story.until(
            "mail-outcomes", lambda records: sum(b"tls-reports@" in m.value for m in records) >= 2
        )
        await asyncio.sleep(2)
        ends = [
            one
            for m in await story.records("mail-outcomes")
            if (one := json.loads(m.value))["to"].startswith("tls-reports")
        ]
        assert [(one["state"], one["dkim"]) for one in ends] == 2 * [("delivered", DOMAIN)], ends
        assert (await story.theirs())["distinct"] == before["distinct"] + 2

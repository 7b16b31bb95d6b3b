"""Three sources, six providers, workers that are killed, join and leave, and shape gone for a while: no provider
ever gets more from a source than the policy says, by the providers' own records."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from streams.lab.ledger import Tally, read
from tests.support.stories import Story

SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
PROVIDERS = {
    "gmail": "mx1.gmail.test-lab.google.com",
    "outlook": "outlook-test-lab.olc.protection.outlook.com",
    "yahoo": "mta5.test-lab.yahoodns.net",
    "orange": "smtp-in.test-lab.orange.fr",
    "gmx": "mx00.test-lab.gmx.net",
    "small": "mail.small.test",
}
RATE, FLOOR = 8.0, 1.0
POLICY = f"""
[law]
lease = 3
[campaign]
bounces = 1.0
complaints = 1.0
[default]
connections = 6
per_connection = 100
start = {RATE}
minimum = {FLOOR}
maximum = {RATE}
"""
GROUPS = {"control": 1, "intake": 1, "compose": 1, "deliver": 2, "hygiene": 1}
EACH = 90
"""Mails for each provider, in two parts: while workers are killed and shape is gone, and when it is back."""
UNACKNOWLEDGED = 200
"""Outcomes that one worker may have past the final dot and not yet on record."""
WINDOW = 4.0
BURST = 3 * 1.75 + 3 * RATE * 0.1
"""Messages above rate x window: what each of three workers may have saved up, and what a busy machine bunches."""


def world() -> str:
    """Six providers without limits of their own: the policy is the limit."""
    lines = []
    for n, (name, mx) in enumerate(PROVIDERS.items(), 11):
        lines += [f"[providers.{name}]", f'domains = ["{name}.test"]', f'mx = ["{mx}"]']
        lines += [f'address = "127.0.0.{n}"', "rate = 100000", "connections = 100", "per_connection = 100000"]
        lines += ["verify = 0.02", 'unknown_pattern = "^unknown"', f"share = {1 / len(PROVIDERS)!r}"]
    return "\n".join(lines) + "\n"


def between(tally: Tally, source: str, since: float, until: float) -> int:
    """Attempts of a source in a time (Unix seconds)."""
    return tally.attempts(source, since) - tally.attempts(source, until)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_no_provider_gets_more_than_the_policy_whoever_sends_and_dies(
    embedded_broker, prefix, tmp_path
):
    (tmp_path / "policy.toml").write_text(POLICY, "utf-8")
    (tmp_path / "world.toml").write_text(world(), "utf-8")
    settings = {"policy": tmp_path / "policy.toml", "partitions": 4, "sources": SOURCES}
    async with Story(
        embedded_broker, prefix, tmp_path, GROUPS, providers=tmp_path / "world.toml", **settings
    ) as story:
        await story.campaign(tracking=False)
        await story.send(*(f"p{n}@{name}.test" for n in range(EACH // 2) for name in PROVIDERS))
        ledger = tmp_path / "ledger"

        async def taken(share: float, seconds: float = 60.0) -> None:
            """Wait until so much was taken."""
            end = time.monotonic() + seconds
            while sum(map(len, (tally.taken() for tally in read(ledger).values()))) < share * EACH * 6:
                assert time.monotonic() < end, story.logs()
                await asyncio.sleep(0.5)

        await taken(0.1)
        assert story.kill("deliver")
        story.scene.add("deliver", 2)
        await taken(0.2)
        assert story.kill("deliver-1")
        await taken(0.3)
        # Nobody leases any more: what was lent runs out, and the floor is left.
        control = story.kill("control", signal.SIGSTOP)
        assert control
        stopped = time.time()
        await asyncio.sleep(3.0 + 5.0)
        thawed = time.time()
        story.kill("control", signal.SIGKILL)

        def lent_again(records: list[Any]) -> bool:
            return any(m.timestamp > 1000 * thawed and m.key.startswith(b"lease|") for m in records)

        await story.until("mail-lane-policy", lent_again, 60, partitions=1)
        again = time.time()
        await story.send(*(f"q{n}@{name}.test" for n in range(EACH // 2) for name in PROVIDERS))
        audit = await story.settled(90, 6 * EACH)
        assert (audit.counts["delivered"], audit.counts["lost"]) == (6 * EACH, 0), story.logs()
        theirs = await story.theirs()
        assert theirs["distinct"] == 6 * EACH
        assert theirs["duplicates"] <= 2 * UNACKNOWLEDGED  # of the two workers that were killed

        tallies = read(ledger)
        pairs = [(tallies[name], source) for name in PROVIDERS for source in SOURCES]
        assert all(tally.sources() == list(SOURCES) for tally in tallies.values())
        most = [tally.windows(source, WINDOW, taken=False) for tally, source in pairs]
        assert max(most) <= RATE * WINDOW + BURST, most
        # The leases of the last report before the stop, and some seconds of the floor after they ran out.
        at_the_floor = [between(tally, source, stopped + 4.0, thawed) for tally, source in pairs]
        assert max(at_the_floor) <= FLOOR * (thawed - stopped - 4.0) + BURST, at_the_floor
        assert sum(at_the_floor) > 0
        back = max(tally.windows(source, WINDOW, after=again, taken=False) for tally, source in pairs)
        assert back > 2 * FLOOR * WINDOW

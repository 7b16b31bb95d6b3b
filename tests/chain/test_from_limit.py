"""Mail of a DKIM domain in warm-up is counted and lent by its From address, from sign to shape and back."""

from __future__ import annotations

import pytest

from schemas.codec import parse
from schemas.lane_policy import LanePolicy, Lease
from streams.ops.scene import SENDER
from tests.support.stories import POLICY, Story

ADDRESS = SENDER.rpartition("<")[2].rstrip(">")
SIGNER = ADDRESS.rpartition("@")[2]
YOUNG = f"""
[plan.quick]
hourly = [2000]
[dkim."{SIGNER}".provider.google]
warm_up = "quick"
"""


@pytest.mark.timeout(120)
async def test_each_from_address_of_a_young_domain_is_counted_over_all_providers(
    embedded_broker, prefix, tmp_path
):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.read_text("utf-8") + YOUNG, "utf-8")
    async with Story(embedded_broker, prefix, tmp_path, policy=policy) as story:
        await story.campaign()
        await story.campaign("other", sender=f"Help <help@{SIGNER}>")
        await story.send(*(f"p{n}@gmail.test" for n in range(5)))
        await story.send(*(f"p{n}@gmail.test" for n in range(3)), campaign="other")
        audit = await story.settled(80, 8)
        assert audit.counts["delivered"] == 8, story.logs()
        policies: dict[tuple[str, str], LanePolicy] = {}
        lent = set()
        for record in await story.records("mail-lane-policy", 1):
            if record.value and record.key.startswith(b"policy|"):
                found = parse(record.value, LanePolicy)
                if found.provider == "*":
                    policies[(found.kind, found.name)] = found
            elif record.value and record.key.startswith(b"lease|"):
                lease = parse(record.value, Lease)
                lent |= {lease.name} if lease.kind == "from" and lease.most > 0 else set()
        assert policies[("dkim", SIGNER)].by_from
        assert lent == {ADDRESS, f"help@{SIGNER}"}
        spent = policies[("from", ADDRESS)].spent
        assert (spent.per_span, spent.span) == (400, 600.0)
        assert 5 <= spent.used + spent.ahead <= 400
        theirs = await story.theirs()
        assert (theirs["distinct"], theirs["duplicates"]) == (8, 0)

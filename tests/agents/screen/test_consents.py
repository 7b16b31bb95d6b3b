"""Marketing goes only to whom the tenant's rule lets it go, and is tracked only as far as is on record."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from agents.screen.agent import Screen
from agents.screen.consents import Consents
from agents.screen.policy import Settings
from schemas.codec import encode
from schemas.consent import Change, StreamConsent
from schemas.consent_rules import ConsentRule, ConsentRules
from schemas.identity import mail_id
from schemas.ladder import RUNGS
from tests.support.agents import FakeTicket, MemoryState, MemoryStates, record
from tests.support.gates import START

TO = "ada@example.org"
ASKS = ConsentRule(require=True)
TRACKS = ConsentRule(tracking="consent")


class Gate:
    """A Screen whose tenants are ``asks`` (require), ``tracks`` (tracking by consent) and all others."""

    def __init__(self, *rows: StreamConsent) -> None:
        rules = ConsentRules({("asks", "marketing"): ASKS, ("tracks", "marketing"): TRACKS})
        self.consents = MemoryState("mail-consents")
        self.consents.rows = {row.key: encode(row) for row in rows}
        self.told: list[tuple[str, str]] = []
        self.suppressions, self.contacts = MemoryState("mail-suppressions"), MemoryState("mail-contacts")
        self.agent = Screen(
            Settings(),
            MemoryStates("mail-screen-log"),
            lambda _: self.suppressions,
            lambda _: self.contacts,
            RUNGS,
            lambda: START,
            None,
            lambda *told: self.told.append(told),
            Consents(rules, lambda _: self.consents),
        )

    async def take(self, tenant: str, origin: str = "o1", **headers: str) -> tuple[str, str, str]:
        """(topic, reason, what is told or the letters that may be tracked)."""
        if not self.agent._state:
            await self.agent.assigned(0)
        found = {
            "type": "accepted",
            "id": mail_id(tenant, None, TO, origin),
            "origin": origin,
            "tenant": tenant,
            "campaign": origin,
            "stream": "marketing",
            "to": TO,
            "lane": "gmx",
            "expires": str(int(START) + 9 * 86400),
        } | headers
        ticket = FakeTicket(
            record(b"{}", topic="mail-enqueued", headers={k: v.encode() for k, v in found.items()})
        )
        await self.agent.batch([ticket], 0)
        await asyncio.sleep(0)
        (out,) = [out for out in ticket.outs if out.topic != "mail-screen-log"]
        if out.topic == "mail-events":
            event = orjson.loads(out.value or b"")
            return event["kind"], event["reason"], event["detail"]
        return out.topic, "", out.headers.get("consent", b"").decode()


def row(tenant: str, **fields: object) -> StreamConsent:
    return StreamConsent(tenant=tenant, to=TO, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "there is no consent on record"),
        ([row("other", state="granted")], "there is no consent on record"),
        ([row("asks", state="none")], "there is no consent on record"),
        ([row("asks", state="granted", stream="other")], "there is no consent on record"),
        ([row("asks", state="revoked")], "the consent on record was revoked"),
        ([row("asks", state="granted", until=START - 1)], "the consent on record ended on 2027-01-15"),
        ([row("asks", state="granted", until=-6.3e10)], "the consent on record ended on 1970-01-01"),
    ],
)
async def test_without_a_consent_in_force_marketing_is_rejected(rows: list[StreamConsent], why: str) -> None:
    gate = Gate(*rows)
    assert await gate.take("asks") == ("rejected", "no_consent", why)
    assert gate.told == [("no_consent", "stop")]
    assert (await gate.take("asks", "o2", stream="transactional"))[0] == "mail-screened-now"
    assert (await gate.take("others", "o3"))[0] == "mail-screened"


async def test_with_one_it_goes_but_not_on_a_day_when_it_will_be_over() -> None:
    gate = Gate(
        row("asks", state="granted", until=START + 86400, changes=(Change(id="x", says="granted", time=1.0),))
    )
    assert (await gate.take("asks"))[0] == "mail-screened"
    assert (await gate.take("asks", "o2", not_before=str(int(START) + 3600)))[0].startswith("mail-wait")
    late = await gate.take("asks", "o3", not_before=str(int(START) + 90000))
    assert late[:2] == ("rejected", "no_consent")


@pytest.mark.parametrize("letters", ["", "o", "c", "oc"])
async def test_tracking_by_consent_is_what_is_on_record_whatever_the_send_claims(letters: str) -> None:
    gate = Gate(row("tracks", state="none", tracking=letters))
    assert await gate.take("tracks", consent="oc") == ("mail-screened", "", letters)
    assert await gate.take("others", "o2", consent="oc") == ("mail-screened", "", "oc")


async def test_a_redo_says_the_same_and_nobody_else_s_mail_costs_a_look() -> None:
    gate = Gate(row("asks", state="granted"))
    assert await gate.take("others", "o2") == await gate.take("others", "o2")
    assert gate.consents.reads == 0
    assert await gate.take("asks") == ("mail-screened", "", "")
    gate.consents.rows.clear()
    assert await gate.take("asks") == ("mail-screened", "", "")

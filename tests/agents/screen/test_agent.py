"""Gate one in stories: rows before outputs, repeats, refusals, hostile envelopes."""

from __future__ import annotations

import asyncio
from importlib import resources

import orjson
import pytest
from msgspec.structs import replace

from agents import Out
from agents.screen.agent import Screen
from agents.screen.policy import Settings
from agents.screen.rules_file import read_rules
from schemas.codec import Headers, Record, encode
from schemas.contact import Contact
from schemas.identity import mail_id
from schemas.ladder import RUNGS
from schemas.suppression import Suppression
from tests.support.gates import START, Broker, BrokerTicket, Suppressed, TailStates

SHIPPED = read_rules((resources.files("agents.screen") / "rules.toml").read_text("utf-8"))


class GateOne:
    """A Screen over a broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.suppressed, self.contacts = Suppressed(), Suppressed()
        self.now = START
        self.states = TailStates("mail-screen-log", broker)
        self.agent = Screen(Settings(), self.states, self.suppressed, self.contacts, RUNGS, lambda: self.now)

    async def take(self, *records: Record) -> list[BrokerTicket]:
        tickets = [BrokerTicket(record, self.broker) for record in records]
        await self.agent.batch(tickets, 0)
        return tickets

    def outs(self) -> list[Out]:
        """What has landed but rows."""
        return [o for topic, outs in self.broker.landed.items() if topic != "mail-screen-log" for o in outs]

    def ends(self) -> list[tuple[str, str, str]]:
        """(origin, kind, reason) of every output, where a mail that goes on is a pass."""
        return [end_of(out) for out in self.outs()]


def end_of(out: Out) -> tuple[str, str, str]:
    if out.topic == "mail-events":
        event = orjson.loads(out.value or b"")
        return event["origin"], event["kind"], event.get("reason", "")
    return out.headers["origin"].decode(), "pass", ""


def send(origin: str = "o1", key: str | None = None, **changes) -> Record:
    """An enqueued record; None leaves a header out."""
    to = changes.get("to", "a@b.example")
    found = {
        "type": "accepted",
        "version": "1",
        "id": mail_id("t", key, to or "", origin),
        "origin": origin,
        "tenant": "t",
        "campaign": "c",
        "stream": "marketing",
        "to": to,
        "lane": "gmx",
        "expires": str(int(START) + 86400),
    } | changes
    value = found.pop("body", b'{"to": "a@b.example"}')
    headers: Headers = {
        k: v if isinstance(v, bytes) else str(v).encode() for k, v in found.items() if v is not None
    }
    topic = "mail-enqueued-now" if found["stream"] == "transactional" else "mail-enqueued"
    return Record(topic, 0, 0, int(START * 1000), b"key", value, headers)


def without(record: Record, name: str) -> Record:
    return replace(record, headers={k: v for k, v in record.headers.items() if k != name})


def refusal(origin: str = "o1", outcome: str = "rejected", **changes) -> Record:
    return send(origin, type="verdict", outcome=outcome, reason="no_content", body=None, **changes)


async def gate(hold: bool = False) -> GateOne:
    made = GateOne(Broker(hold))
    await made.agent.assigned(0)
    return made


async def test_row_then_output_then_done():
    made = await gate(hold=True)
    [ticket] = await made.take(send(key="k"))
    assert [out.topic for out, _ in made.broker.flight] == ["mail-screen-log"] * 2
    made.broker.ack(1)
    assert [out.topic for out, _ in made.broker.flight] == ["mail-screen-log"]
    made.broker.ack(1)
    assert [out.topic for out, _ in made.broker.flight] == ["mail-screened"]
    made.broker.ack(1)
    assert ticket.committable
    [out] = made.outs()
    assert out.value == ticket.record.value
    assert (out.key, out.partition) == (b"key", 0)
    assert out.headers == ticket.record.headers | {"cohort": b"3"}


async def test_marketing_mail_says_how_engaged_its_recipient_is_and_a_redo_too():
    made = await gate()
    made.contacts.rows[b"a@b.example|t"] = encode(
        Contact(tenant="t", to="a@b.example", last_click=START - 86400)
    )
    await made.take(send(), send(), send("o2", to="new@b.example"))
    await made.take(send("o3", stream="transactional"))
    assert [out.headers.get("cohort") for out in made.outs()] == [b"0", b"0", b"3", None]


async def test_the_next_record_of_the_same_batch_sees_the_decision():
    made = await gate(hold=True)
    await made.take(send("o1"), send("o2"))
    while made.broker.flight:
        made.broker.ack()
    assert made.ends() == [("o1", "pass", ""), ("o2", "suppressed", "duplicate")]


async def test_a_copy_waits_for_the_row_that_is_on_its_way():
    """Else its output could be out and the decision behind it gone."""
    made = await gate(hold=True)
    tickets = await made.take(send("o1"), send("o1", lane="other-1"), send("o2"))
    assert {out.topic for out, _ in made.broker.flight} == {"mail-screen-log"}
    while made.broker.flight:
        made.broker.ack()
    assert all(ticket.committable for ticket in tickets)
    assert [end[:2] for end in made.ends()] == [("o1", "pass"), ("o1", "pass"), ("o2", "suppressed")]


@pytest.mark.parametrize("landed", [0, 1, 2])
async def test_a_crash_between_row_and_output_repeats_the_decision(landed: int):
    made = await gate(hold=True)
    await made.take(send(key="k", lane="gmx"))
    made.broker.crash(landed)
    after = GateOne(made.broker)
    made.broker.hold = False
    await after.agent.assigned(0)
    row = Suppression(tenant="t", to="a@b.example", reason="complaint")
    if landed:  # the decision is taken: what changed meanwhile does not change it
        after.suppressed.rows[row.key] = encode(row)
    await after.take(send(key="k", lane="other-2", expires=START + 5))
    [out] = after.outs()
    assert out.headers["lane"] == (b"gmx" if landed else b"other-2")
    assert out.headers["expires"] == (b"%d" % (START + 86400) if landed else b"%d" % (START + 5))
    # And every key knows it, also the one whose row the crash had swallowed.
    await after.take(send("o2", key="k", campaign="d"), send("o3"))
    assert after.ends()[1:] == [("o2", "suppressed", "duplicate"), ("o3", "suppressed", "duplicate")]


async def test_an_idempotency_key_with_other_content_is_a_conflict_and_the_first_wins():
    made = await gate()
    await made.take(
        send("o1", key="k", campaign="c", body=b"one"), send("o2", key="k", campaign="d", body=b"two")
    )
    assert made.ends() == [("o1", "pass", ""), ("o2", "suppressed", "conflict")]
    [_, event] = made.outs()
    assert orjson.loads(event.value or b"")["detail"] == "first received as o1"


async def test_a_refused_send_stays_refused_and_does_not_use_up_the_campaign():
    made = await gate()
    await made.take(refusal("o1"), send("o1"), send("o2"))
    assert made.ends() == [("o1", "rejected", "no_content")] * 2 + [("o2", "pass", "")]
    [one, two, _] = made.outs()
    assert one.key == two.key  # the same event


async def test_a_taken_send_goes_on_when_it_is_refused_the_second_time():
    """As a verdict: gate two alone ends it, once."""
    made = await gate()
    await made.take(send("o1"), refusal("o1", "cancelled"))
    assert made.ends() == [("o1", "pass", "")] * 2
    assert made.outs()[1].headers["type"] == b"verdict"


async def test_a_refused_send_that_another_overtook_keeps_its_end():
    made = await gate()
    await made.take(refusal("o1"), send("o2"), send("o1"))
    assert sorted(made.ends()) == [("o1", "rejected", "no_content")] * 2 + [("o2", "pass", "")]


async def test_a_duplicate_stays_one_when_it_is_refused_the_second_time():
    made = await gate()
    await made.take(send("o1"), send("o2"), refusal("o2"))
    assert made.ends() == [("o1", "pass", "")] + [("o2", "suppressed", "duplicate")] * 2


async def test_a_refusal_does_not_count_as_the_one_mail_of_its_campaign():
    made = await gate()
    await made.take(refusal("o1"), send("o2"))
    assert sorted(made.ends()) == [("o1", "rejected", "no_content"), ("o2", "pass", "")]


async def test_a_stream_that_changes_between_two_tries_changes_nothing():
    made = await gate()
    await made.take(send("o1"), send("o1", stream="transactional"))
    await made.take(send("o2", stream="transactional"), send("o2"))
    assert [end[:2] for end in made.ends()] == [("o1", "pass")] * 2 + [("o2", "pass")] * 2
    assert [out.topic for out in made.outs()] == ["mail-screened"] * 2 + ["mail-screened-now"] * 2


async def test_scheduled_mail_goes_onto_the_ladder_and_names_where_it_goes_on():
    made = await gate()
    await made.take(
        send(not_before=START + 4000), send("o2", campaign="d", stream="transactional", not_before=START + 30)
    )
    one, two = made.outs()
    assert (one.topic, one.headers["next"], one.headers["due"]) == (
        "mail-wait-1h",
        b"mail-screened",
        b"%d" % (START + 4000),
    )
    assert (two.topic, two.headers["next"]) == ("mail-wait-1m", b"mail-screened-now")
    made.now = START + 5000
    await made.take(send(not_before=START + 4000))
    assert made.outs()[-1].topic == "mail-screened"


async def test_consent_of_the_contact_is_copied_unless_the_send_has_its_own():
    made = await gate()
    made.contacts.rows[b"a@b.example|t"] = orjson.dumps({"consent": {"opens": True, "clicks": True}})
    await made.take(send(), send("o2", campaign="d", consent="o"), send("o3", to="x@b.example"))
    assert [out.headers.get("consent") for out in made.outs()] == [b"oc", b"o", None]


async def test_no_host_and_suppressions_end_it_here():
    made = await gate()
    row = Suppression(tenant="t", to="x@b.example", reason="unsubscribe")
    made.suppressed.rows[row.key] = encode(row)
    await made.take(
        send("o1", host="null_mx"), send("o2", to="x@b.example"), send("o3", to="y@b.example", expires=START)
    )
    assert made.ends() == [
        ("o1", "bounced", "null_mx"),
        ("o2", "suppressed", "unsubscribe"),
        ("o3", "expired", "before_screen"),
    ]
    assert all(orjson.loads(out.value or b"")["terminal"] for out in made.outs())


async def test_revoke_waits_for_rows_and_lets_the_output_out():
    made = await gate(hold=True)
    [ticket] = await made.take(send())
    asyncio.get_running_loop().call_later(0.02, made.broker.ack)
    await made.agent.revoked(0)
    made.broker.ack()
    assert ticket.committable
    assert made.states.open_now == set()


async def test_an_answer_after_a_revoke_that_ran_out_of_time_lets_nothing_out():
    made = await gate(hold=True)
    [ticket] = await made.take(send())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.agent.revoked(0), 0.02)
    await made.agent.assigned(0)
    [again] = await made.take(send("o1"))
    assert len(made.broker.flight) == 2  # the row of the old time, which nobody had read, and one more
    made.broker.ack(1)
    assert [out.topic for out, _ in made.broker.flight] == ["mail-screen-log"]
    made.broker.ack()
    made.broker.ack()
    assert not ticket.said_done
    assert again.committable


@pytest.mark.parametrize(
    "headers",
    [
        "id",
        "to",
        "origin",
        {"id": b"\xff"},
        {"to": b"\xc3("},
        {"expires": "nan"},
        {"expires": "inf"},
        {"expires": "1e300"},
        {"expires": "-5"},
        {"expires": "later"},
        {"not_before": "nan"},
        {"not_before": "1e30"},
        {"type": "verdict", "outcome": "pass"},
        {"type": "verdict", "outcome": "delivered"},
        {"type": "verdict", "outcome": ""},
        {"type": "verdict"},
        {"type": "mail"},
        {"type": None},
    ],
    ids=repr,
)
async def test_an_envelope_that_is_none_is_rejected_and_the_batch_goes_on(headers):
    made = await gate()
    name, changes = (headers, {}) if isinstance(headers, str) else ("", headers)
    wrong = without(send("o2", campaign="d", **changes), name)
    [_, bad, _] = await made.take(send("o1"), wrong, send("o3", campaign="e"))
    assert bad.rejected is not None
    assert made.ends() == [("o1", "pass", ""), ("o3", "pass", "")]


# --- the rules for marketing mail


class Ruled(GateOne):
    """With the shipped rules."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self.told: list[tuple[str, str]] = []
        self.agent = Screen(
            Settings(),
            self.states,
            self.suppressed,
            self.contacts,
            RUNGS,
            lambda: self.now,
            SHIPPED,
            lambda *told: self.told.append(told),
        )


async def test_a_rule_stops_marketing_with_its_reason_and_what_was_meant_and_nothing_else():
    gate = Ruled(Broker())
    await gate.agent.assigned(0)
    await gate.take(
        send("o1", to="anna@gmial.com"),
        send("o2", to="anna@gmial.com", stream="transactional"),
        send("o3", to="info@b.example"),
        send("o4", to="anna@gmail.con", host="no_domain"),
        send("o5"),
    )
    await asyncio.sleep(0)
    assert sorted(gate.ends()) == [
        ("o1", "suppressed", "mistyped_domain"),
        ("o2", "pass", ""),
        ("o3", "suppressed", "role_address"),
        ("o4", "bounced", "no_domain"),
        ("o5", "pass", ""),
    ]
    events = {
        e["origin"]: e for e in (orjson.loads(o.value) for o in gate.outs() if o.topic == "mail-events")
    }
    assert events["o1"]["suggestion"] == "anna@gmail.com"
    assert events["o4"]["suggestion"] == "anna@gmail.com"
    assert gate.told == [("mistyped_domain", "stop"), ("role_address", "stop")]


async def test_many_campaigns_at_once_meet_the_ceiling_and_a_redo_repeats_what_was_decided():
    gate = Ruled(Broker())
    await gate.agent.assigned(0)
    sends = [send(f"o{n}", campaign=f"c{n}") for n in range(12)]
    await gate.take(*sends)
    await asyncio.sleep(0)
    first = gate.ends()
    assert [kind for _, kind, _ in first] == ["pass"] * 10 + ["suppressed"] * 2
    assert {reason for _, _, reason in first} == {"", "too_many"}
    await gate.take(*sends)
    await asyncio.sleep(0)
    assert sorted(gate.ends()) == sorted(first * 2)

"""``mailsluice trace``: one message's story, put together again from all topics."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from agents import Out
from schemas.codec import Headers, Malformed, Record, encode
from schemas.event import MailEvent
from schemas.identity import mail_id, origin_of, partition_of
from schemas.mail import verdict
from schemas.outcome import Outcome
from schemas.replay import Replays
from schemas.send import Send
from schemas.suppression import Suppression
from streams.cli import main
from streams.ops import trace as module
from streams.ops.letters import Letter
from streams.ops.letters_again import again
from streams.ops.story import gather, id_of
from streams.ops.trace import matcher, trace
from streams.settings import Settings
from streams.work import dead_letter
from tests.support.brokers import Broker
from tests.support.examples import examples_of
from tests.support.published import PARTITIONS, applied, fact, published

ADA = "ada@example.test"
AT = 1_800_000_000.0
REPLY = "452 4.2.2 mailbox full \x1b[31m\r\n250 injected"


class Played:
    """Ada's mail was deferred once, delivered, opened, and bounced by a late DSN; Bob's waits."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.partition = partition_of(ADA, PARTITIONS)
        self.bob = next(
            f"bob{n}@example.test"
            for n in range(50)
            if partition_of(f"bob{n}@example.test", PARTITIONS) != self.partition
        )
        self.origin = self.id = ""

    async def send(self, to: str, partition: int) -> tuple[str, str]:
        """Publish a send; its origin and id."""
        value = encode(Send(campaign="spring", to=to))
        [(offset, timestamp)] = await published(
            self.settings, [Out("mail-sends", value, {}, to.encode(), partition)]
        )
        origin = origin_of("mail-sends", partition, offset, timestamp)
        return origin, mail_id("default", None, to.lower(), origin)

    def headers(self, to: str, origin: str, id: str, **more: bytes) -> Headers:
        found = {
            "type": b"accepted",
            "version": b"1",
            "id": id.encode(),
            "origin": origin.encode(),
            "to": to.encode(),
        }
        return found | {
            "campaign": b"spring",
            "tenant": b"default",
            "attempt": b"1",
            "lane": b"google",
            **more,
        }

    async def play(self) -> None:
        p = self.partition
        self.origin, self.id = await self.send("Ada@Example.test", 1 - p)  # producers choose the partition
        of = self.headers(ADA, self.origin, self.id)
        facts = {
            "to": ADA,
            "origin": self.origin,
            "campaign": "spring",
            "lane": "google",
            "provider": "google",
        }
        outs: Sequence[Out] = [
            Out("mail-enqueued", b"{}", of, ADA.encode(), p),
            Out("mail-screened", b"{}", of, ADA.encode(), p),
            Out("mail-lane-google", b"x" * 1234, of | {"type": b"mail", "dkim": b"news.test"}, ADA.encode(), p),
            Out("mail-wait-1m", b"x", of | {"attempt": b"2", "next": b"mail-lane-google", "due": b"1800000060"}, None, p),
            fact("mail-outcomes", Outcome(id=self.id, state="deferred", attempt=1, reply=REPLY, phase="rcpt", time=AT, next_at=AT + 60, klass="full", rule="google-full", **facts), ADA.encode(), p),
            fact("mail-events", MailEvent(id="e1", kind="deferred", mail=self.id, time=AT, attempt=1, reply=REPLY, to=ADA, origin=self.origin), ADA.encode(), p),
            Out("mail-lane-google", b"x" * 1234, of | {"type": b"mail", "attempt": b"2"}, ADA.encode(), p),
            fact("mail-outcomes", Outcome(id=self.id, state="delivered", attempt=2, reply="250 ok", phase="dot", time=AT + 61, tls="TLSv1.3", seconds=0.12, source="127.0.0.1", mx="mx.example.test", **facts), ADA.encode(), p),
            fact("mail-events", MailEvent(id="e2", kind="clicked", mail=self.id, time=AT + 70, url="https://x.test/", machine=True, to=ADA), ADA.encode(), p),
            fact("mail-events", MailEvent(id="e3", kind="bounced", mail=self.id, time=AT + 90, reason="late_dsn", terminal=True, to=ADA, origin=self.origin), ADA.encode(), p),
            *self.suppressions(),
        ]  # fmt: skip
        await published(self.settings, outs)

    def suppressions(self) -> list[Out]:
        rows = [
            Suppression(tenant="default", to=ADA, reason="hard_bounce", time=AT + 91),
            Suppression(tenant="default", to=ADA, reason="manual", active=False),
            Suppression(tenant="default", to="ada@example.tes", reason="manual"),
        ]
        return [fact("mail-suppressions", row, row.key, self.partition) for row in rows]


@pytest.fixture
async def played(embedded_broker: Broker, prefix: str) -> Played:
    found = Played(await applied(embedded_broker, prefix))
    await found.play()
    return found


async def call(settings: Settings, *arguments: str) -> Result:
    environment = {"MAILSLUICE_BROKER": settings.broker, "MAILSLUICE_PREFIX": settings.prefix}
    return await asyncio.to_thread(CliRunner().invoke, main, ["trace", *arguments], env=environment)


STORY = [
    "received",
    "enqueued",
    "screened",
    "on its lane",
    "waits",
    "on its lane",
    "deferred",
    "delivered",
    "clicked",
    "bounced",
]


async def test_the_story_is_the_same_by_address_id_and_origin(played: Played) -> None:
    for wanted in ("ADA@Example.TEST", played.id, played.id.upper(), played.origin):
        found = json.loads((await call(played.settings, wanted, "--json")).output)
        assert (found["to"], found["partition"]) == (ADA, played.partition)
        [mail] = found["mails"]
        assert (mail["id"], mail["end"], mail["origin"]) == (played.id, "bounced", played.origin)
        told = [
            record["what"]
            for record in mail["records"]
            if record["topic"] != "mail-events" or record["what"] != "deferred"
        ]
        assert told == STORY
        assert [row["reason"] for row in found["suppressions"]] == ["hard_bounce"]


async def test_people_read_it_in_order_and_replies_move_no_cursor(played: Played) -> None:
    found = await call(played.settings, ADA)
    assert found.exit_code == 0
    assert "\x1b" not in found.output
    assert "452 4.2.2 mailbox full  [31m  250 injected" in found.output
    assert found.output.count("deferred") == 1  # the event that repeats the journal is left out
    assert "full (rule google-full), again at 2027-01-15 08:01:00Z: rcpt 452" in found.output
    assert "attempt 2, 127.0.0.1 to mx.example.test, 0.12 s, TLSv1.3: dot 250 ok" in found.output
    assert "https://x.test/, by a machine" in found.output
    assert "suppressed for ever since 2027-01-15 08:01:31Z: hard_bounce (all mail of default)" in found.output
    assert (await call(played.settings, ADA, "--all")).output.count("deferred") == 2


async def test_only_the_recipients_partition_is_read(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[tuple[str, int]] = set()
    real = module.read_to_end

    def spied(settings: Settings, places, starts=None):
        read.update(places := list(places))
        return real(settings, places, starts)

    monkeypatch.setattr(module, "read_to_end", spied)
    await trace(played.settings, played.origin)
    flow = {place for place in read if not place[0].endswith("dlq")}
    assert {partition for _, partition in flow} == {played.partition}
    assert {topic for topic, _ in flow if "lane" in topic} == {"mail-lane-google", "mail-lane-google-now"}


async def test_a_send_that_nobody_has_taken_is_pending(played: Played) -> None:
    origin, _ = await played.send(played.bob, 0)
    for wanted in (played.bob, origin):
        [mail] = (await trace(played.settings, wanted)).mails
        assert (mail.end, [item.what for item in mail.items]) == ("pending", ["received"])
        assert mail.names["origin"] == origin


async def test_dead_letters_are_found_by_address_and_origin(played: Played) -> None:
    value = b'{"campaign": "spring", "to": "Eve@Example.test", "surprise": 1}'
    [(offset, timestamp)] = await published(played.settings, [Out("mail-sends", value, {}, None, 1)])
    letter = dead_letter(
        Record("mail-sends", 1, offset, timestamp, None, value, {}),
        "enqueue",
        "bad_field",
        "no field surprise",
        AT,
    )
    await published(played.settings, [letter])
    origin = origin_of("mail-sends", 1, offset, timestamp)
    for wanted in ("eve@example.test", origin):
        [mail] = (await trace(played.settings, wanted)).mails
        assert mail.end == "dead_lettered"
        assert "enqueue could not work on mail-sends/1@" in mail.items[-1].text
        assert "bad_field: no field surprise" in mail.items[-1].text


async def test_a_send_that_was_replayed_is_one_message(played: Played) -> None:
    """Found by the address, by its own origin and by where its copy lies; also when it dies once more."""
    settings = replace(played.settings, secret="s" * 32)
    replays = Replays.of(settings.secret)
    value = b'{"campaign": "spring", "to": "eve@example.test"}'
    [(offset, timestamp)] = await published(settings, [Out("mail-sends", value, {}, None, 1)])
    origin = origin_of("mail-sends", 1, offset, timestamp)

    async def dies(offset: int, timestamp: int, headers: Headers, at: float) -> Record:
        record = Record("mail-sends", 1, offset, timestamp, None, value, headers)
        letter = dead_letter(record, "enqueue", "bug", "KeyError", at)
        await published(settings, [letter])
        return Record("mail-sends-dlq", 0, 0, int(at * 1000), None, letter.value, dict(letter.headers))

    letter = await dies(offset, timestamp, {}, AT)
    copy = again(Letter(letter), replays)
    [(offset, timestamp)] = await published(settings, [Out("mail-sends", copy.value, copy.headers, None, 1)])
    where = origin_of("mail-sends", 1, offset, timestamp)
    for end in ("pending", "dead_lettered"):
        for wanted in ("eve@example.test", origin, where):
            [mail] = (await trace(settings, wanted)).mails
            assert mail.names["origin"] == origin
            if wanted != origin:
                assert mail.end == end
        await dies(offset, timestamp, copy.headers, AT + 5)


async def test_nothing_found_is_exit_code_1(played: Played) -> None:
    found = await call(played.settings, "nobody@example.test")
    assert found.exit_code == 1
    assert "no message of nobody@example.test" in found.output
    gone = await call(played.settings, "mail-sends/1/999999/1/0")
    assert gone.exit_code == 1


# --- without a broker


def test_a_verdict_tells_why_and_unreadable_values_are_no_obstacle() -> None:
    headers = {"id": b"1" * 32, "to": ADA.encode(), "lane": b"google", "origin": b"mail-sends/0/1/2/0"}
    ended = verdict(headers, "rejected", "template_error", "name is undefined")
    records = [
        Record("mail-lane-google", 0, 5, 2000, None, b"", ended),
        Record(
            "mail-events",
            0,
            1,
            3000,
            None,
            encode(MailEvent(id="e", kind="rejected", mail="1" * 32, time=3.0, terminal=True)),
            {},
        ),
        Record("mail-rendered", 0, 4, 1000, None, None, headers),
    ]
    deep = b'{"to": %s1%s, "key": [2], "tenant": {}}' % (b"[" * 1000, b"]" * 1000)
    for value in (b"\xff{", deep, deep.replace(b"to", b"campaign"), deep.replace(b"to", b"key")):
        send = Record("mail-sends", 0, 1, 2, None, value, {})
        assert id_of(send, "mail-sends/0/1/2/0") == mail_id("default", None, "", "mail-sends/0/1/2/0")
        [mail] = gather([send], records)
        assert mail.end == "rejected"
    assert [item.what for item in mail.items] == ["received", "rendered", "verdict", "rejected"]
    assert mail.items[2].text == "ends unsent as rejected: template_error: name is undefined"


def test_what_is_asked_for_is_checked() -> None:
    for wanted in ("", "x", "mail-dlq/0/1/2/0", "../../etc", "a@b", "0" * 31, "mail-sends/0/1/2"):
        with pytest.raises(Malformed):
            matcher(wanted)


def test_what_is_said_about_an_address_is_no_mail() -> None:
    names = ("subscription_requested", "subscribed-confirmed", "consented", "blocked")
    paths = [path for path in examples_of("event") if path.stem in names]
    records = [Record("mail-events", 0, n, 0, None, path.read_bytes(), {}) for n, path in enumerate(paths)]
    (about,) = gather([], records)
    assert (about.id, about.end, len(about.items)) == ("-", "said about the address", 4)

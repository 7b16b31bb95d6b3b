"""Dead letters: which are meant, which may come again and how, and what a terminal gets to see. Pure."""

from __future__ import annotations

import random
from array import array
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from agents.deliver.row import Row
from schemas.codec import Record, encode
from schemas.mail import verdict
from schemas.outcome import Outcome
from schemas.replay import HEADER, Replayed, Replays
from streams.cli import main
from streams.ops.letters import DEAD, Letter, Wanted
from streams.ops.letters_again import Ends, Past, again, name_of, refusal, runs_of
from streams.ops.letters_print import shown
from streams.ops.origins import NoSecret, origin_of_letter
from streams.topics import TOPICS
from streams.work import dead_letter

NOW, P = 1_800_000_000.0, 4
ID = "0123456789abcdef0123456789abcdef"
REPLAYS = Replays([b"s" * 32])
SEND = {"campaign": "spring", "tenant": "acme", "to": "Anna@example.org"}


def died(
    record: Record, stage: str, reason: str = "bug", detail: str = "Error: x", largest: int = 12_000_000
) -> Letter:
    out = dead_letter(record, stage, reason, detail, NOW - 60, largest)
    return Letter(Record(out.topic, 0, 17, int(NOW * 1000) - 59_000, out.key, out.value, out.headers))


def mail(topic: str = "mail-screened", stage: str = "render", value: bytes = b"{}", **headers: Any) -> Letter:
    found = {"type": "accepted", "id": ID, "origin": "mail-sends/1/2/3/0", "attempt": "1", "tenant": "acme",
             "campaign": "spring", "to": "anna@example.org", "expires": NOW + 3600, **headers}  # fmt: skip
    raw = {name: str(value).encode() for name, value in found.items() if value is not None}
    return died(Record(topic, 2, 5, int(NOW * 1000) - 99_000, b"k", value, raw), stage)


def send(topic: str = "mail-sends", value: Any = SEND, **headers: bytes) -> Letter:
    raw = value if isinstance(value, bytes) else orjson.dumps(value)
    return died(
        Record(topic, 1, 7, 1_799_000_000_000, None, raw, headers), "enqueue", "bad_json", "line 1: eh"
    )


# -- which are meant


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"topic": "mail-screened"}, True),
        ({"topic": "mail-dlq"}, True),
        ({"topic": "mail-sends"}, False),
        ({"stage": "render"}, True),
        ({"stage": "sign"}, False),
        ({"reason": "bug"}, True),
        ({"reason": "error: X"}, True),
        ({"reason": "bu"}, False),
        ({"tenant": "acme", "campaign": "spring"}, True),
        ({"tenant": "default"}, False),
        ({"campaign": "autumn"}, False),
        ({"id": ID}, True),
        ({"id": "mail-sends/1/2/3/0"}, True),
        ({"id": "mail-screened/2/5/1799999901000/0"}, False),
        ({"partition": 2, "offset": 5}, True),
        ({"partition": 0}, False),
        ({"offset": 17}, False),
        ({"since": NOW - 60, "until": NOW - 59}, True),
        ({"since": NOW - 59}, False),
        ({"until": NOW - 60}, False),
        ({"names": frozenset({("mail-dlq", 17)})}, True),
        ({"names": frozenset({("mail-dlq", 18), ("mail-sends-dlq", 17)})}, False),
    ],
)
def test_every_field_that_is_given_must_fit(wanted: dict[str, Any], fits: bool) -> None:
    assert Wanted(**wanted).fits(mail()) == fits


def test_a_send_is_found_by_what_its_json_says_and_never_by_an_outsiders_headers() -> None:
    letter = send(tenant=b"default", campaign=b"x", id=ID.encode(), origin=b"mail-sends/9/9/9/0")
    assert letter.about == {"tenant": "acme", "campaign": "spring", "to": "Anna@example.org"}
    assert origin_of_letter(letter.record, REPLAYS) == "mail-sends/1/7/1799000000000/0"
    assert Wanted(id="mail-sends/1/7/1799000000000/0").fits(letter)
    assert not Wanted(id=ID).fits(letter)
    assert send(value=b"\xff{").about == {"tenant": "default"}
    assert send(value=b"[1]").about == {"tenant": "default"}
    deep = b'{"to": %s1%s, "campaign": 5}' % (b"[" * 1000, b"]" * 1000)  # str() of it would raise
    assert send(value=deep).as_dict()["tenant"] == "default"


def test_only_the_topics_that_can_hold_it_are_read() -> None:
    assert Wanted().topics == DEAD
    assert set(DEAD) == {topic.dlq for topic in TOPICS if not topic.name.endswith("dlq")}
    assert Wanted(topic="mail-sends-dlq").topics == ("mail-sends-dlq",)
    assert Wanted(names=frozenset({("mail-dlq", 1), ("mail-dlq", 2)})).topics == ("mail-dlq",)
    assert Wanted(names=frozenset({("mail-dlq", 1)}), reason="bug").as_dict() == {
        "names": "mail-dlq@1",
        "reason": "bug",
    }


# -- the copy


@pytest.mark.parametrize(
    ("topic", "stage"),
    [
        ("mail-enqueued", "screen"),
        ("mail-screened-now", "render"),
        ("mail-rendered", "sign"),
        ("mail-lane-google", "deliver"),
        ("mail-wait-1h", "wait"),
    ],
)
def test_a_mail_asks_for_its_next_attempt_where_it_died(topic: str, stage: str) -> None:
    letter = mail(topic, stage, b"MIME", attempt=3, next="mail-lane-google")
    assert refusal(letter, None, P, NOW) is None
    out = again(letter, None)
    assert (out.topic, out.partition, out.key, out.value) == (topic, 2, b"k", b"MIME")
    assert out.headers == letter.was.headers | {"attempt": b"4"}
    assert not [name for name in out.headers if name.startswith("dlq_")]


def test_under_at_most_once_it_asks_for_the_same_attempt() -> None:
    """An intent that is journaled meanwhile then ends it as unknown; the next attempt would be sent."""
    assert again(mail(guarantee="at_most_once", attempt=2), None).headers["attempt"] == b"2"


def test_a_send_keeps_its_origin_however_often_it_dies() -> None:
    letter = send(traceparent=b"t", **{HEADER: b"0" * 32 + b":mail-sends/0/0/0/0"})
    out = again(letter, REPLAYS)
    assert (out.topic, out.partition, out.value) == ("mail-sends", 1, letter.record.value)
    assert set(out.headers) == {"traceparent", HEADER}
    came = Record(out.topic, 1, 900, int(NOW * 1000), out.key, out.value, out.headers)
    assert REPLAYS.origin(came) == "mail-sends/1/7/1799000000000/0"
    second = died(came, "enqueue")
    assert origin_of_letter(second.record, REPLAYS) == "mail-sends/1/7/1799000000000/0"
    once_more = again(second, Replays([b"n" * 32, b"s" * 32]))
    assert once_more.headers[HEADER].endswith(b":mail-sends/1/7/1799000000000/0")
    with pytest.raises(NoSecret, match="MAILSLUICE_SECRET"):
        again(letter, None)


@pytest.mark.parametrize("topic", ["mail-outcomes", "mail-inbound", "mail-engagement", "mail-events"])
def test_what_is_no_mail_on_its_way_comes_again_as_it_came(topic: str) -> None:
    letter = died(
        Record(topic, 3, 5, 0, b"k", b'{"id":"x","mail":"y"}', {"attempt": b"1", "id": b"z"}), "classify"
    )
    assert refusal(letter, None, P, NOW) is None
    out = again(letter, None)
    assert (out.topic, out.partition, out.key, out.value) == (topic, 3, b"k", b'{"id":"x","mail":"y"}')
    assert out.headers == {"attempt": b"1", "id": b"z"}


# -- refusals


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (None, None),
        (Row(2, "deferred", False), None),
        (Row(3, "deferred", False), "gone_on"),
        (Row(4, "deferred", False), "gone_on"),
        (Row(2, "unknown", False), "unknown"),
        (Row(2, "unknown", True), "ended"),
        (Row(2, "intent", False), "intent"),
        (Row(3, "delivered", True), "ended"),
        (Row(9, "cancelled", True), "ended"),
    ],
)
def test_gate_twos_word_decides(row: Row | None, code: str | None) -> None:
    found = refusal(mail("mail-lane-gmx", "deliver", attempt=3), row, P, NOW)
    assert (found and found[0]) == code


@pytest.mark.parametrize(
    ("letter", "code"),
    [
        (mail(expires=NOW - 1), "expired"),
        (mail(expires=0), None),
        (mail(expires="nan"), "bad_envelope"),
        (mail(id=None), "bad_envelope"),
        (mail(attempt="two"), "bad_envelope"),
        (mail(attempt="0"), "bad_envelope"),
        (mail(attempt="99999999999"), "bad_envelope"),
        (mail("mail-nowhere"), "no_place"),
        (mail("mail-suppressions"), "state"),
        (mail("mail-consents"), "state"),
        (died(Record("mail-campaigns", 0, 3, 0, b"k", b"x", {}), "campaigns"), "state"),
        (died(Record("mail-sends", 9, 3, 0, b"k", b"x", {}), "enqueue"), "no_place"),
        (died(Record("mail-sends", 1, 3, 0, None, b"x" * 200_000, {}), "enqueue", largest=150_000), "cut"),
        (Letter(Record("mail-dlq", 0, 1, 0, None, b"", {})), "no_place"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(letter: Letter, code: str | None) -> None:
    found = refusal(letter, None, P, NOW)
    assert (found and found[0]) == code
    assert found is None or len(found[1]) > 15


def test_an_order_to_forget_somebody_comes_again_as_it_came() -> None:
    was = Record("mail-enqueued", 2, 5, 1, b"k", b"{}", {"type": b"erasure", "version": b"1"})
    letter = died(was, "screen")
    assert refusal(letter, None, P, NOW) is None
    out = again(letter, None)
    assert (out.topic, out.partition, out.headers) == (was.topic, was.partition, was.headers)


def test_a_verdict_ends_its_mail_also_after_its_time() -> None:
    ended = verdict(mail(expires=NOW - 1).was.headers, "expired", "while_waiting")
    letter = died(Record("mail-lane-gmx", 2, 5, 0, None, None, ended), "deliver")
    assert refusal(letter, None, P, NOW) is None


# -- what is remembered of a million


def test_rows_are_merged_as_gate_two_does_and_others_are_not_kept() -> None:
    ids = [f"{n:032x}" for n in range(2000)]
    ends = Ends(array("Q", [name_of(id) for id in ids + ids[:10]]))
    outcomes = [
        Outcome(id=ids[7], state="deferred", attempt=1),
        Outcome(id=ids[7], state="delivered", attempt=2),
        Outcome(id=ids[7], state="unknown", attempt=3),
        Outcome(id=ids[8], state="intent", attempt=1),
        Outcome(id=ids[8], state="unknown", attempt=1, final=True),
        Outcome(id="f" * 32, state="delivered", attempt=1),
    ]
    random.Random(4).shuffle(outcomes)
    for outcome in outcomes:
        ends.put(outcome.id, encode(outcome))
    assert ends.get(ids[7]) == Row(2, "delivered", True)
    assert ends.get(ids[8]) == Row(1, "unknown", True)
    assert ends.get(ids[9]) is None
    assert ends.get("f" * 32) is None
    assert Ends(array("Q")).get(ids[0]) is None


def test_what_was_replayed_is_known_again_by_topic_offset_and_age() -> None:
    past = Past()
    past.add(Replayed(topic="mail-dlq", runs=(3, 2, 100_000, 1), who="ann", time=NOW))
    past.add(Replayed(topic="mail-dlq", runs=(4, 1), who="bob", time=NOW + 9))

    def who(offset: int, topic: str = "mail-dlq", at: float = NOW - 1) -> str:
        said = past.of(Record(topic, 0, offset, int(at * 1000), None, None, {}))
        return said.who if said else ""

    assert [who(n) for n in (2, 3, 4, 5, 100_000)] == ["", "ann", "bob", "", "ann"]
    assert who(3, "mail-sends-dlq") == ""
    assert who(3, at=NOW + 1) == "", "the topic was made anew: another letter lies there"
    assert past.over({"mail-dlq": 5}) == [b"replayed|mail-dlq|%.3f|4" % (NOW + 9)]


def test_runs_hold_what_they_were_made_of() -> None:
    offsets = sorted(random.Random(1).sample(range(3000), 1000))
    runs = runs_of(offsets)
    assert [
        n for first, count in zip(runs[::2], runs[1::2], strict=True) for n in range(first, first + count)
    ] == offsets
    assert runs_of([]) == ()
    assert runs_of([7, 8, 9, 11]) == (7, 3, 11, 1)


# -- for people


def test_nothing_from_outside_moves_the_terminal() -> None:
    assert shown("Größe 44 – 你好") == "Größe 44 – 你好"
    assert shown("a\x1b[2Jb\r\x00\u202e\x9b") == "a\\x1b[2Jb\\r\\x00\\u202e\\x9b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "--why", "x"], "say which letters"),
        (["replay", "--all"], "--why is missing"),
        (["replay", "--all", "--why", "x", "--rate", "0"], "no rate above 0"),
        (["replay", "--all", "--why", "x", "--rate", "fast"], "no rate above 0"),
        (["show"], "say which letters"),
        (["show", "mail-sends@3"], "is no dead letter"),
        (["list", "17"], "is no dead letter"),
        (["list", "--limit", "0"], "needs --json"),
        (["list", "--since", "2026-03-02T00:00:00Z", "--until", "2026-03-01T00:00:00Z"], "later than"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(arguments: list[str], said: str) -> None:
    found = CliRunner().invoke(main, ["dlq", *arguments], env={"MAILSLUICE_BROKER": "127.0.0.1:1"})
    assert (found.exit_code, said in found.output) == (2, True), found.output

"""What a scan makes of the records that it finds."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.codec import Record
from streams.ops.queue_scan import Selection, end, move, resume, retry_now


def record(topic: str = "mail-wait-1h", **headers: Any) -> Record:
    found = {
        "type": "mail",
        "id": "1",
        "attempt": "2",
        "to": "anna@gmail.test",
        "tenant": "acme",
        "campaign": "spring",
        "provider": "google",
        "lane": "google",
        "tried": "192.0.2.10",
        **headers,
    }
    if topic.startswith("mail-wait-"):
        found = {"next": "mail-lane-google", "due": "1800000000", **found}
    raw = {name: str(value).encode() for name, value in found.items() if value is not None}
    return Record(topic, 3, 7, 0, b"k", b"MIME", raw)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"campaign": "spring", "tenant": "acme"}, True),
        ({"campaign": "spring", "tenant": "default"}, False),
        ({"domain": "gmail.test"}, True),
        ({"domain": "mail.test"}, False),
        ({"provider": "google"}, True),
        ({"provider": "gmx"}, False),
        ({"source": "192.0.2.10"}, True),
        ({"source": "192.0.2.11"}, False),
    ],
)
def test_every_field_that_is_given_must_fit(wanted: dict[str, str], fits: bool) -> None:
    assert Selection(**wanted).matches(record()) == fits
    assert Selection(**wanted).as_dict() == wanted


def test_a_copy_goes_on_with_the_same_attempt_in_the_same_partition() -> None:
    found = record(held="campaign")
    for act in (resume, retry_now()):
        out = act(found)
        assert out is not None
        assert (out.topic, out.partition, out.key, out.value) == ("mail-lane-google", 3, b"k", b"MIME")
        assert out.headers["attempt"] == b"2"
        assert not {"next", "due", "held"} & set(out.headers)


def test_resume_leaves_alone_what_waits_for_its_own_time() -> None:
    assert resume(record()) is None
    assert resume(record("mail-lane-google", held="campaign")) is None


def test_retry_now_leaves_schedules_alone_unless_asked() -> None:
    scheduled = record(next="mail-screened")
    assert retry_now()(scheduled) is None
    out = retry_now(scheduled=True)(scheduled)
    assert out is not None
    assert out.topic == "mail-screened"
    assert retry_now(scheduled=True)(record("mail-lane-google")) is None


@pytest.mark.parametrize("topic", ["mail-wait-1h", "mail-lane-google", "mail-lane-google-now"])
def test_an_end_is_a_verdict_that_overtakes_its_mail(topic: str) -> None:
    out = end("expired", "by_operator", "too late")(record(topic))
    assert out is not None
    assert (out.topic, out.partition, out.value) == ("mail-lane-google-now", 3, None)
    told = {name: out.headers[name] for name in ("type", "outcome", "reason", "attempt", "id")}
    assert told == {
        "type": b"verdict",
        "outcome": b"expired",
        "reason": b"by_operator",
        "attempt": b"2",
        "id": b"1",
    }
    assert end("expired", "x", "")(record(topic, type="verdict", outcome="rejected")) is None


def test_what_no_stage_of_ours_wrote_is_copied_nowhere() -> None:
    forged = record(next="mail-suppressions", held="campaign")
    for act in (resume, retry_now(True), end("expired", "x", ""), move("gmx"), move(sources="a")):
        assert act(forged) is None


def test_moving_keeps_partition_attempt_and_urgency() -> None:
    out = move(lane="other-1")(record("mail-lane-google-now"))
    assert out is not None
    assert (out.topic, out.partition, out.headers["lane"]) == ("mail-lane-other-1-now", 3, b"other-1")
    out = move(sources="192.0.2.11")(record())
    assert out is not None
    assert (out.topic, out.headers["sources"], out.headers["attempt"]) == (
        "mail-lane-google",
        b"192.0.2.11",
        b"2",
    )
    assert move(lane="google")(record("mail-lane-google")) is None  # there already
    assert move(lane="gmx")(record(next="mail-screened")) is None  # not made yet

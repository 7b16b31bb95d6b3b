"""What counts as somebody's address in bytes, how long it stays, and what the commands refuse."""

from __future__ import annotations

import asyncio
import json

import orjson
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from schemas.address import normalise
from schemas.codec import Record
from streams.admin import configuration
from streams.cli import main
from streams.ops import ask, erase
from streams.ops.erase import Left
from streams.ops.person import Rows, as_dict, bound, finder, pattern, says
from streams.settings import Settings
from streams.topics import BY_NAME

ANNA = "anna@example.org"
DAY = 86400.0


@pytest.mark.parametrize(
    "text",
    [
        b"anna@example.org", b"Anna@Example.ORG", b'{"to":"anna@example.org"}', b"c|anna@example.org|acme|spring",
        b"anna@example.org|acme", b"To: Anna <anna@example.org>\r\n", b"rfc822;anna@example.org", b"?to=anna%40example.org&x",
        b'"anna\\u0040example.org"', b"anna@example.org.", b"mailto:anna@example.org?x", b"'anna@example.org'",
    ],
)  # fmt: skip
def test_an_address_is_found_in_what_carries_it(text):
    assert pattern(ANNA).search(text)
    assert finder(ANNA)(text)


@pytest.mark.parametrize(
    "text",
    [
        b"joanna@example.org", b"anna@example.org.uk", b"anna@example.orgy", b"x.anna@example.org", b"anna+x@example.org",
        b"anna@sub.example.org", b"anna at example.org", b"x-anna@example.org", b"anna@example.org-x",
    ],
)  # fmt: skip
def test_another_address_is_not(text):
    assert not pattern(ANNA).search(text)
    assert not finder(ANNA)(text)


def test_an_apostrophe_is_part_of_a_name_and_quotes_an_address():
    for text in (b"o'brien@example.org|shop", b'{"to":"o\'brien@example.org"}', b"?to=o%27brien@example.org"):
        assert not finder("brien@example.org")(text)
        assert finder("o'brien@example.org")(text)
    assert finder("brien@example.org")(b"to='brien@example.org'")


@pytest.mark.parametrize(
    "domain",
    ["müller.example", "MÜLLER.example", "mu\u0308ller.example", "ｍüller.example", "müller。example"],
)
def test_a_domain_of_other_letters_is_found_as_its_producer_spelt_it(domain):
    assert normalise(f"Anna@{domain}").key == "anna@xn--mller-kva.example"
    found = finder("anna@xn--mller-kva.example")
    for text in (f"Anna@{domain}", f"joanna@{domain}", f"anna@sub.{domain}", f"anna@{domain}.org"):
        for record in (json.dumps({"to": text}), json.dumps({"to": text}, ensure_ascii=False)):
            assert found(record.encode()) == (text == f"Anna@{domain}")
    assert found(f"[Anna@{domain}] wrote.".encode())
    assert found(f"It was Anna@{domain}.".encode())
    assert not found(b"anna@\\ud800.example anna@\\u00 anna@.. anna@\\ anna@" + b"\xff" * 600)


@pytest.mark.parametrize(
    "text",
    [b"anna+shop@example.org", b"?to=Anna%2Bshop%40example.org", b'"anna\\u002Bshop@example.org"', b"anna%2bshop@Example.org"],
)  # fmt: skip
def test_a_tag_is_found_however_links_and_json_spell_it(text):
    assert finder("anna+shop@example.org")(text)
    assert not finder(ANNA)(text)
    assert not finder("shop@example.org")(text.replace(b"%2", b"-%2").replace(b"\\", b"-\\"))


def test_a_local_part_without_letters_is_found():
    assert finder("+'_@example.org")(b"<+'_@example.org>")
    assert not finder("+'_@example.org")(b"<'_@example.org>")


def test_a_domain_of_other_letters_is_found_in_every_spelling():
    wanted = pattern("anna@xn--bcher-kva.example")
    for text in ("anna@bücher.example", '"anna@b\\u00fccher.example"', "anna@xn--bcher-kva.example"):
        assert wanted.search(text.encode()), text


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_around_it_are_taken(before, after):
    assert pattern(ANNA).search(before + b" <" + ANNA.encode() + b"> " + after)


def record(topic="mail-events", key=None, value=b"", **headers):
    return Record(topic, 1, 7, 1_790_000_000_250, key, value, {k: v.encode() for k, v in headers.items()})


def test_a_record_says_it_in_any_part():
    wanted = finder(ANNA)
    assert says(record(key=b"anna@example.org"), wanted)
    assert says(record(to=ANNA), wanted)
    assert says(record(value=b"To: anna@example.org"), wanted)
    assert not says(record(value=None), wanted)


def test_rows_are_the_newest_of_each_key_and_the_marks():
    rows, name = Rows(), "#0.ff"
    for topic, key, value in (
        ("mail-suppressions", b"anna@example.org|a", b"{}"),
        ("mail-suppressions", b"joanna@example.org|a", b"{}"),
        ("mail-suppressions", b"#0.ff||global", b"{}"),
        ("mail-screen-log", b"c|anna@example.org|a|c", b"{}"),
        ("mail-screen-log", b"c|anna@example.org|a|d", b"{}"),
        ("mail-contacts", b"anna@example.org|a", b"{}"),
        ("mail-screen-log", b"c|anna@example.org|a|d", None),
        ("mail-contacts", b"anna@example.org|a", b""),
    ):
        rows.add(record(topic, key, value), ANNA, (name,))
    assert rows.counts() == {"mail-suppressions": 1, "mail-screen-log": 1}
    assert list(rows.marks) == [b"#0.ff||global"]


def test_any_record_is_json():
    made = as_dict(record(key=b"k", value=b'{"a":1}', to=ANNA))
    assert made["value"] == {"a": 1}
    assert made["time"] == "2026-09-21 14:13:20.250Z"
    assert as_dict(record(value=b"\xff"))["value"] == {"base64": "/w=="}
    assert as_dict(record(value=b"{"))["value"] == "{"
    assert as_dict(record(value=None))["value"] is None
    orjson.dumps(made)


def test_everything_has_an_end_by_the_settings_of_topics_apply():
    """The N of "within N days": 31 with retention, 16 where rows are compacted."""
    settings = Settings()
    longest = 0.0
    for name in BY_NAME:
        by_time, by_cleaning = bound(configuration(BY_NAME[name], settings))
        longest = max(longest, min(by_time, by_cleaning))
    assert longest == 31 * DAY
    assert bound(configuration(BY_NAME["mail-suppressions"], settings))[1] == 16 * DAY


def test_what_nothing_bounds_is_not_called_bounded():
    never = float("inf")
    assert bound({"cleanup.policy": "compact"}) == (never, never)  # Kafka's own max.compaction.lag.ms
    assert bound({"cleanup.policy": "delete", "retention.ms": "-1"})[0] == never
    assert bound({"cleanup.policy": "delete", "retention.ms": "1000", "segment.ms": "500"}) == (1.5, never)


def test_rows_in_force_have_no_end():
    left = Left()
    left.newest = {"mail-contacts": 100.0, "mail-events": 100.0}
    within = {"mail-contacts": (float("inf"), 10.0), "mail-events": (30.0, float("inf"))}
    assert left.until(within, 0.0) == {"mail-contacts": float("inf"), "mail-events": 130.0}
    assert left.until(within, 500.0) == {"mail-contacts": 510.0, "mail-events": 130.0}


@pytest.mark.parametrize(
    ("arguments", "secret", "why"),
    [
        (["erase", "nobody", "--why", "x"], "s" * 32, "there is no @"),
        (["erase", ANNA, "--why", "x"], "", "MAILSLUICE_SECRET is not set"),
        (["erase", ANNA], "s" * 32, "give --why"),
        (["export", "nobody"], "s" * 32, "there is no @"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(arguments, secret, why):
    found = CliRunner().invoke(
        main, arguments, env={"MAILSLUICE_SECRET": secret, "MAILSLUICE_BROKER": "127.0.0.1:1"}
    )
    assert found.exit_code == 2
    assert why in found.output


def test_nobody_waits_for_their_erasure_until_every_topic_is_read(monkeypatch):
    async def erased(*_):
        return {"dry_run": False, "rows": {}, "erased": True, "hash": "#1.2", "event": "e", "not_deleted": {}}

    async def left(*_):
        raise OSError("broken off")

    monkeypatch.setattr(erase, "_erase", erased)
    monkeypatch.setattr(erase, "_left", left)
    monkeypatch.setattr(ask, "reach", lambda *_: asyncio.sleep(0))
    found = CliRunner().invoke(
        main,
        ["erase", ANNA, "--why", "x"],
        env={"MAILSLUICE_SECRET": "s" * 32, "MAILSLUICE_BROKER": "127.0.0.1:1"},
    )
    assert found.exit_code == 1
    assert "erased: what is left to know the address by is #1.2" in found.output
    assert "broken off" in found.output

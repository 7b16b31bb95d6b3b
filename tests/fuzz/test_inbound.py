"""The short form of ``make fuzz``: a fixed seed, and the bombs that are worth a name."""

from __future__ import annotations

from base64 import b64encode

import pytest

from schemas.reply import classify
from streams.ops.returned_mail import judged
from tests.fuzz.inbound import fuzz, inputs, read_rules, run

RULES = read_rules()
HEAD = b"From: mailer-daemon@x.example\nSubject: failure notice\n"


def test_nothing_raises() -> None:
    assert fuzz(1500, seed=7).raised == []


def test_an_input_can_be_made_again() -> None:
    first = inputs(3, 40)
    assert [next(first) for _ in range(3)][2] == next(inputs(3, 42))


def nested(levels: int, kind: bytes) -> bytes:
    body = b"550 5.1.1 <a@b.example> unknown"
    for level in range(levels):
        if kind == b"rfc822":
            body = b"Content-Type: message/rfc822\n\n" + body
        else:
            body = b"Content-Type: multipart/mixed; boundary=n%d\n\n--n%d\n%b\n--n%d--\n" % (
                level, level, body, level,
            )  # fmt: skip
    return HEAD + body


@pytest.mark.parametrize(
    "raw",
    [
        nested(3000, b"mixed"),
        nested(20_000, b"rfc822"),
        HEAD + b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 150_000,
        HEAD + b"X-A: 1\n" * 140_000,
        HEAD + b"X-A: 1\n" + b"\tfolded\n" * 120_000,
        b"Subject: " + b"=?utf-8?b?QQ==?= " * 60_000,
        b"From: " + b"<" * 900_000 + b"\n\n",
        HEAD
        + b"Content-Transfer-Encoding: base64\n\n"
        + b64encode(b"<a@b.example>: 550 5.1.1 no\n" * 26_000),
        HEAD + b"Content-Type: text/html\n\n" + b"<p><" * 240_000,
        HEAD + b"Content-Type: text/html\n\n" + b"<style" * 160_000,
        HEAD + b"Content-Type: text/plain; charset=utf-7\n\n" + b"+AGEAQABi-" * 90_000,
        HEAD + b"\n" + b"-" * 900_000,
        HEAD + b"\n" + b"*" * 900_000,
        HEAD + b"\n" + b"<a@b.example> " * 64_000,
        HEAD + b"\n" + b"550 " * 225_000,
        HEAD + b"\n" + b"not " * 225_000,
        HEAD + b"X-Failed-Recipients: " + b"a@b.example, " * 70_000 + b"\n\n",
        HEAD + b"\n" + b"5566778899aabbccddeeff00112233445566778899@" * 20_000,
    ],
    ids=range(18),
)
def test_a_bomb_is_taken_apart_within_bounds(raw: bytes) -> None:
    run(RULES, raw[:1_000_000])


def test_no_mutation_of_a_block_suppresses_by_a_flood_of_recipients() -> None:
    flood = HEAD + b"\n" + b"".join(b"<u%d@b.example>: 550 5.1.1 no such user\n" % n for n in range(20_000))
    assert len(judged(RULES, flood)["recipients"]) <= 50


@pytest.mark.parametrize(
    "reply", ["2\u00b2\u00b3 ok", "3\u00b9\u00b2 x", "22", "3", "2\u0661", "\u0662\u0665\u0660 ok"]
)
def test_digits_that_are_none_of_smtp_s(reply: str) -> None:
    run(RULES, HEAD + f"\n<a@b.example>: {reply}\n".encode())
    assert classify(RULES, reply).code == 0

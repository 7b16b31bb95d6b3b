"""Our signatures against dkimpy, over messages with every oddity."""

from __future__ import annotations

import base64
import re
from hashlib import sha256

import dkim
import pytest
from dkim.canonicalization import Relaxed
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.sign.canonical import Unsignable, fields, is_wire_clean, relaxed_body, relaxed_value, split
from agents.sign.dkim import OVERSIGNED, Prepared, canonical_field, sign
from agents.sign.keys import new_keys

NOW = 1_700_000_000
ED25519, RSA = new_keys("shop.example", "r1", "e1")
ZONE = {f"{key.dns_name}.".encode(): key.dns_record.encode() for key in (ED25519, RSA)}
FROM = b"From: Shop <news@shop.example>"


def look_up(name: bytes, timeout: int = 5) -> bytes | None:
    return ZONE.get(name)


def verified(message: bytes) -> list[bool]:
    mail = dkim.DKIM(message)
    count = sum(name.lower() == b"dkim-signature" for name, _ in mail.headers)
    return [passes(mail, number) for number in range(count)]


def passes(mail: dkim.DKIM, number: int) -> bool:
    try:
        return bool(mail.verify(idx=number, dnsfunc=look_up))
    except dkim.ValidationError:  # how dkimpy reports a body that was changed
        return False


class Recorder:
    """A hasher that keeps what dkimpy feeds it."""

    def __init__(self) -> None:
        self.data = b""

    def update(self, data: bytes) -> None:
        self.data += data


lines = st.lists(
    st.sampled_from(
        [b"word", b" ", b"\t", b"  ", b" \t ", b"\xc3\xa9", b"\xff", b"=", b".", b"\r", b"x" * 200]
    ),
    max_size=8,
).map(b"".join)
bodies = st.lists(st.tuples(lines, st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"])), max_size=12).map(
    lambda parts: b"".join(text + end for text, end in parts)
)
names = st.sampled_from(
    [
        b"To",
        b"TO",
        b"Subject",
        b"subject",
        b"Date",
        b"Message-ID",
        b"List-Unsubscribe",
        b"Cc",
        b"X-Any",
        b"Received",
    ]
)
words = st.sampled_from(
    [b"a", b"Hello", b"<x@y.example>", b"=?utf-8?q?=C3=A9?=", b"\xc3\xa9", b"x" * 120, b"in\rside"]
)
gaps = st.sampled_from([b" ", b"  ", b"\t", b"\r\n ", b"\r\n\t", b" \r\n  ", b"\n "])
values = st.lists(st.tuples(gaps, words), max_size=8).map(
    lambda parts: b"".join(gap + word for gap, word in parts)
)
heads = st.lists(st.tuples(names, values, st.sampled_from([b"", b" ", b"\t "])), max_size=8).map(
    lambda found: b"".join(b"%b:%b%b\r\n" % field for field in found)
)


@given(body=bodies, tail=st.sampled_from([b"", b"text", b"\r\n\r\n\r\n", b" \r\n", b"\t", b"\r"]))
@settings(max_examples=400, deadline=None)
def test_the_body_is_canonicalised_as_dkimpy_does(body: bytes, tail: bytes) -> None:
    wire = re.sub(rb"(?<!\r)\n", b"\r\n", body + tail)
    assert relaxed_body(wire) == Relaxed.canonicalize_body(wire)


@given(head=heads, body=bodies, from_first=st.booleans())
@settings(max_examples=150, deadline=None)
def test_hash_and_signature_input_equal_dkimpys_and_it_verifies(
    head: bytes, body: bytes, from_first: bool
) -> None:
    head = FROM + b"\r\n" + head if from_first else head + FROM + b"\r\n"
    message = head + b"\r\n" + body
    prepared = Prepared(message)
    headers, their_body = dkim.rfc822_parse(message)
    assert base64.b64decode(prepared.body_hash) == sha256(Relaxed.canonicalize_body(their_body)).digest()
    for key in (ED25519, RSA):
        field = prepared.unsigned(key, NOW)
        value = field.split(b":", 1)[1]
        tags = dkim.util.parse_tag_value(value + b"AAAA")
        include = re.split(rb"\s*:\s*", tags[b"h"].lower())
        recorder = Recorder()
        dkim.hash_headers(
            recorder,
            Relaxed,
            Relaxed.canonicalize_headers(headers),
            include,
            [b"DKIM-Signature", value],
            tags,
        )
        assert prepared.signed + canonical_field(field) == recorder.data
    assert verified(sign(message, (ED25519, RSA), NOW)) == [True, True]


@pytest.mark.parametrize(
    "body", [b"", b"\r\n", b"\r\n\r\n\r\n", b"text", b"text\r\n\r\n", b"a \t b \r\n", b"caf\xc3\xa9\r\n"]
)
def test_bodies_at_the_edges_verify(body: bytes) -> None:
    assert verified(sign(FROM + b"\r\n\r\n" + body, (ED25519, RSA), NOW)) == [True, True]


def test_the_empty_body_has_the_hash_that_the_rfc_prints() -> None:
    """RFC 6376 section 3.4.4."""
    assert Prepared(FROM + b"\r\n\r\n").body_hash == b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


def test_the_example_of_the_rfc() -> None:
    """RFC 6376 section 3.4.5, relaxed."""
    head, body = split(b"A: X \r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n")
    assert [(name, relaxed_value(raw)) for name, raw in fields(head)] == [(b"a", b"X"), (b"b", b"Y Z")]
    assert relaxed_body(body) == b" C\r\nD E\r\n"


def test_every_field_is_oversigned_and_nothing_can_be_added() -> None:
    message = FROM + b"\r\nSubject: one\r\n\r\ntext\r\n"
    signed = sign(message, (RSA,), NOW)
    tags = dkim.util.parse_tag_value(dkim.rfc822_parse(signed)[0][0][1])
    named = [name.strip() for name in tags[b"h"].lower().split(b":")]
    for name in OVERSIGNED:
        assert named.count(name.lower()) == 1 + (name in (b"From", b"Subject"))
        assert verified(name + b": added\r\n" + signed) in ([False], [False, False])
    assert b"l" not in tags
    assert tags[b"t"] == str(NOW).encode()


@pytest.mark.parametrize("change", [(b"one", b"two"), (b"text", b"test"), (b"t=170", b"t=169")])
def test_a_changed_mail_does_not_verify(change: tuple[bytes, bytes]) -> None:
    signed = sign(FROM + b"\r\nSubject: one\r\n\r\ntext\r\n", (ED25519, RSA), NOW)
    assert False in verified(signed.replace(*change))


def test_lines_of_the_signature_stay_short() -> None:
    signed = sign(FROM + b"\r\n" + b"Cc: a@b.example\r\n" * 5 + b"\r\ntext\r\n", (ED25519, RSA), NOW)
    assert max(len(line) for line in signed.split(b"\r\n")) <= 78


@pytest.mark.parametrize(
    "head",
    [
        b"To: a\r\n",
        FROM + b"\r\n" + FROM + b"\r\n",
        b" folded\r\n" + FROM + b"\r\n",
        b"no field\r\n" + FROM + b"\r\n",
    ],
)
def test_what_no_verifier_would_read_is_not_signed(head: bytes) -> None:
    with pytest.raises(Unsignable):
        Prepared(head + b"\r\ntext\r\n")


@pytest.mark.parametrize(
    ("message", "clean"),
    [
        (b"a\r\n", True),
        (b"a\r\nb", False),
        (b"a\nb\r\n", False),
        (b"a\rb\r\n", False),
        (b"a\n\r\r\n", False),
        (b"", False),
    ],
)
def test_what_may_go_on_the_wire(message: bytes, clean: bool) -> None:
    assert is_wire_clean(message) is clean

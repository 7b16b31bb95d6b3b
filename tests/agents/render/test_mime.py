"""Text parts and multiparts, read back by the standard library."""

from __future__ import annotations

from email import message_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.render.mime import Entity, base64_lines, multipart, text_entity

pieces = st.sampled_from(
    [
        "word ",
        "é",
        "日本語",
        "\t",
        "  ",
        "\n",
        "\r\n",
        "\r",
        ".",
        "\n.\n",
        "From ",
        "=",
        "=20\n",
        "x" * 990,
        "y" * 75,
        "\0",
        "--=_",
    ]
)
texts = st.one_of(
    st.lists(pieces, max_size=30).map("".join),
    st.text(st.characters(blacklist_categories=("Cs",)), max_size=200),
)


def unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_lines(data: bytes) -> None:
    assert data.endswith(b"\r\n")
    rest = data.replace(b"\r\n", b"")
    assert b"\r" not in rest
    assert b"\n" not in rest
    assert max(len(line) for line in data.split(b"\r\n")) <= 998


@given(text=texts)
@settings(max_examples=400, deadline=None)
def test_a_text_part_survives_in_lines_that_smtp_takes(text: str) -> None:
    entity = text_entity(b"plain", text)
    check_lines(entity.head + b"\r\n" + entity.body)
    assert entity.body.isascii()
    assert b"\0" not in entity.body
    back = message_from_bytes(entity.head + b"\r\n" + entity.body).get_payload(decode=True)
    assert isinstance(back, bytes)
    wanted = unix(text)
    assert unix(back.decode()) == (wanted if wanted.endswith("\n") else wanted + "\n")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain", b"7bit"),
        ("x" * 998, b"7bit"),
        ("x" * 999, b"quoted-printable"),
        ("a\n" * 600 + "x" * 999, b"quoted-printable"),
        ("a\0b", b"quoted-printable"),
        ("see\n--=_boundary", b"quoted-printable"),
        ("--=_boundary", b"quoted-printable"),
        ("café au lait", b"quoted-printable"),
        ("日本語のメール", b"base64"),
    ],
)
def test_the_encoding_fits_the_text(text: str, encoding: bytes) -> None:
    assert b"Content-Transfer-Encoding: " + encoding in text_entity(b"plain", text).head


@given(st.binary(max_size=500))
@settings(max_examples=60, deadline=None)
def test_base64_has_short_lines(data: bytes) -> None:
    lines = base64_lines(data)
    message = message_from_bytes(b"Content-Transfer-Encoding: base64\r\n\r\n" + lines)
    assert message.get_payload(decode=True) == data
    assert max(len(line) for line in lines.split(b"\r\n")) <= 76


def test_one_part_needs_no_multipart() -> None:
    part = Entity(b"Content-Type: text/plain\r\n", b"x\r\n")
    assert multipart(b"mixed", b"id", 0, [part]) is part


@given(st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_nested_multiparts_are_read_back(tree: list[list[str]]) -> None:
    inner = [
        multipart(b"alternative", b"ab" * 16, 1 + n, [text_entity(b"plain", t) for t in row])
        for n, row in enumerate(tree)
    ]
    whole = multipart(b"mixed", b"ab" * 16, 0, inner)
    message = message_from_bytes(whole.head + b"\r\n" + whole.body)
    leaves = [part for part in message.walk() if not part.is_multipart()]
    assert len(leaves) == sum(map(len, tree))
    assert not any(part.defects for part in message.walk())

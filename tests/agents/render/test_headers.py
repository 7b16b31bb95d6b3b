"""Header fields, read back by the standard library."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.render.headers import HeaderInjection, mailbox_field, parameter, parse_mailbox, text_field
from schemas.codec import Malformed

printable = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Cn"), blacklist_characters="\ufeff"),
    max_size=300,
)
mixed = st.one_of(
    printable,
    st.lists(
        st.sampled_from(["word", "é", "日本", "=?utf-8?q?x?=", "a" * 90, '"', "\\", "(", ",", "😀"]),
        max_size=40,
    ).map(" ".join),
)


def read(field: bytes) -> EmailMessage:
    return cast(EmailMessage, message_from_bytes(field + b"\r\n", policy=policy.default))


def lines_are_right(field: bytes, longest: int = 78) -> None:
    assert field.endswith(b"\r\n")
    assert field.isascii()
    lines = field[:-2].split(b"\r\n")
    assert b"\r" not in b"".join(lines)
    assert b"\n" not in b"".join(lines)
    assert all(len(line) <= longest for line in lines)
    assert all(line.startswith(b" ") and line.strip() for line in lines[1:])


@given(value=mixed, name=st.sampled_from(["Subject", "X", "X-" + "Long-" * 14]))
@settings(max_examples=300, deadline=None)
def test_text_survives_folding_and_encoding(value: str, name: str) -> None:
    field = text_field(name, value)
    lines_are_right(field)
    assert str(read(field)[name]).strip() == value.strip()


@given(display=mixed)
@settings(max_examples=300, deadline=None)
def test_a_display_name_survives_and_never_becomes_an_address(display: str) -> None:
    field = mailbox_field("To", display, "anna@x.example")
    lines_are_right(field, 160)
    assert [one.addr_spec for one in read(field)["To"].addresses] == ["anna@x.example"]
    # The name is read by RFC 2047 alone: email.policy puts a space between adjacent encoded words.
    phrase = (
        field.decode()
        .replace("\r\n", "")
        .removeprefix("To: ")
        .removesuffix("anna@x.example>")
        .removesuffix(" <")
    )
    phrase = phrase.removesuffix("anna@x.example")
    if phrase.startswith('"'):
        phrase = re.sub(r"\\(.)", r"\1", phrase[1:-1])
    assert str(make_header(decode_header(phrase))).split() == display.split()


@pytest.mark.parametrize("value", ["a\r\nBcc: x@y.example", "a\nb", "a\rb", "a\0b", "é\r\nX: y", "end\n"])
def test_a_line_break_is_refused_not_repaired(value: str) -> None:
    with pytest.raises(HeaderInjection):
        text_field("Subject", value)
    with pytest.raises(HeaderInjection):
        mailbox_field("To", value, "a@b.example")
    with pytest.raises(HeaderInjection):
        parameter("filename", value)


def test_what_needs_no_encoding_has_none() -> None:
    assert text_field("Subject", "Hello Anna") == b"Subject: Hello Anna\r\n"
    assert mailbox_field("To", "Anna Smith", "a@b.example") == b"To: Anna Smith <a@b.example>\r\n"
    assert mailbox_field("To", "Smith, Anna", "a@b.example") == b'To: "Smith, Anna" <a@b.example>\r\n'
    assert mailbox_field("To", "", "a@b.example") == b"To: a@b.example\r\n"
    assert text_field("Subject", "Café") == b"Subject: =?utf-8?q?Caf=C3=A9?=\r\n"


def test_what_looks_encoded_is_encoded() -> None:
    field = text_field("Subject", "=?utf-8?q?x?=")
    assert str(read(field)["Subject"]) == "=?utf-8?q?x?="


@given(value=mixed.filter(bool))
@settings(max_examples=200, deadline=None)
def test_file_names_survive(value: str) -> None:
    field = f"Content-Disposition: attachment{parameter('filename', value)}\r\n".encode()
    lines_are_right(field, 140)
    assert message_from_bytes(field + b"\r\n").get_filename() == value.strip()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@b.example", ("", "a@b.example")),
        ("Shop <a@B.example>", ("Shop", "a@b.example")),
        ('"Shop, Inc." <a@b.example>', ("Shop, Inc.", "a@b.example")),
        ("Bücher <a@bücher.example>", ("Bücher", "a@xn--bcher-kva.example")),
    ],
)
def test_mailboxes_are_read(text: str, found: tuple[str, str]) -> None:
    assert parse_mailbox(text) == found


@pytest.mark.parametrize(
    "text", ["", "Shop", "Shop <a>", "a@b.example, c@d.example", "a@b.example\r\nX: y", "<a@b.c> d"]
)
def test_what_is_no_mailbox_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_mailbox(text)

"""Bytes: bodies, commands and replies, without a socket."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.deliver.attempt import Facts
from agents.deliver.wire import MAX_LINE, MAX_REPLY, MAX_TEXT, Refusal, Replies, commands, wire

ALL = Facts(extensions=frozenset({"SIZE", "8BITMIME", "SMTPUTF8"}), size=1000)


def test_a_plain_body_goes_out_as_it_is():
    body = b"Subject: x\r\n\r\nhello. there\r\n"
    assert wire(body) is body


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b".a\r\n..\r\n.\r\n", b"..a\r\n...\r\n..\r\n"),
        (b"a", b"a\r\n"),
        (b"", b"\r\n"),
        (b"a\n.\nMAIL FROM:<x@y>\n", b"a\r\n..\r\nMAIL FROM:<x@y>\r\n"),
        (b"a\r\n\n.\r\nb\r\n", b"a\r\n\r\n..\r\nb\r\n"),
        (b"a\r\nb\r.\rc\r\n", b"a\r\nb\r\n..\r\nc\r\n"),
        (b"a\r\nb\n.\r\n", b"a\r\nb\r\n..\r\n"),
        (b"\n.\r\n", b"\r\n..\r\n"),
        (b"a\r", b"a\r\n"),
    ],
)
def test_dots_and_line_ends(body, sent):
    assert wire(body) == sent


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.\r\n", b"\0", b"\xff"])).map(b"".join)
)
@example(b"\r\n.\n")
def test_no_body_ends_itself(body):
    """However a server reads line ends, no line of the body is a lone dot."""
    sent = wire(body)
    assert sent.endswith(b"\r\n")
    for end in (b"\r\n", b"\n", b"\r"):
        text = sent.replace(b"\r\n", end) if end != b"\r\n" else sent
        assert b"." not in text.split(end)
    assert b"." not in sent.splitlines()


def test_commands_use_what_is_offered_and_needed():
    assert commands("", "a@b.example", b"x\r\n", Facts()) == (
        b"MAIL FROM:<>\r\n",
        b"RCPT TO:<a@b.example>\r\n",
    )
    mail, rcpt = commands("s@x.example", "ü@b.example", "é\r\n".encode(), ALL)
    assert mail == b"MAIL FROM:<s@x.example> SIZE=4 BODY=8BITMIME SMTPUTF8\r\n"
    assert rcpt == "RCPT TO:<ü@b.example>\r\n".encode()


@pytest.mark.parametrize(
    ("mail_from", "rcpt", "body", "facts", "code"),
    [
        ("a@b\r\nRSET", "c@d", b"", ALL, 553),
        ("a@b", "c@d>\r\nDATA", b"", ALL, 553),
        ("a@b", "c d@e", b"", ALL, 553),
        ("a@b", "", b"", ALL, 553),
        ("a@b", "c@" + "d" * 400, b"", ALL, 553),
        ("a@b", "c@d", b"x" * 1001, ALL, 552),
        ("a@b", "c@d", b"\xff", Facts(), 554),
        ("a@b", "ü@d", b"", Facts(), 550),
    ],
)
def test_what_cannot_be_sent_is_refused_here(mail_from, rcpt, body, facts, code):
    found = commands(mail_from, rcpt, body, facts)
    assert isinstance(found, Refusal)
    assert found.code == code
    assert "not sent" in found.text


def test_replies_are_cut_at_any_byte():
    data = b"250-first \r\n250-5.0.0 second\n250 third\r\n354 go\r\n221\r\n"
    whole = [(250, "first 5.0.0 second third"), (354, "go"), (221, "")]
    assert Replies().feed(data) == whole
    one = Replies()
    assert [reply for n in range(len(data)) for reply in one.feed(data[n : n + 1])] == whole
    assert not one.pending


def test_the_text_of_a_reply_is_made_harmless():
    [(code, text)] = Replies().feed(b"550 a\0b\x1b[2Jc\xff" + b"x" * 3000 + b"\r\n")
    assert code == 550
    assert text.startswith("a b [2Jc\ufffdx")
    assert len(text) == MAX_TEXT


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"150 ok\r\n",
        b"650 ok\r\n",
        b"\r\n",
        b"\0\0\0 ok\r\n",
        b"250_ok\r\n",
        b"250-ok\r\n550 no\r\n",
        b"\xb2\xb2\xb2 superscript digits\r\n",
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"x" * (MAX_LINE + 1),
        (b"250-" + b"x" * 1000 + b"\r\n") * (MAX_REPLY // 1000 + 1),
    ],
)
def test_nonsense_is_told_once_and_nothing_follows(data):
    replies = Replies()
    assert replies.feed(b"250 before\r\n" + data) == [(250, "before")]
    assert replies.nonsense
    assert len(replies.nonsense) < 300
    assert replies.feed(b"250 after\r\n") == []


def test_codes_of_one_class_may_differ_and_the_last_counts():
    assert Replies().feed(b"250-a\r\n251 b\r\n") == [(251, "a b")]


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data):
    for code, text in Replies().feed(data):
        assert 200 <= code <= 599
        assert "\n" not in text


def test_a_domain_is_written_in_ascii_and_needs_no_extension():
    mail, rcpt = commands("s@x.example", "a@Bücher.example", b"x\r\n", Facts())
    assert (mail, rcpt) == (b"MAIL FROM:<s@x.example>\r\n", b"RCPT TO:<a@xn--bcher-kva.example>\r\n")
    mail, rcpt = commands("s@x.example", "ü@bücher.example", b"x\r\n", ALL)
    assert (mail, rcpt) == (
        b"MAIL FROM:<s@x.example> SIZE=3 SMTPUTF8\r\n",
        "RCPT TO:<ü@xn--bcher-kva.example>\r\n".encode(),
    )
    found = commands("s@x.example", "ü@bücher.example", b"x\r\n", Facts())
    assert isinstance(found, Refusal)
    assert (found.code, found.text[:5], found.phase) == (550, "5.6.7", "rcpt")

"""A send that comes again: its origin is believed only from us, for the very bytes that we wrote."""

from __future__ import annotations

import pytest

from schemas.codec import Record
from schemas.replay import HEADER, Replays, received_at

OLD, NEW = b"o" * 32, b"n" * 32
ORIGIN = "mail-sends/3/17/1790000000000/0"
BODY = b'{"campaign":"c","to":"a@example.org"}'


def copy(
    topic: str = "mail-sends", value: bytes = BODY, said: bytes | None = None, **headers: bytes
) -> Record:
    made = said or Replays([OLD]).header(ORIGIN, "mail-sends", {"type": b"send"}, BODY)
    return Record(topic, 0, 99, 5, None, value, {"type": b"send", **headers, HEADER: made})


def test_our_own_word_is_believed_also_under_a_secret_that_no_longer_mints() -> None:
    assert Replays([OLD]).origin(copy()) == ORIGIN
    assert Replays([NEW, OLD]).origin(copy()) == ORIGIN
    assert Replays([NEW]).origin(copy()) is None
    assert received_at(ORIGIN) == 1_790_000_000.0


@pytest.mark.parametrize(
    "forged",
    [
        copy(value=BODY + b" "),
        copy("mail-sends-now"),
        copy(type=b"other"),
        copy(version=b"1"),
        copy(ce_type=b"send"),
        copy(said=ORIGIN.encode()),
        copy(said=b"0" * 32 + b":" + ORIGIN.encode()),
        copy(said=copy().headers[HEADER].replace(b"/17/", b"/18/")),
        copy(said=copy().headers[HEADER] + b"\n"),
        copy(said=b"\xff" * 60),
        copy(said=b"x" * 8000),
    ],
)
def test_nobody_elses_is(forged: Record) -> None:
    assert Replays([OLD]).origin(forged) is None


def test_a_record_without_the_header_says_nothing() -> None:
    assert Replays([OLD]).origin(Record("mail-sends", 0, 0, 0, None, BODY, {})) is None


def test_the_mac_is_for_this_purpose_alone_and_secrets_are_long() -> None:
    said = Replays([OLD]).header(ORIGIN, "mail-sends", {}, None)
    assert said != Replays([NEW]).header(ORIGIN, "mail-sends", {}, None)
    assert said != Replays([OLD]).header(ORIGIN, "mail-sends", {"type": b""}, None)  # empty is not absent
    assert Replays.of("") is None
    for secrets in ([], [b"short"], [OLD, b"short"]):
        with pytest.raises(ValueError, match="16 bytes"):
            Replays(secrets)

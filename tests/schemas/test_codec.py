"""Bytes and events: a faithful round trip, and for everything else one bounded, useful Malformed."""

from __future__ import annotations

import contextlib
import math
import sys
from datetime import UTC, timedelta, timezone
from functools import partial
from typing import Any, get_type_hints

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.campaign import Campaign
from schemas.codec import (
    LONGEST_DETAIL,
    MAX_HEADER_BYTES,
    Headers,
    Malformed,
    Record,
    decode,
    encode,
    header_list,
    headers_from,
    name_of,
    parse,
    registered,
    type_of,
)
from schemas.event import MailEvent
from schemas.lane_report import LaneReport
from schemas.outcome import Outcome
from schemas.send import Send
from tests.support import examples  # imports every event

CODES = {
    "empty",
    "bad_json",
    "bad_field",
    "unknown_type",
    "unknown_version",
    "bad_header",
    "header_too_large",
}
assert examples.EXAMPLES
EVENTS = [cls for _, cls in sorted(registered().items())]
SEND = b'{"campaign":"c1","to":"anna@example.org"}'


def record(value: bytes | None = SEND, **headers: bytes) -> Record:
    return Record("mail-sends", 0, 0, 0, None, value, headers)


def fault(raw: bytes | None, cls: type[Any] = Send) -> Malformed:
    with pytest.raises(Malformed) as caught:
        parse(raw, cls)
    assert caught.value.code in CODES
    assert len(caught.value.detail) <= LONGEST_DETAIL
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    return caught.value


# --- there and back


def _plain() -> st.SearchStrategy[Any]:
    """What JSON holds exactly: variables of a template."""
    leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8)
    leaf |= st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )


def _of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a msgspec type as its constraints allow them."""
    match kind:
        case msgspec.inspect.StructType():
            return of_struct(kind.cls)
        case msgspec.inspect.StrType() if kind.pattern:
            return st.from_regex(kind.pattern, fullmatch=True).filter(lambda t: _fits(t, kind))
        case msgspec.inspect.StrType():
            return st.text(min_size=kind.min_length or 0, max_size=min(kind.max_length or 40, 40))
        case msgspec.inspect.IntType():
            return st.integers(
                -(2**63) if kind.ge is None else kind.ge, 2**63 if kind.le is None else kind.le
            )
        case msgspec.inspect.FloatType():
            above = kind.gt is not None
            least = kind.gt if above else kind.ge
            return st.floats(least, kind.le, allow_nan=False, allow_infinity=False, exclude_min=above)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.BytesType():
            return st.binary(max_size=20)
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.LiteralType():
            return st.sampled_from(kind.values)
        case msgspec.inspect.UnionType():
            return st.one_of([_of(one) for one in kind.types])
        case msgspec.inspect.VarTupleType():
            return st.lists(_of(kind.item_type), max_size=min(kind.max_length or 3, 3)).map(tuple)
        case msgspec.inspect.TupleType():
            return st.tuples(*map(_of, kind.item_types))
        case msgspec.inspect.DictType():
            return st.dictionaries(_of(kind.key_type), _of(kind.value_type), max_size=3)
        case msgspec.inspect.DateTimeType():
            zones = st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
            return st.datetimes(timezones=zones | st.just(UTC))
        case msgspec.inspect.AnyType():
            return _plain()
    raise AssertionError(f"no strategy for {kind}: add one")


def _fits(text: str, kind: Any) -> bool:
    return (kind.min_length or 0) <= len(text) <= (kind.max_length or 10_000)


def of_struct(cls: type[Any]) -> st.SearchStrategy[Any]:
    described = msgspec.inspect.type_info(cls)
    assert isinstance(described, msgspec.inspect.StructType)
    needed = {field.name: _of(field.type) for field in described.fields if field.required}
    others = {field.name: _of(field.type) for field in described.fields if not field.required}
    return st.fixed_dictionaries(needed, optional=others).map(partial(_made, cls)).filter(bool)


def _made(cls: type[Any], fields: dict[str, Any]) -> Any:
    """None for fields that do not go together: those are tested where that is said."""
    try:
        return cls(**fields)
    except ValueError:
        return None


@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_event_comes_back_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    value = data.draw(of_struct(cls))
    name, version = name_of(cls)
    raw = encode(value)
    found = decode(Record("t", 0, 0, 0, None, raw, {"type": name.encode(), "version": b"%d" % version}), "")
    assert type(found) is cls
    assert found == value
    assert encode(found) == raw


def test_what_is_at_its_default_is_left_out() -> None:
    assert orjson.loads(encode(Send(campaign="c1", to="a@x.test"))) == {"campaign": "c1", "to": "a@x.test"}
    assert (
        encode(Outcome(id="1", state="delivered", attempt=1)) == b'{"attempt":1,"id":"1","state":"delivered"}'
    )


def test_every_event_is_frozen_and_leaves_out_defaults() -> None:
    for cls in EVENTS:
        assert cls.__struct_config__.frozen, cls
        assert cls.__struct_config__.omit_defaults, cls
        assert get_type_hints(cls)  # resolvable: no name that only a type checker sees


def test_outsiders_may_not_misspell_but_readers_stay_tolerant() -> None:
    """A misspelt field of a producer is an error; a newer release's field in our own events is none."""
    assert "unknown field `vars`" in fault(b'{"campaign":"c1","to":"a@x.test","vars":{}}').detail
    event = parse(b'{"id":"1","kind":"opened","mail":"2","time":3,"of_tomorrow":true}', MailEvent)
    assert event.kind == "opened"


# --- versions


def test_an_older_version_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_BY_TYPE", "_UPCAST", "_NAME"):
        monkeypatch.setattr(codec, table, dict(getattr(codec, table)))

    @codec.event("toy", 3)
    class Third(msgspec.Struct, frozen=True):
        words: tuple[str, ...]

    @codec.event("toy", 2, upcast=lambda old: Third(words=tuple(old.text.split())))
    class Second(msgspec.Struct, frozen=True):
        text: str

    @codec.event("toy", 1, upcast=lambda old: Second(text=old.t))
    class First(msgspec.Struct, frozen=True):
        t: str

    assert name_of(First) == ("toy", 1)
    for version, raw in ((1, b'{"t":"a b"}'), (2, b'{"text":"a b"}'), (3, b'{"words":["a","b"]}')):
        assert decode(record(raw, version=b"%d" % version), "toy") == Third(words=("a", "b"))
    with pytest.raises(Malformed, match=r"toy has versions \[1, 2, 3\], not 4"):
        decode(record(b"{}", version=b"4"), "toy")


def test_an_event_is_registered_once() -> None:
    with pytest.raises(ValueError, match="send v1 is registered twice"):
        codec.event("send", 1)(Send)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ("send", 1)),
        ({"type": b"campaign"}, ("campaign", 1)),
        ({"type": b"send", "version": b"2"}, ("send", 2)),
        ({"version": b"7"}, ("send", 7)),
        ({"ce_type": b"mailsluice.send.v1"}, ("send", 1)),
        ({"ce_type": b"mailsluice.campaign.v12"}, ("campaign", 12)),
        ({"ce_type": b"mailsluice.lane_policy"}, ("lane_policy", 1)),
        ({"ce_type": b"send"}, ("send", 1)),
        ({"ce_type": b"send.v3"}, ("send", 3)),
        ({"ce_type": b"send.v3", "version": b"9"}, ("send", 3)),
        ({"ce_type": b"campaign", "type": b"send"}, ("send", 1)),
        ({"ce_type": b"org.example.order.v1"}, ("org.example.order", 1)),
        ({"ce_type": b""}, ("", 1)),
        ({"ce_type": b"send.v"}, ("send.v", 1)),
        ({"ce_type": "send.v²".encode()}, ("send.v²", 1)),
        ({"ce_type": "send.v٣".encode()}, ("send.v٣", 1)),
        ({"ce_type": b"send.v" + b"9" * 5000}, ("send.v" + "9" * 5000, 1)),
        ({"ce_type": b"\xff.v1"}, ("\ufffd", 1)),
        ({"ce_type": b"se\nnd.v1"}, ("se\nnd", 1)),
    ],
)  # fmt: skip
def test_the_headers_name_type_and_version(headers: Headers, expected: tuple[str, int]) -> None:
    assert type_of(headers, "send") == expected


@pytest.mark.parametrize(
    "version", [b"", b"x", b"1.0", b"-1", b"+1", b" 1", b"1_0", b"9" * 5000, b"\xff", "٣".encode()]
)
def test_a_version_is_a_number(version: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        decode(record(version=version), "send")
    assert caught.value.code == "unknown_version"


def test_unknown_types_and_versions_are_told_apart() -> None:
    with pytest.raises(Malformed) as caught:
        decode(record(type=b"sendd"), "send")
    assert (caught.value.code, caught.value.detail) == (
        "unknown_type",
        "no event type 'sendd' here; expected 'send'",
    )
    with pytest.raises(Malformed) as caught:
        decode(record(version=b"2"), "send")
    assert (caught.value.code, caught.value.detail) == ("unknown_version", "send has versions [1], not 2")
    with pytest.raises(Malformed) as caught:
        decode(record(ce_type=b"send.v" + b"9" * 5000), "send")
    assert caught.value.code == "unknown_type"
    assert len(caught.value.detail) < 200


# --- what cannot be read

DEEP = b'{"campaign":"c1","to":"a@x.test","variables":{"x":%s}}'


@pytest.mark.parametrize(
    ("raw", "code", "says"),
    [
        (None, "empty", "no value"),
        (b"", "bad_json", "empty"),
        (b"  ", "bad_json", "empty"),
        (b"hello", "bad_json", "line 1 column 1"),
        (b'{"campaign":"c1",}', "bad_json", "line 1"),
        (SEND + b"x", "bad_json", "column"),
        (SEND + SEND, "bad_json", "column"),
        (b"{'campaign':'c1'}", "bad_json", "column 2"),
        (b"\xef\xbb\xbf" + SEND, "bad_json", "BOM"),
        (SEND.decode().encode("utf-16"), "bad_json", "UTF-8"),
        (b'{"campaign":"c1","to":"a\xff@x.test"}', "bad_json", "UTF-8"),
        (b'{"campaign":"c1","to":"a\\ud800@x.test"}', "bad_json", "surrogate"),
        (b'{"campaign":"c1","to":"a\x00@x.test"}', "bad_json", "control character"),
        (DEEP % b"NaN", "bad_json", "column"),
        (DEEP % b"Infinity", "bad_json", "column"),
        (DEEP % b"1e999", "bad_json", "infinity"),
        (DEEP % (b"9" * 400), "bad_json", "infinity"),
        (DEEP % b"01", "bad_json", "column"),
        (b"[" * 100_000, "bad_json", "depth"),
        (DEEP % (b"[" * 2000 + b"]" * 2000), "bad_json", "depth"),
        (DEEP % (b'{"a":' * 2000 + b"1" + b"}" * 2000), "bad_json", "depth"),
        (b"null", "bad_field", "Expected `object`"),
        (b"[]", "bad_field", "Expected `object`"),
        (b'"text"', "bad_field", "Expected `object`"),
        (b"{}", "bad_field", "missing required field `campaign`"),
        (b'{"campaign":null,"to":"a@x.test"}', "bad_field", "$.campaign"),
        (b'{"campaign":"c1","to":["a@x.test"]}', "bad_field", "$.to"),
        (b'{"campaign":"c 1","to":"a@x.test"}', "bad_field", "$.campaign"),
        (b'{"campaign":"c1\\n","to":"a@x.test"}', "bad_field", "$.campaign"),
        (b'{"campaign":"c1","to":"a@x.test","name":"A\\r\\nBcc: b@x.test"}', "bad_field", "$.name"),
        (b'{"campaign":"c1","to":"a@x.test","name":"A\\n"}', "bad_field", "$.name"),
        (b'{"campaign":"c1","to":"a@x.test","name":"A\\u0000"}', "bad_field", "$.name"),
        (b'{"campaign":"c1","to":"a@x.test","variables":[]}', "bad_field", "$.variables"),
        (b'{"campaign":"c1","to":"a@x.test","consent":{"opens":1}}', "bad_field", "$.consent.opens"),
        (
            b'{"campaign":"c1","to":"a@x.test","attachments":[{"filename":"a","content_type":"text/plain"},'
            b'{"filename":"b","content_type":"text/plain","data":"%%%"}]}',
            "bad_field",
            "$.attachments[1].data",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(raw: bytes | None, code: str, says: str) -> None:
    found = fault(raw)
    assert found.code == code
    assert says in found.detail


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", b"1.5"), ("number", b"1.0"), ("number", b"9" * 25), ("number", b"true"), ("number", b'"1"'),
        ("time", b'"2026-01-01"'), ("time", b"null"), ("kind", b'"other"'), ("replies", b'[{"klass":"x"}]'),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named(field: str, value: bytes) -> None:
    raw = b'{"worker":"w","number":1,"provider":"p","source":"s","%s":%s}' % (field.encode(), value)
    found = fault(raw, LaneReport)  # a repeated name: the last one counts
    assert found.code == "bad_field"
    assert f"$.{field}" in found.detail


@pytest.mark.parametrize(
    "at",
    ["2026-01-01T00:00:00", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00+24:00", "tomorrow", "", 1_700_000_000],
)  # fmt: skip
def test_a_schedule_has_a_zone(at: object) -> None:
    raw = orjson.dumps({"id": "c", "from": "a@x.test", "schedule": {"at": at}})
    found = fault(raw, Campaign)
    assert (found.code, "$.schedule.at" in found.detail) == ("bad_field", True)


def test_the_last_of_a_repeated_name_counts() -> None:
    assert parse(b'{"to":"b@x.test","campaign":"c1","to":"a@x.test"}', Send).to == "a@x.test"


def test_integers_beyond_64_bits_are_floats() -> None:
    found = parse(DEEP % b"[18446744073709551615,18446744073709551616]", Send).variables["x"]
    assert found == [2**64 - 1, float(2**64)]
    assert isinstance(found[1], float)


def test_depth_costs_no_stack() -> None:
    """A thousand levels, read where the stack is nearly full: policies limit the depth, not the parser."""

    def at(level: int) -> Send:
        return at(level - 1) if level else parse(DEEP % (b"[" * 1000 + b"]" * 1000), Send)

    depth = 0
    frame = sys._getframe()
    while frame.f_back:
        frame, depth = frame.f_back, depth + 1
    found: Any = at(sys.getrecursionlimit() - depth - 30).variables["x"]
    for _ in range(999):
        (found,) = found
    assert found == []


def test_a_long_description_keeps_its_path() -> None:
    raw = b'{"campaign":"c1","to":"a@x.test","attachments":[{"filename":"a","content_type":"a/b","%s":1}]}'
    found = fault(raw % (b"x" * 100_000))
    assert found.detail.startswith("Object contains unknown field `xxx")
    assert found.detail.endswith("- at `$.attachments[0]`")


def test_a_description_carries_no_controls() -> None:
    found = fault(b'{"campaign":"c1","to":"a@x.test","evil\\r\\nname\\u2028":1}')
    assert "evil??name?" in found.detail


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    for cls in (Send, Campaign, LaneReport):
        fault(raw, cls)


def read_or_refused(raw: bytes, cls: type[Any]) -> None:
    code = ""
    try:
        parse(raw, cls)
    except Malformed as error:
        code = error.code
    assert code in {"", "bad_json", "bad_field"}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_shape_raises_anything_else(data: st.DataObject) -> None:
    """Right names with wrong contents, and right contents in the wrong place."""
    cls = data.draw(st.sampled_from(EVENTS))
    names = [field.encode_name for field in msgspec.structs.fields(cls)]
    raw = orjson.dumps(data.draw(st.dictionaries(st.sampled_from(names), _plain(), max_size=len(names))))
    read_or_refused(raw, cls)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_flipped_byte_is_read_or_refused(at: int, byte: int) -> None:
    raw = bytearray(
        encode(Send(campaign="c1", to="a@x.test", name="Jörg", variables={"a": [1, {"b": None}]}))
    )
    raw[at % len(raw)] = byte
    read_or_refused(bytes(raw), Send)


# --- headers


def test_headers_become_a_dictionary_and_back() -> None:
    found = headers_from([("a", b"1"), ("b", b""), ("a", b"2"), ("c", None)])
    assert found == {"a": b"2", "b": b""}
    assert header_list(found) == [("a", b"2"), ("b", b"")]


def test_a_header_has_a_limit() -> None:
    assert headers_from([("a", b"x" * MAX_HEADER_BYTES)])
    with pytest.raises(Malformed) as caught:
        headers_from([("a" * 1000, b"x" * (MAX_HEADER_BYTES + 1))])
    assert caught.value.code == "header_too_large"
    assert len(caught.value.detail) < 200


def test_a_record_reads_its_headers() -> None:
    found = record(None, a=b"caf\xc3\xa9", b=b"\xff", n=b"12.5", whole=b"1700000000")
    assert (found.text("a"), found.text("b"), found.text("c", "none")) == ("café", "\ufffd", "none")
    assert (found.number("n"), found.number("whole"), found.number("m", 7.0)) == (12.5, 1_700_000_000.0, 7.0)
    assert found.size == len("a") + 5 + len("b") + 1 + len("n") + 4 + len("whole") + 10


@pytest.mark.parametrize(
    "text", [b"nan", b"NaN", b"inf", b"-Infinity", b"1e400", b"", b"x", b"1,5", b"\xff", b"0x1"]
)
def test_a_number_is_a_finite_number(text: bytes) -> None:
    """An `expires` of NaN would compare as never expired."""
    with pytest.raises(Malformed) as caught:
        record(expires=text).number("expires")
    assert caught.value.code == "bad_header"
    assert "expires" in caught.value.detail


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=12))
def test_a_number_is_finite_or_malformed(text: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert math.isfinite(record(n=text).number("n"))

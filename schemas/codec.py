"""Bytes <-> events. A record is a payload (the value) and an envelope (the headers).

orjson reads and writes the JSON, msgspec checks it against the event's type. Every event class is
registered under (type, version); an older version is decoded by its own class and lifted with the
pure ``upcast`` of its file, so agents only ever see the newest one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, TypeVar, cast

import msgspec
import orjson

T = TypeVar("T")
Headers = dict[str, bytes]
"""Record headers by name. Names are unique: a repeated header keeps its last value."""

MAX_HEADER_BYTES = 8192
LONGEST_DETAIL = 500
"""Characters of a fault's description: it may quote what a stranger wrote, and goes into headers and logs."""

_VERSION = re.compile(rb"[0-9]{1,4}")
_CE_TYPE = re.compile(r"(?:mailsluice\.)?(.*?)(?:\.v([0-9]{1,4}))?", re.DOTALL)
_UNPRINTABLE = re.compile(r"[^ -~]")


class Malformed(Exception):
    """What came from outside cannot be read. ``code`` is bounded (a metric label), ``detail`` is for people.

    The detail is cut to LONGEST_DETAIL characters of ASCII without controls.
    """

    def __init__(self, code: str, detail: str) -> None:
        if len(detail) > LONGEST_DETAIL:
            # Both ends: the path of what is wrong comes last.
            detail = f"{detail[: LONGEST_DETAIL - 203]}...{detail[-200:]}"
        detail = _UNPRINTABLE.sub("?", detail)
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Record(msgspec.Struct, frozen=True, gc=False):
    """One Kafka record as the agents see it.

    ``timestamp`` is in milliseconds since the epoch: LogAppendTime where the topic has it, else the
    producer's. ``offset`` is -1 for a record handed over in memory by a chained stage.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def text(self, name: str, default: str = "") -> str:
        """The header ``name`` as text, or ``default`` where it is missing."""
        raw = self.headers.get(name)
        return default if raw is None else raw.decode("utf-8", "replace")

    def number(self, name: str, default: float = 0.0) -> float:
        """The header ``name`` as a finite number. Raises Malformed (bad_header) where it is not one."""
        raw = self.headers.get(name)
        if raw is None:
            return default
        try:
            found = float(raw)
        except ValueError:
            found = float("nan")
        # NaN compares false with everything: a mail that "expires" then would never expire.
        if not isfinite(found):
            raise Malformed("bad_header", f"header {name} is not a number: {raw[:40]!r}")
        return found

    @property
    def size(self) -> int:
        """Bytes of key, value and headers: what a window bounded in bytes counts."""
        total = len(self.value or b"") + len(self.key or b"")
        for name, value in self.headers.items():
            total += len(name) + len(value)
        return total


_BY_TYPE: dict[tuple[str, int], type[Any]] = {}
_UPCAST: dict[type[Any], Callable[[Any], Any]] = {}
_NAME: dict[type[Any], tuple[str, int]] = {}


def event(
    name: str, version: int, upcast: Callable[[Any], Any] | None = None
) -> Callable[[type[T]], type[T]]:
    """Class decorator: registers an event under (name, version)."""

    def register(cls: type[T]) -> type[T]:
        if (name, version) in _BY_TYPE:
            raise ValueError(f"event {name} v{version} is registered twice")
        _BY_TYPE[(name, version)] = cls
        _NAME[cls] = (name, version)
        if upcast is not None:
            _UPCAST[cls] = upcast
        return cls

    return register


def registered() -> Mapping[tuple[str, int], type[Any]]:
    """Every known event: (type, version) -> class."""
    return dict(_BY_TYPE)


def name_of(cls: type[Any]) -> tuple[str, int]:
    """(type, version) of a registered event class."""
    return _NAME[cls]


_encoder = msgspec.json.Encoder(order="sorted")


def encode(value: Any) -> bytes:
    """An event as JSON bytes; fields that are at their default are left out, names are in order."""
    return _encoder.encode(value)


def parse(raw: bytes | None, cls: type[T]) -> T:
    """JSON bytes as ``cls``. Raises Malformed (empty, bad_json, bad_field) with the place of what is wrong.

    Of a repeated name in an object the last one counts. NaN, infinities, UTF-8 faults and more than 1,024
    levels are bad_json; an integer beyond 64 bits is a float, which no integer field takes.
    """
    if raw is None:
        raise Malformed("empty", "the record has no value")
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Malformed("bad_json", str(error)) from None
    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        raise Malformed("bad_field", str(error)) from None


def decode(record: Record, default_type: str) -> Any:
    """The event in a record, in its newest version; what it is say the headers (see ``type_of``).

    Raises Malformed: unknown_type, unknown_version, and what ``parse`` raises.
    """
    name, version = type_of(record.headers, default_type)
    cls = _BY_TYPE.get((name, version))
    if cls is None:
        known = sorted(v for n, v in _BY_TYPE if n == name)
        if known:
            raise Malformed("unknown_version", f"{name} has versions {known}, not {version}")
        raise Malformed("unknown_type", f"no event type {name[:60]!r} here; expected {default_type!r}")
    found = parse(record.value, cls)
    while type(found) in _UPCAST:
        found = _UPCAST[type(found)](found)
    return found


def type_of(headers: Headers, default_type: str) -> tuple[str, int]:
    """(type, version) named by the headers; ``default_type`` and 1 where they name none.

    Our own headers are ``type`` and ``version``. Without ``type``, ``ce_type`` of CloudEvents' binary mode
    counts: ``mailsluice.<type>.v<version>``, prefix and version may be left out. Raises Malformed
    (unknown_version) where ``version`` is no number.
    """
    raw = headers.get("type")
    if raw is None and "ce_type" in headers:
        found = _CE_TYPE.fullmatch(headers["ce_type"].decode("utf-8", "replace"))
        assert found is not None  # it matches everything
        return found[1], int(found[2] or 1)
    version = headers.get("version", b"1")
    return _named(raw, version, default_type)


@lru_cache(maxsize=200)  # 1 µs less a record
def _named(raw: bytes | None, version: bytes, default_type: str) -> tuple[str, int]:
    if not _VERSION.fullmatch(version):
        raise Malformed("unknown_version", f"version is not a number: {version[:20]!r}")
    return (raw.decode("utf-8", "replace") if raw is not None else default_type), int(version)


def headers_from(pairs: Iterable[tuple[str, bytes | None]]) -> Headers:
    """Kafka's list of pairs as a dictionary. Raises Malformed on a header beyond MAX_HEADER_BYTES."""
    found: Headers = {}
    for name, value in pairs:
        if value is None:
            continue
        if len(value) > MAX_HEADER_BYTES:
            raise Malformed("header_too_large", f"header {name[:40]!r} has {len(value)} bytes")
        found[name] = value
    return found


def header_list(headers: Headers) -> list[tuple[str, bytes]]:
    """The dictionary as Kafka's list of pairs."""
    return cast("list[tuple[str, bytes]]", list(headers.items()))

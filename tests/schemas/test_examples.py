"""The golden examples: what was once on the wire is read by today's code, for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest

from schemas.campaign import Quiet, Schedule
from schemas.codec import encode, name_of, registered
from schemas.consent import Asked, Change
from schemas.event import Kind
from schemas.lane_report import Reply
from schemas.outcome import State
from schemas.send import Attachment, Consent, Content
from tests.support.examples import EXAMPLES, ROOT, label, read, said


def canonical(raw: bytes) -> bytes:
    return orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("path", EXAMPLES, ids=label)
def test_an_example_decodes_and_encodes_to_itself(path: Path) -> None:
    found = read(path)
    if name_of(type(found)) == said(path):  # an older version is lifted: it need not look the same
        assert encode(found) == canonical(path.read_bytes())


@pytest.mark.parametrize("event", sorted(registered()), ids=lambda event: f"{event[0]}-v{event[1]}")
def test_every_event_has_examples(event: tuple[str, int]) -> None:
    assert len([path for path in EXAMPLES if said(path) == event]) >= 2


def test_every_example_is_of_a_registered_event() -> None:
    assert {said(path) for path in EXAMPLES} == set(registered())


def fields_of(kind: Any) -> set[str]:
    return {f"{kind.__name__}.{field.encode_name}" for field in msgspec.structs.fields(kind)}


def seen_in(value: Any) -> Iterator[str]:
    """Every field of every Struct in ``value`` that is not at its default."""
    if isinstance(value, msgspec.Struct):
        stated = msgspec.to_builtins(value)
        for field in msgspec.structs.fields(type(value)):
            if field.encode_name in stated:
                yield f"{type(value).__name__}.{field.encode_name}"
                yield from seen_in(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from seen_in(item)


NESTED = (Schedule, Quiet, Reply, Attachment, Consent, Content, Change, Asked)
SAME_EVERYWHERE = {"Leader.key"}
"""Fields with one value only."""


def test_every_field_is_in_an_example() -> None:
    seen = {name for path in EXAMPLES for name in seen_in(read(path))}
    missing = set().union(*map(fields_of, [*registered().values(), *NESTED])) - seen - SAME_EVERYWHERE
    assert not missing, f"no example sets {sorted(missing)}: add one"


def test_every_kind_of_event_has_an_example() -> None:
    assert {read(path).kind for path in EXAMPLES if said(path)[0] == "event"} == set(get_args(Kind))
    assert {read(path).state for path in EXAMPLES if said(path)[0] == "outcome"} == set(get_args(State))


def test_examples_are_added_never_edited() -> None:
    listed = {}
    for line in (ROOT / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split(maxsplit=1)
        listed[name.removeprefix("./")] = digest
    present = {str(p.relative_to(ROOT)): p for p in ROOT.glob("*/v*/*")}
    assert set(listed) == set(present), "see schemas/examples/README.md"
    changed = [
        name
        for name, path in present.items()
        if hashlib.sha256(path.read_bytes()).hexdigest() != listed[name]
    ]
    assert not changed, f"{changed} changed: records like these may be in Kafka; add another example instead"

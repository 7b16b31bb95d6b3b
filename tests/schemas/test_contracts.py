"""The contracts with outsiders: JSON Schema and AsyncAPI are up to date, sound, and say what the codec does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

import schemas
from schemas.codec import Malformed, Record, decode, encode, name_of, registered
from streams.ops.schema import OUTSIDE, documents, file_name, json_schema, schema, stale
from streams.topics import TOPICS
from tests.support.examples import EXAMPLES, label, read, said

HERE = Path(schemas.__file__).parent
EVENTS = {name_of(cls)[0]: cls for cls in OUTSIDE}
VALIDATORS = {name: Draft202012Validator(json_schema(cls)) for name, cls in EVENTS.items()}
OURS = [path for path in EXAMPLES if said(path)[0] in EVENTS]


# --- fresh


def test_the_committed_files_are_what_the_code_says() -> None:
    assert stale(HERE) == [], "run `make docs` and commit what it writes"


def test_the_outside_topics_are_all_covered() -> None:
    assert set(EVENTS) == {topic.event for topic in TOPICS if topic.outside and topic.event}
    assert set(documents()) == {"asyncapi.json", *(f"json/{file_name(cls)}" for cls in OUTSIDE)}


def test_the_command_writes_checks_and_tells(tmp_path: Path) -> None:
    run = CliRunner()
    missing = run.invoke(schema, ["--check", "--out", str(tmp_path)])
    assert missing.exit_code == 1
    assert "not up to date: json/campaign.v1.json" in missing.output
    written = run.invoke(schema, ["--out", str(tmp_path)])
    assert (written.exit_code, "7 files" in written.output) == (0, True)
    assert run.invoke(schema, ["--check", "--out", str(tmp_path)]).exit_code == 0
    (tmp_path / "json/send.v1.json").write_text("{}")
    (tmp_path / "json/left_over.v1.json").write_text("{}")
    stale_now = run.invoke(schema, ["--check", "--out", str(tmp_path)])
    assert stale_now.exit_code == 1
    assert "json/send.v1.json, json/left_over.v1.json" in stale_now.output
    again = run.invoke(schema, ["--out", str(tmp_path)])
    assert "1 changed: json/send.v1.json" in again.output


# --- JSON Schema


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for item in node:
            yield from nodes(item)


@pytest.mark.parametrize("name", EVENTS)
def test_a_schema_is_a_schema(name: str) -> None:
    raw = orjson.loads((HERE / "json" / file_name(EVENTS[name])).read_bytes())
    Draft202012Validator.check_schema(raw)
    assert raw["$id"] == f"urn:mailsluice:{name}:1"
    assert len(raw["description"]) > 30
    for node in nodes(raw):  # words that any validator knows
        assert "(?" not in str(node.get("pattern", ""))


@pytest.mark.parametrize("path", OURS, ids=label)
def test_every_example_fits_its_schema(path: Path) -> None:
    VALIDATORS[said(path)[0]].validate(orjson.loads(path.read_bytes()))


@pytest.mark.parametrize("path", OURS, ids=label)
def test_what_we_write_fits_the_schema(path: Path) -> None:
    VALIDATORS[said(path)[0]].validate(orjson.loads(encode(read(path))))


CAMPAIGN = {"id": "c1", "from": "a@shop.test"}
SEND = {"campaign": "c1", "to": "anna@example.org"}
EVENT = {"id": "e", "kind": "opened", "mail": "m", "time": 1.5}
SUPPRESSION = {"tenant": "t", "to": "a@x.test", "reason": "manual"}
FILE = {"filename": "a.txt", "content_type": "text/plain"}
BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("campaign", "CR LF in the subject", {**CAMPAIGN, "subject": "Hi\r\nBcc: all@x.test"}),
    ("campaign", "LF at the end of the subject", {**CAMPAIGN, "subject": "Hi\n"}),
    ("campaign", "NUL in the subject", {**CAMPAIGN, "subject": "Hi\0"}),
    ("campaign", "LF in the sender", {**CAMPAIGN, "from": "a@shop.test\nX: 1"}),
    ("campaign", "LF in a header", {**CAMPAIGN, "headers": {"X-A": "b\n c"}}),
    ("campaign", "a header's name", {**CAMPAIGN, "headers": {"X A:": "b"}}),
    ("campaign", "LF at the end of a header's name", {**CAMPAIGN, "headers": {"X-A\n": "b"}}),
    ("campaign", "a subject of 999 characters", {**CAMPAIGN, "subject": "x" * 999}),
    ("campaign", "no sender", {"id": "c1"}),
    ("campaign", "the field by its Python name", {**CAMPAIGN, "sender": "a@shop.test"}),
    ("campaign", "an unknown field", {**CAMPAIGN, "colour": "red"}),
    ("campaign", "an unknown state", {**CAMPAIGN, "state": "sleeping"}),
    ("campaign", "a slash in the id", {**CAMPAIGN, "id": "a/b"}),
    ("campaign", "an empty id", {**CAMPAIGN, "id": ""}),
    ("campaign", "LF at the end of the id", {**CAMPAIGN, "id": "c1\n"}),
    ("campaign", "a priority above 9", {**CAMPAIGN, "priority": 10}),
    ("campaign", "a priority with a fraction", {**CAMPAIGN, "priority": 1.5}),
    ("campaign", "a text as priority", {**CAMPAIGN, "priority": "5"}),
    ("campaign", "a time without a zone", {**CAMPAIGN, "schedule": {"at": "2026-10-01T08:00:00"}}),
    ("campaign", "a day", {**CAMPAIGN, "schedule": {"at": "2026-10-01"}}),
    ("campaign", "a number as time", {**CAMPAIGN, "schedule": {"at": 1_790_000_000}}),
    ("campaign", "LF after a time", {**CAMPAIGN, "schedule": {"at": "2026-10-01T08:00:00Z\n"}}),
    ("campaign", "an unknown field in the schedule", {**CAMPAIGN, "schedule": {"from": None}}),
    ("campaign", "null as tracking", {**CAMPAIGN, "tracking": None}),
    ("send", "no recipient", {"campaign": "c1"}),
    ("send", "two recipients", {**SEND, "to": ["a@x.test", "b@x.test"]}),
    ("send", "CR in the name", {**SEND, "name": "Anna\rBcc: b@x.test"}),
    ("send", "an unknown field", {**SEND, "vars": {}}),
    ("send", "a list as variables", {**SEND, "variables": []}),
    ("send", "a number as consent", {**SEND, "consent": {"opens": 1}}),
    ("send", "a key of 201 characters", {**SEND, "key": "k" * 201}),
    ("send", "content without a subject", {**SEND, "content": {"text": "x"}}),
    ("send", "LF in the content's subject", {**SEND, "content": {"subject": "x\n"}}),
    ("send", "CR LF in a file's name", {**SEND, "attachments": [{**FILE, "filename": "a\r\nb"}]}),
    ("send", "CR LF in a content type", {**SEND, "attachments": [{**FILE, "content_type": "a/b;\r\nX: 1"}]}),
    ("send", "no content type", {**SEND, "attachments": [{**FILE, "content_type": "text"}]}),
    ("send", "no base64", {**SEND, "attachments": [{**FILE, "data": "%%%"}]}),
    ("send", "a size below 0", {**SEND, "attachments": [{**FILE, "size": -1}]}),
    ("send", "a short digest", {**SEND, "attachments": [{**FILE, "sha256": "abc"}]}),
    ("send", "21 attachments", {**SEND, "attachments": [FILE] * 21}),
    ("event", "an unknown kind", {**EVENT, "kind": "sent"}),
    ("event", "a text as time", {**EVENT, "time": "2026-10-01T08:00:00Z"}),
    ("event", "no mail", {"id": "e", "kind": "opened", "time": 1}),
    ("suppression", "an unknown scope", {**SUPPRESSION, "scope": "planet"}),
    ("suppression", "a text among the hits", {**SUPPRESSION, "hits": [1, "2"]}),
    ("contact", "a fraction of an open", {"tenant": "t", "to": "a@x.test", "opens": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "why", "value"), BAD, ids=lambda item: item if isinstance(item, str) else ""
)
def test_schema_and_codec_refuse_the_same(name: str, why: str, value: dict[str, Any]) -> None:
    assert not VALIDATORS[name].is_valid(value), f"the schema takes {why}"
    with pytest.raises(Malformed) as caught:
        decode(Record("t", 0, 0, 0, None, orjson.dumps(value), {}), name)
    assert caught.value.code == "bad_field"


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("campaign", CAMPAIGN),
    ("campaign", {**CAMPAIGN, "subject": "Größe 44 – 你好 👢", "headers": {"X-A": ""}}),
    ("campaign", {**CAMPAIGN, "schedule": {"at": "2026-10-01T08:00:00.25+02:00", "expires_at": None}}),
    ("campaign", {**CAMPAIGN, "schedule": {"at": "2026-10-01 08:00:00z"}}),
    ("send", SEND),
    ("send", {**SEND, "variables": {"a": [1, None, {"b": [True]}]}, "content": None}),
    (
        "send",
        {**SEND, "attachments": [{**FILE, "data": ""}, {**FILE, "data": "aGk="}, {**FILE, "data": None}]},
    ),
    ("event", {**EVENT, "of_tomorrow": {"x": 1}}),
    ("suppression", {**SUPPRESSION, "of_tomorrow": 1}),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_schema_and_codec_take_the_same(name: str, value: dict[str, Any]) -> None:
    VALIDATORS[name].validate(value)
    assert type(decode(Record("t", 0, 0, 0, None, orjson.dumps(value), {}), name)) is EVENTS[name]


def test_all_registered_events_are_internal_or_described() -> None:
    assert {name for name, _ in registered()} - set(EVENTS) == {
        *("topology", "gate", "outcome", "engagement", "lane_report", "lane_policy"),
        *("lease", "decision", "leader", "hold", "command", "lane_order", "campaign_gate", "erasure"),
        "replayed",
    }

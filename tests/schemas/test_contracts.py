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
from schemas.codec import Malformed, Record, decode, encode, name_of, registered, type_of
from streams.ops.schema import OUTSIDE, documents, file_name, json_schema, schema, stale
from streams.topics import BY_NAME, TOPICS
from streams.work import dead_letter
from tests.support.examples import EXAMPLES, examples_of, label, read, said

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
    assert (written.exit_code, "6 files" in written.output) == (0, True)
    assert run.invoke(schema, ["--check", "--out", str(tmp_path)]).exit_code == 0
    (tmp_path / "json/send.v1.json").write_text("{}")
    (tmp_path / "json/left_over.v1.json").write_text("{}")
    stale_now = run.invoke(schema, ["--check", "--out", str(tmp_path)])
    assert stale_now.exit_code == 1
    assert "json/send.v1.json, json/left_over.v1.json" in stale_now.output
    again = run.invoke(schema, ["--out", str(tmp_path)])
    assert "1 changed: json/send.v1.json" in again.output


# --- JSON Schema


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


# --- AsyncAPI


DOC: dict[str, Any] = orjson.loads((HERE / "asyncapi.json").read_bytes())
OUTSIDE_TOPICS = [topic for topic in TOPICS if topic.outside]


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for item in node:
            yield from nodes(item)


def at(reference: str) -> Any:
    """What a local reference points to."""
    assert reference.startswith("#/")
    found: Any = DOC
    for part in reference[2:].split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def test_the_document_has_what_asyncapi_asks_for() -> None:
    assert DOC["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOC["info"])
    assert all({"host", "protocol"} <= set(server) for server in DOC["servers"].values())
    assert all("address" in channel and channel["messages"] for channel in DOC["channels"].values())
    for operation in DOC["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert set(operation["channel"]) == {"$ref"}
        # A message of an operation is one of its channel's (AsyncAPI 3.0, Operation Object).
        assert {m["$ref"].rpartition("/messages/")[0] for m in operation["messages"]} == {
            operation["channel"]["$ref"]
        }


def test_every_reference_leads_somewhere() -> None:
    references = [node["$ref"] for node in nodes(DOC) if "$ref" in node]
    assert len(references) > 40
    for reference in references:
        assert isinstance(at(reference), dict), reference


def test_nothing_in_it_is_of_no_use() -> None:
    used = {node["$ref"] for node in nodes(DOC) if "$ref" in node}
    for kind in ("schemas", "messages"):
        for name in DOC["components"][kind]:
            assert f"#/components/{kind}/{name}" in used
    assert {operation["channel"]["$ref"] for operation in DOC["operations"].values()} == {
        f"#/channels/{name}" for name in DOC["channels"]
    }


@pytest.mark.parametrize("topic", OUTSIDE_TOPICS, ids=lambda topic: topic.name)
def test_a_channel_says_what_the_topic_table_says(topic: Any) -> None:
    channel = DOC["channels"][topic.name]
    binding = channel["bindings"]["kafka"]
    assert channel["address"] == binding["topic"] == topic.name
    policy = ["compact"] if topic.kept == "compact" else ["delete"]
    assert binding["topicConfiguration"]["cleanup.policy"] == policy
    assert binding["partitions"] == (topic.partitions or 8)
    (operation,) = [
        o for o in DOC["operations"].values() if o["channel"]["$ref"] == f"#/channels/{topic.name}"
    ]
    assert operation["action"] == {"in": "receive", "out": "send"}[topic.outside]
    for message in operation["messages"]:
        assert "key" in at(at(message["$ref"])["$ref"])["bindings"]["kafka"]


def test_only_outside_topics_are_in_it() -> None:
    assert set(DOC["channels"]) == {topic.name for topic in OUTSIDE_TOPICS}
    assert {BY_NAME[name].dlq for name in DOC["channels"] if BY_NAME[name].outside == "in"} <= set(
        DOC["channels"]
    )


def validator(node: dict[str, Any]) -> Draft202012Validator:
    """A schema out of the document, with what it refers to."""
    return Draft202012Validator({**node, "components": DOC["components"]})


@pytest.mark.parametrize("event", ["campaign", "send"])
@pytest.mark.parametrize("form", ["", "CloudEvent"])
def test_headers_that_fit_are_read_as_the_event(event: str, form: str) -> None:
    """Both forms of what outsiders write: plain, and CloudEvents binary mode."""
    message = DOC["components"]["messages"][event + form]
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    cloud = {
        "ce_specversion": "1.0", "ce_type": f"mailsluice.{event}.v1", "ce_id": "4711",
        "ce_source": "urn:shop", "ce_time": "2026-10-01T08:00:00Z", "ce_traceparent": trace,
        "content-type": "application/json",
    }  # fmt: skip
    plain: list[dict[str, str]] = [{}, {"type": event, "version": "1", "traceparent": trace}]
    for headers in [cloud] if form else plain:
        validator(message["headers"]).validate(headers)
        raw = {name: text.encode() for name, text in headers.items()}
        assert type_of(raw, event) == (event, 1)
        for path in examples_of(event):
            validator(message["payload"]).validate(orjson.loads(path.read_bytes()))
            decode(Record("t", 0, 0, 0, None, path.read_bytes(), raw), event)


@pytest.mark.parametrize(
    ("message", "headers"),
    [
        ("send", {"type": "campaign"}),
        ("send", {"version": "2"}),
        ("send", {"traceparent": "none"}),
        ("sendCloudEvent", {}),
        ("sendCloudEvent", {"ce_type": "mailsluice.send.v1", "ce_specversion": "1.0", "ce_id": "1"}),
        ("event", {"type": "event"}),
        ("deadLetter", {"dlq_reason": "bad_json"}),
    ],
)
def test_headers_that_do_not_fit(message: str, headers: dict[str, str]) -> None:
    assert not validator(DOC["components"]["messages"][message]["headers"]).is_valid(headers)


@pytest.mark.parametrize("event", EVENTS)
def test_messages_carry_examples(event: str) -> None:
    found = {
        example["name"]: example["payload"] for example in DOC["components"]["messages"][event]["examples"]
    }
    assert set(found) == {"minimal", "full"}
    for payload in found.values():
        VALIDATORS[event].validate(payload)


def test_dead_letters_are_as_described() -> None:
    came = Record("mail-sends", 1, 2, 3, b"k", b"{", {"type": b"send"})
    out = dead_letter(came, "enqueue", "bad_json", "unexpected end", 1_790_000_000.0)
    assert (out.topic, out.value, out.key) == ("mail-sends-dlq", b"{", b"k")
    headers = DOC["components"]["messages"]["deadLetter"]["headers"]
    written = {name: value.decode() for name, value in out.headers.items()}
    validator(headers).validate(written)
    assert set(written) - {"type"} == set(headers["required"])
    cut = dead_letter(came, "enqueue", "bad_json", "x", 1.0, largest=4)
    assert set(cut.headers) - {"type"} == set(headers["properties"])


def test_all_registered_events_are_internal_or_described() -> None:
    assert {name for name, _ in registered()} - set(EVENTS) == {
        *("topology", "gate", "outcome", "engagement", "lane_report", "lane_policy"),
        *("lease", "decision", "leader"),
    }

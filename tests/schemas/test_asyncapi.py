"""The AsyncAPI document: sound in itself, and what it says of topics, headers and payloads is what happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

import schemas
from schemas.codec import Record, decode, name_of, type_of
from streams.ops.schema import OUTSIDE
from streams.topics import BY_NAME, TOPICS
from streams.work import dead_letter
from tests.support.examples import examples_of

EVENTS = [name_of(cls)[0] for cls in OUTSIDE]
DOC: dict[str, Any] = orjson.loads((Path(schemas.__file__).with_name("asyncapi.json")).read_bytes())
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
        validator(DOC["components"]["messages"][event]["payload"]).validate(payload)


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

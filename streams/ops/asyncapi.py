"""The AsyncAPI 3.0 document of the topics that outsiders write or read. Pure: made of the topic table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from schemas.event import Kind
from streams.admin import configuration
from streams.settings import Settings
from streams.topics import Topic

Node = dict[str, Any]

VERSION = "1.0.0"
"""Of the contract, not of the program: the second number grows with additions, the first never lightly."""
_BINDING = "0.5.0"
_SAME = "The partition is murmur2(normalised recipient) mod P, P as in the record on mail-topology."
_ABOUT = """\
Publish campaigns and sends; read what became of them. Topic names get the prefix of MAILSLUICE_PREFIX, if
one is set. Partition counts and retention are the defaults; P is the number of partitions of everything
that is partitioned by recipient.

What you write may be plain JSON or a CloudEvent in binary mode; unknown fields are refused. What cannot be
read goes to the topic's dead letters as it came, with the reason in its headers; a send that can be read but
is impossible ends in an event `rejected`. What you read may get new fields in any release: ignore those that
you do not know. Every event has a deterministic id and may come more than once."""

_KEYS = {
    "campaign": "`tenant/id` of the campaign. A record without a value takes the campaign away.",
    "send": "Free. Sends of one key keep their order as far as `mail-enqueued`; the recipient's address is a good key.",
    "event": "Free, not part of the contract: the partition is the recipient's.",
    "suppression": "`to|tenant|scope|stream|reason`, then `|window` where there is one. Begins with the recipient.",
    "consent": "`to|tenant|stream`. Begins with the recipient.",
    "contact": "`to|tenant`.",
    "": "As it came.",
}
_KIND = "As in the payload: what is nothing to a reader can be passed over unread. Older events lack it."
_TRACE = {
    "type": "string",
    "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
    "description": "W3C trace context: passed on with the mail.",
}


def document(
    topics: Sequence[Topic], names: Mapping[str, str], schemas: Node, examples: Mapping[str, Node]
) -> Node:
    """``names``: event -> its entry in ``schemas``; ``examples``: event -> name -> payload."""
    messages: Node = {}
    for topic in topics:
        messages |= _messages(topic, names, examples)
    return {
        "asyncapi": "3.0.0",
        "id": "urn:mailsluice",
        "info": {
            "title": "Mailsluice",
            "version": VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{broker}",
                "protocol": "kafka",
                "description": "The Kafka cluster of MAILSLUICE_BROKER.",
                "variables": {"broker": {"default": Settings().broker, "description": "HOST:PORT"}},
            }
        },
        "channels": {topic.name: _channel(topic) for topic in topics},
        "operations": {_operation_name(topic): _operation(topic) for topic in topics},
        "components": {"schemas": schemas, "messages": messages},
    }


def _channel(topic: Topic) -> Node:
    settings = Settings()
    made = configuration(topic, settings)
    kept: Node = {"cleanup.policy": made["cleanup.policy"].split(",")}
    kept |= {name: int(made[name]) for name in ("retention.ms", "max.message.bytes") if name in made}
    where = f" {_SAME}" if topic.outside == "out" and not topic.partitions else ""
    return {
        "address": topic.name,
        "title": topic.name,
        "description": f"{topic.what[:1].upper()}{topic.what[1:]}.{where}",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _message_names(topic)},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions or settings.partitions,
                "replicas": settings.replication,
                "topicConfiguration": kept,
                "bindingVersion": _BINDING,
            }
        },
    }


def _operation_name(topic: Topic) -> str:
    words = topic.name.removeprefix("mail-").split("-")
    return ("receive" if topic.outside == "in" else "send") + "".join(map(str.capitalize, words))


def _operation(topic: Topic) -> Node:
    """Seen from Mailsluice, as AsyncAPI wants it: it receives what outsiders write."""
    channel = f"#/channels/{topic.name}"
    return {
        "action": "receive" if topic.outside == "in" else "send",
        "channel": {"$ref": channel},
        "summary": f"{'Write' if topic.outside == 'in' else 'Read'}: {topic.what}",
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in _message_names(topic)],
    }


def _message_names(topic: Topic) -> tuple[str, ...]:
    if not topic.event:
        return ("deadLetter",)
    return (topic.event, f"{topic.event}CloudEvent") if topic.outside == "in" else (topic.event,)


def _messages(topic: Topic, names: Mapping[str, str], examples: Mapping[str, Node]) -> Node:
    if not topic.event:
        return {"deadLetter": _dead_letter()}
    event = topic.event
    payload = {"$ref": f"#/components/schemas/{names[event]}"}
    plain = {
        "name": event,
        "title": f"{event}, version 1",
        "contentType": "application/json",
        "headers": _own_headers(event, written_by_us=topic.outside == "out"),
        "payload": payload,
        "bindings": _key(event),
        "examples": [{"name": name, "payload": value} for name, value in examples[event].items()],
    }
    if topic.outside == "out":
        return {event: plain}
    cloud = {
        "name": f"mailsluice.{event}.v1",
        "title": f"{event}, version 1, as a CloudEvent in binary mode",
        "contentType": "application/json",
        "headers": _cloud_headers(event),
        "payload": payload,
        "bindings": _key(event),
    }
    return {event: plain, f"{event}CloudEvent": cloud}


def _key(event: str) -> Node:
    return {"kafka": {"key": {"type": "string", "description": _KEYS[event]}, "bindingVersion": _BINDING}}


def _own_headers(event: str, written_by_us: bool) -> Node:
    found: Node = {
        "type": "object",
        "properties": {
            "type": {"const": event, "description": "The event; the topic's own where it is left out."},
            "version": {"const": "1", "description": "Of the event; 1 where it is left out."},
        },
    }
    if event == "event":
        found["properties"]["kind"] = {"enum": list(get_args(Kind)), "description": _KIND}
    if written_by_us:
        return {**found, "required": ["type", "version"]}
    found["properties"]["traceparent"] = _TRACE
    return found


def _cloud_headers(event: str) -> Node:
    text = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "description": "CloudEvents 1.0, Kafka binding, binary mode. A header `type` would go before `ce_type`.",
        "required": ["ce_specversion", "ce_type", "ce_id", "ce_source"],
        "properties": {
            "ce_specversion": {"const": "1.0"},
            "ce_type": {"const": f"mailsluice.{event}.v1"},
            "ce_id": {**text, "description": "Yours; the idempotency key is the field `key` of a send."},
            "ce_source": {**text, "format": "uri-reference"},
            "ce_time": {"type": "string", "format": "date-time"},
            "ce_traceparent": _TRACE,
            "content-type": {"type": "string", "pattern": "^application/json(;.*)?$"},
        },
    }


def _dead_letter() -> Node:
    texts = {
        "dlq_reason": "Why, in one word of a bounded list.",
        "dlq_detail": "Why, in words: what is wrong and where.",
        "dlq_stage": "The stage that gave up.",
        "dlq_topic": "Where the record was,",
        "dlq_partition": "in which partition,",
        "dlq_offset": "at which offset,",
        "dlq_timestamp": "with which time stamp (milliseconds).",
        "dlq_time": "When it was put here, Unix seconds.",
    }
    properties: Node = {name: {"type": "string", "description": text} for name, text in texts.items()}
    properties["dlq_cut"] = {
        "type": "string",
        "description": "Only where the record was too large and has been cut: its size.",
    }
    return {
        "name": "deadLetter",
        "title": "A record that could not be worked on: key, value and headers as they came, and the reason",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "required": list(texts), "properties": properties},
        "payload": {"description": "The bytes of the value, unchanged; they may be anything."},
        "bindings": _key(""),
    }

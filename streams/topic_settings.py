"""Where the broker's settings of topics differ from the table, and putting that right one setting at a time.

The client knows only AlterConfigs, which sets everything that it does not name back to the broker's default
(what an operator set by hand, too). IncrementalAlterConfigs (KIP-339, Apache Kafka 2.3 and later) does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

MORE_IS_FINE = frozenset({"retention.ms", "max.message.bytes", "min.insync.replicas"})
"""Settings that an operator may have raised: told, never lowered (a shorter retention deletes)."""
WITHOUT_END = "-1"
"""Of a retention: nothing is ever deleted for its age."""
_SET = 0


class Difference(NamedTuple):
    """One setting of one topic; ``found`` is empty where the broker tells none."""

    topic: str
    name: str
    found: str
    wanted: str

    @property
    def raised(self) -> bool:
        """Whether it is above what the table asks for, which is left as it is."""
        if self.name == "retention.ms" and self.found == WITHOUT_END:
            return True
        return self.name in MORE_IS_FINE and self.found.isdigit() and int(self.found) > int(self.wanted)

    def __str__(self) -> str:
        return f"{self.topic}: {self.name} is {self.found or 'not set'}, the table says {self.wanted}"


async def differences(
    admin: AIOKafkaAdminClient, wanted: Mapping[str, Mapping[str, str]]
) -> list[Difference]:
    """What is not as ``wanted`` (topic -> setting -> value), topic by topic. Raises KafkaError."""
    return compared(await described(admin, wanted), wanted)


async def described(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, dict[str, str]]:
    """The settings of topics as the broker tells them. The embedded one tells only what was given when the topic
    was made, Apache Kafka its defaults too. Raises KafkaError."""
    names = list(topics)
    found: dict[str, dict[str, str]] = {}
    for start in range(0, len(names), 50):
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names[start : start + 50]]
        for answer in await admin.describe_configs(asked):
            for code, _, _, name, entries in answer.resources:
                if code:
                    raise for_code(code)(name)
                found[name] = {entry[0]: entry[1] or "" for entry in entries}
    return found


def compared(
    found: Mapping[str, Mapping[str, str]], wanted: Mapping[str, Mapping[str, str]]
) -> list[Difference]:
    """What differs; pure."""
    return [
        Difference(topic, name, found[topic].get(name, ""), value)
        for topic, values in sorted(wanted.items())
        if topic in found
        for name, value in sorted(values.items())
        if _words(found[topic].get(name, "")) != _words(value)
    ]


def _words(value: str) -> list[str]:
    return sorted(value.split(","))  # of a list such as compact,delete the order says nothing


async def alter(admin: AIOKafkaAdminClient, changes: Iterable[Difference]) -> list[str]:
    """Set what differs; one fault for each topic that the broker refuses, none where all is set.

    A broker that does not know the request is a fault, not an error.
    """
    by_topic: dict[str, list[Difference]] = {}
    for change in changes:
        by_topic.setdefault(change.topic, []).append(change)
    if not by_topic:
        return []
    resources = [
        (int(ConfigResourceType.TOPIC), topic, [(change.name, _SET, change.wanted) for change in some])
        for topic, some in by_topic.items()
    ]
    try:
        answer = await admin._send_request(_Alter(resources))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return [f"this broker cannot change topics that are there ({len(by_topic)} of them differ)"]
    return [
        f"{name}: {for_code(code).__name__} {text or ''}".strip()
        for code, text, _, name in answer.results
        if code
    ]


class _Answer0(Response):
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
            ),
        ),
    )


class _Alter0(RequestStruct):
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = _Answer0
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                (
                    "configs",
                    Array(("name", String("utf-8")), ("operation", Int8), ("value", String("utf-8"))),
                ),
            ),
        ),
        ("validate_only", Boolean),
    )


class _Alter(Request[_Alter0]):
    API_KEY = 44

    def __init__(self, resources: list[tuple[int, str, list[tuple[str, int, str]]]]) -> None:
        self._resources = resources

    def build(self, request_struct_class: type[_Alter0]) -> _Alter0:
        return request_struct_class(self._resources, False)

"""What is held about one person: the rows of the states, and every record of every topic that says the address.

A record is found by the bytes of the address in its key, headers or value, in the spellings in which mail and JSON
carry it. What is base64 inside a mail is not looked into: the mail's own headers name its recipient.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import idna
import orjson
from aiokafka.admin import AIOKafkaAdminClient

from schemas.address import domain_of, normalise
from schemas.codec import Malformed, Record
from schemas.identity import partition_of
from streams.broker import started
from streams.ops.ask import utc
from streams.ops.read import Place, read_to_end
from streams.settings import Settings
from streams.topic_settings import described
from streams.topics import TOPICS


class StateOf(NamedTuple):
    """A compacted topic with rows about people; ``begins``: what the keys of a person's rows begin with."""

    name: str
    topic: str
    begins: Callable[[str], str]


STATES = (
    StateOf("suppressions", "mail-suppressions", lambda to: f"{to}|"),
    StateOf("consents", "mail-consents", lambda to: f"{to}|"),
    StateOf("contacts", "mail-contacts", lambda to: f"{to}|"),
    StateOf("campaigns_sent", "mail-screen-log", lambda to: f"c|{to}|"),
)
"""Every state that names people: a new one is added here, and is erased by the stage that owns it. What classify
remembers of mails lies in files alone and repeats ``mail-outcomes``."""


@dataclass
class Rows:
    """The rows of a person as the topics hold them: state -> key -> value. ``marks``: the rows that say that the
    address was erased, under its hashes."""

    of: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: {state.name: {} for state in STATES})
    marks: dict[bytes, bytes] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Rows by topic, of those states that have any."""
        return {state.topic: len(self.of[state.name]) for state in STATES if self.of[state.name]}

    def add(self, record: Record, to: str, hashes: Iterable[str]) -> None:
        """The next record of a state's topic."""
        key = (record.key or b"").decode("utf-8", "replace")
        for state in STATES:
            if state.topic == record.topic and key.startswith(state.begins(to)):
                _take(self.of[state.name], record)
        if record.topic == "mail-suppressions" and key.partition("|")[0] in hashes:
            _take(self.marks, record)


def _take(rows: dict[bytes, bytes], record: Record) -> None:
    assert record.key is not None
    if record.value:
        rows[record.key] = record.value
    else:
        rows.pop(record.key, None)


class States:
    """Reads the states' partition of a person, and what has come since when asked again."""

    def __init__(self, settings: Settings, to: str, hashes: tuple[str, ...], partitions: int) -> None:
        self._settings, self._to, self._hashes = settings, to, hashes
        place = partition_of(to, partitions)
        self._at: dict[Place, int] = {(state.topic, place): 0 for state in STATES}
        self.rows = Rows()

    async def read(self) -> Rows:
        """Raises WrongTopology, NoAnswer."""
        async with aclosing(read_to_end(self._settings, list(self._at), dict(self._at))) as records:
            async for record in records:
                self._at[record.topic, record.partition] = record.offset + 1
                self.rows.add(record, self._to, self._hashes)
        return self.rows


# -- records


_BEFORE = rb"(?<![A-Za-z0-9.+_-])(?<![A-Za-z0-9]')"
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def pattern(address: str) -> re.Pattern[bytes]:
    """Finds a normalised address in bytes of any case, not inside a longer one. What may stand in a local part but
    separates keys, links and quotes elsewhere counts as an end; not so an apostrophe within a word (o'brien)."""
    local, domain = address.rpartition("@")[0], domain_of(address)
    domains = [domain.encode()]
    if "xn--" in domain:
        wide = idna.decode(domain)
        domains += [wide.encode(), orjson_ascii(wide)]
    either = b"|".join(re.escape(each) for each in domains)
    said = _BEFORE + b"".join(map(_spelt, local + "@")) + b"(?:" + either + b")"
    return re.compile(said + rb"(?![A-Za-z0-9-]|\.[A-Za-z0-9])", re.IGNORECASE)


def _spelt(char: str) -> bytes:
    """A character as it is, and as links and JSON writers may spell it (some write + and ' as \\u002b and \\u0027)."""
    if char.isalnum():
        return char.encode()
    return b"(?:%s|%%%02x|\\\\u%04x)" % (re.escape(char.encode()), ord(char), ord(char))


def orjson_ascii(text: str) -> bytes:
    """As JSON writers with ASCII only write it."""
    return text.encode("ascii", "backslashreplace").replace(b"\\x", b"\\u00")


def finder(address: str) -> Callable[[bytes], bool]:
    """Whether bytes have the address: some 5 us for a mail of 10 KB that does not; the pattern alone takes 80. A domain
    of other letters may be spelt in many ways (capitals, marks of their own): there our own reading counts."""
    wanted, domain = pattern(address), domain_of(address)
    local = b"".join(map(_spelt, address.rpartition("@")[0] + "@"))
    wide = (
        re.compile(_BEFORE + local + rb"([A-Za-z0-9.\\\x80-\xff-]{1,500})", re.IGNORECASE)
        if "xn--" in domain
        else None
    )
    # What is spelt in one way alone; a domain of other letters is not.
    word = max(re.split("[^a-z0-9]+", address.rpartition("@")[0].lower()), key=len).encode()
    site = b"" if "xn--" in domain else domain.encode()

    def found(part: bytes) -> bool:
        lower = part.lower()
        if site not in lower or word not in lower:
            return False
        if wanted.search(part) is not None:
            return True
        return wide is not None and any(_domain(said[1]) == domain for said in wide.finditer(part))

    return found


def _domain(said: bytes) -> str:
    """The domain in A-labels, as it may stand in JSON; empty where it is none."""
    text = _ESCAPE.sub(lambda code: chr(int(code[1], 16)), said.decode("utf-8", "replace"))
    try:
        return domain_of(normalise(f"a@{text.rstrip('.')}").key)
    except Malformed:
        return ""


def says(record: Record, found: Callable[[bytes], bool]) -> bool:
    """Whether any part of a record has what ``found`` finds."""
    parts = (record.key, record.value, *record.headers.values())
    return any(part is not None and found(part) for part in parts)


async def held(settings: Settings, address: str, partitions: int) -> AsyncGenerator[Record, None]:
    """Every record about a person, topic by topic: what a producer, the edge or the dead letters hold may lie in any
    partition. Reads all of all topics. Raises WrongTopology, NoAnswer."""
    wanted = finder(address)
    for topic in TOPICS:
        places = [(topic.name, p) for p in range(topic.partitions or partitions)]
        async with aclosing(read_to_end(settings, places)) as records:
            async for record in records:
                if says(record, wanted):
                    yield record


def as_dict(record: Record) -> dict[str, Any]:
    """A record for JSON: JSON values as they are, text as text, anything else as base64."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "time": utc(record.timestamp / 1000, "milliseconds") if record.timestamp > 0 else None,
        "key": _told(record.key),
        "headers": {name: _told(value) for name, value in record.headers.items()},
        "value": value_of(record.value),
    }


def value_of(raw: bytes | None) -> Any:
    """A value for JSON."""
    if raw and raw[:1] in b"{[":
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass
    return _told(raw)


def _told(raw: bytes | None) -> Any:
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(raw).decode()}


# -- how long


async def bounds(settings: Settings) -> dict[str, tuple[float, float]]:
    """Topic -> (seconds after its time at which a record is gone, seconds after its deletion at which a row of a
    compacted topic is), by the broker's own settings; infinity where nothing bounds it. Raises KafkaError."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.broker.split(","))
    await started(admin, 10.0)
    try:
        found = await described(admin, [settings.topic(topic.name) for topic in TOPICS])
    finally:
        await admin.close()
    return {topic.name: bound(found[settings.topic(topic.name)]) for topic in TOPICS}


def bound(config: dict[str, str]) -> tuple[float, float]:
    """The two bounds of a topic with these settings. Whole segments go: what was written first in one stays until
    its last record is old enough; a deletion is kept for a while, and goes with the cleaning after that."""
    policy = config.get("cleanup.policy", "delete")
    kept, segment = (
        float(config.get("retention.ms") or 604_800_000),
        float(config.get("segment.ms") or 604_800_000),
    )
    lag, tombstones = (
        float(config.get(name) or default)
        for name, default in (("max.compaction.lag.ms", 2**63 - 1), ("delete.retention.ms", 86_400_000))
    )
    by_time = (kept + segment) / 1000 if "delete" in policy and kept >= 0 else float("inf")
    by_cleaning = (2 * lag + tombstones) / 1000 if "compact" in policy and lag < 2**62 else float("inf")
    return by_time, by_cleaning


def erased_at(marks: dict[bytes, bytes]) -> float:
    """When the person was erased, by the newest mark in force; 0 = not."""
    rows = [orjson.loads(raw) for raw in marks.values()]
    return max((row["time"] for row in rows if row.get("active", True)), default=0.0)

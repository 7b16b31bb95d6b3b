"""Dead letters: what one says, and which are meant. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from schemas.codec import Malformed, Record
from schemas.mail import base_topic
from schemas.replay import Replays
from streams.ops import story
from streams.ops.origins import NoSecret, as_it_came, origin_of_letter
from streams.ops.tell import fields as fields_in
from streams.ops.tell import text_in
from streams.pipeline import STAGES
from streams.topics import TOPICS

DEAD = tuple(topic.name for topic in TOPICS if topic.name.endswith("dlq"))
"""The topics of dead letters; each has one partition."""
READ_BY = {topic: stage.name for stage in STAGES for topic in stage.topics}
"""Topics that a stage consumes, and so all in which a record can die. (Of mail-events, the last stage.)"""
FLOW = ("mail-enqueued", "mail-screened", "mail-rendered", "mail-lane-", "mail-wait-")
"""How the topics begin whose records are a mail at an attempt, with a gate ahead."""
STATE = frozenset(topic.name for topic in TOPICS if topic.kept == "compact")
"""Topics whose newest record counts: a replay could put an old one over it."""
_TOLD = {"mail-outcomes": "id", "mail-events": "mail", "mail-engagement": "mail"}
"""Topics whose JSON says what other records say in headers, and where it has the mail's id."""


@dataclass(frozen=True)
class Letter:
    """One dead letter, as ``streams.work.dead_letter`` wrote it."""

    record: Record

    @cached_property
    def was(self) -> Record:
        """The record that died, at its place."""
        return as_it_came(self.record)

    @property
    def name(self) -> str:
        """What commands call it."""
        return f"{self.record.topic}@{self.record.offset}"

    @property
    def stage(self) -> str:
        """The stage that gave up."""
        return self.record.text("dlq_stage")

    @property
    def reason(self) -> str:
        """Why, in one word."""
        return self.record.text("dlq_reason")

    @property
    def detail(self) -> str:
        """Why, in words."""
        return self.record.text("dlq_detail")

    @cached_property
    def time(self) -> float:
        """Unix seconds when it was put here."""
        try:
            return self.record.number("dlq_time")
        except Malformed:
            return self.record.timestamp / 1000

    @cached_property
    def about(self) -> dict[str, str]:
        """id, tenant, campaign, to: as far as the record says them. Outsiders' headers say nothing."""
        topic = base_topic(self.was.topic)
        said: dict[str, Any] = {}
        if topic == "mail-sends":
            said = {"tenant": "default"} | fields_in(self.was)
            said.pop("id", None)
        elif topic in _TOLD:
            said = fields_in(self.was)
            said["id"] = said.get(_TOLD[topic], "")
        elif topic not in STATE:
            said = {name: self.was.text(name) for name in ("id", "tenant", "campaign", "to")}
        told = {name: text_in(said, name) for name in ("id", "tenant", "campaign", "to")}
        return {name: value for name, value in told.items() if value}

    @property
    def attempt(self) -> int:
        """The attempt that it asked for; 0 where that cannot be read."""
        raw = self.was.text("attempt", "1")
        return int(raw) if raw.isascii() and raw.isdigit() and len(raw) < 7 else 0

    @property
    def of_flow(self) -> bool:
        """Whether it is a mail behind enqueue; an order to forget somebody, which goes the same way, is none."""
        return self.was.topic.startswith(FLOW) and self.was.headers.get("type") != b"erasure"

    @property
    def of_sends(self) -> bool:
        """Whether it is an outsider's send."""
        return base_topic(self.was.topic) == "mail-sends"

    def origin(self, replays: Replays | None) -> str:
        """Where the send was received; of one that claims to come again, what can be told without a secret."""
        try:
            return origin_of_letter(self.record, replays)
        except NoSecret:
            return story.dead_origin(self.record)

    def as_dict(self, replays: Replays | None = None) -> dict[str, Any]:
        """For ``--json``: everything but headers and body."""
        was = self.was
        return {
            "letter": self.name,
            "time": self.time,
            "stage": self.stage,
            "reason": self.reason,
            "detail": self.detail,
            "topic": was.topic,
            "partition": was.partition,
            "offset": was.offset,
            "origin": self.origin(replays),
            **self.about,
            "bytes": self.record.size,
            "cut": "dlq_cut" in self.record.headers,
        }


@dataclass(frozen=True)
class Wanted:
    """Which letters are meant: every field that is given must fit. ``since``, ``until``: when they died."""

    names: frozenset[tuple[str, int]] = frozenset()
    topic: str = ""
    stage: str = ""
    reason: str = ""
    tenant: str = ""
    campaign: str = ""
    id: str = ""
    partition: int = -1
    offset: int = -1
    since: float = 0.0
    until: float = float("inf")

    def fits(self, letter: Letter, replays: Replays | None = None) -> bool:
        """Whether this one is meant. ``topic``: where it died, or of dead letters; ``reason``: the word, or
        part of the words; ``id``: of the mail, or its origin."""
        record = letter.record
        return (
            (not self.names or (record.topic, record.offset) in self.names)
            and (
                not self.topic or self.topic in (record.topic, base_topic(letter.was.topic), letter.was.topic)
            )
            and (not self.stage or letter.stage == self.stage)
            and (
                not self.reason
                or letter.reason == self.reason
                or self.reason.lower() in letter.detail.lower()
            )
            and (self.partition < 0 or letter.was.partition == self.partition)
            and (self.offset < 0 or letter.was.offset == self.offset)
            and self.since <= letter.time < self.until
            and (not self.tenant or letter.about.get("tenant", "") == self.tenant)
            and (not self.campaign or letter.about.get("campaign", "") == self.campaign)
            and (not self.id or self.id in (letter.about.get("id"), letter.origin(replays)))
        )

    @property
    def topics(self) -> tuple[str, ...]:
        """The dead-letter topics that have to be read."""
        if self.names:
            return tuple(sorted({topic for topic, _ in self.names}))
        return (self.topic,) if self.topic in DEAD else DEAD

    def as_dict(self) -> dict[str, str]:
        """What was given, for the audit."""
        found = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value == item.default:
                continue
            found[item.name] = (
                " ".join(f"{topic}@{at}" for topic, at in sorted(value)[:20])
                if isinstance(value, frozenset)
                else str(value)
            )
        return found

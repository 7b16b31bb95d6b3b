"""The literal topic table: what every topic carries, who writes it, how it is keyed, kept and partitioned.

Flow topics are never compacted; their retention is twice the longest lifetime of a message. P is the
one partition count of everything that is co-partitioned by recipient (``mail-topology`` holds it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.lanes import lane_names, lane_topic
from schemas.mail import NOW

RUNGS = ("1m", "10m", "1h", "6h")
"""The wait ladder, shortest first. The lengths are settings; the names are not."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. ``event``: default event type of its records ("" = raw bytes). ``partitions`` 0 = P."""

    name: str
    event: str
    what: str
    partitions: int = 0
    kept: Literal["flow", "compact", "events"] = "flow"
    outside: Literal["", "in", "out"] = ""
    dlq: str = "mail-dlq"
    append_time: bool = False


def _twins(
    name: str, event: str, what: str, outside: Literal["", "in", "out"] = "", dlq: str = "mail-dlq"
) -> tuple[Topic, ...]:
    return (
        Topic(name, event, what, outside=outside, dlq=dlq),
        Topic(name + NOW, event, what + " (transactional, polled first)", outside=outside, dlq=dlq),
    )


TOPICS: tuple[Topic, ...] = (
    Topic("mail-topology", "topology", "P and the lane list; workers refuse another one", 1, "compact"),
    Topic(
        "mail-campaigns",
        "campaign",
        "campaigns as their owners publish them",
        1,
        "compact",
        "in",
        "mail-campaigns-dlq",
    ),
    *_twins("mail-sends", "send", "one recipient of a campaign", "in", "mail-sends-dlq"),
    *_twins("mail-enqueued", "accepted", "well-formed sends, keyed by recipient"),
    *_twins("mail-screened", "accepted", "sends that may go out"),
    *_twins("mail-rendered", "mail", "MIME, not yet signed"),
    *(
        topic
        for lane in lane_names()
        for topic in _twins(lane_topic(lane), "mail", f"signed mail for lane {lane}")
    ),
    *(
        Topic(f"mail-wait-{rung}", "mail", f"the wait ladder, rung {rung}", append_time=True)
        for rung in RUNGS
    ),
    Topic("mail-outcomes", "outcome", "the journal of gate two"),
    Topic("mail-screen-log", "gate", "changelog of gate one", kept="compact"),
    Topic(
        "mail-lane-policy",
        "lane_policy",
        "limits, leases, decisions, holds and commands of operators",
        1,
        "compact",
    ),
    Topic("mail-lane-reports", "lane_report", "one sum a second per worker, lane and source", 1),
    Topic(
        "mail-inbound", "inbound", "raw DSNs, reports and replies from the SMTP edge", dlq="mail-inbound-dlq"
    ),
    Topic("mail-engagement", "engagement", "opens, clicks, unsubscribes from the HTTP edge"),
    Topic("mail-events", "event", "the public stream", kept="events", outside="out"),
    Topic("mail-suppressions", "suppression", "who must not get mail", kept="compact", outside="out"),
    Topic("mail-consents", "consent", "who agreed to what", kept="compact", outside="out"),
    Topic("mail-contacts", "contact", "engagement per contact", kept="compact", outside="out"),
    Topic("mail-campaigns-dlq", "", "campaigns that could not be read, as they came", 1, "events", "out"),
    Topic("mail-sends-dlq", "", "sends that could not be read, as they came", 1, "events", "out"),
    Topic("mail-inbound-dlq", "", "inbound mail that could not be read", 1, "events", "out"),
    Topic("mail-dlq", "", "flow records that no stage could work on", 1, "events", "out"),
)

BY_NAME = {topic.name: topic for topic in TOPICS}

"""What a worker did on a lane in the last second: ``mail-lane-reports`` (1 partition)."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.codec import event

MOST_FROMS = 50
"""From addresses of which one report tells: more take turns."""
MOST_CAMPAIGNS = 1000
"""Campaigns in one report: those beyond it are not counted in that second."""

MOST_LISTS = 20


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Replies of one kind in the report's second: their class and action, how many, one sample.

    ``open`` 0 or more: these refused a connection in its greeting and are no attempt's; so many others of
    the worker's were open, the fewest. ``carried``: messages that the connection of such a reply had
    carried before, the fewest; 0 none, or not known.
    """

    klass: str
    action: str
    scope: str = ""
    rule: str = ""
    count: int = 1
    sample: str = ""
    domain: str = ""
    open: int = -1
    carried: int = 0


class Used(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker has started of a limit that is counted, or unknown: ``total`` since it came up, ``fresh`` since it told last.

    ``over_all``: the limit is the one over all providers. Leases that answered reports up to number
    ``over`` are over: nothing more is started under them. ``from``: of the From address ``name``, in one
    report of a second alone, with how many of its mails are ``waiting``.
    """

    kind: Literal["source", "dkim", "from"]
    name: str = ""
    over_all: bool = False
    total: int
    fresh: int = 0
    over: int = 0
    waiting: int = 0


class CampaignCount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a marketing campaign's mail: ``attempts`` and how they ended (delivery reports), or
    ``complaints`` and ``late_bounces`` that came back (feedback reports)."""

    campaign: str
    tenant: str = "default"
    attempts: int = 0
    delivered: int = 0
    deferred: int = 0
    bounced: int = 0
    complaints: int = 0
    late_bounces: int = 0


@event("lane_report", 1)
class LaneReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sums of one worker incarnation, lane, source and DKIM domain; ``number`` counts its reports up.

    ``kind`` ``delivery`` comes from deliver, ``feedback`` (complaints, late bounces, engagement) from
    classify. ``seconds`` that the sums cover; ``waiting``: records in buffers plus lag; ``connections``
    open now; ``busy``: how often all that were allowed were busy while a mail could have gone; ``partitions`` owned; ``domains`` recipient domains attempted. ``time`` is in Unix seconds.
    A worker with mail waiting reports every second, sums of zero too: the answer is its lease.
    ``used``: messages started, by the limits that the report falls under. ``traps``: spam traps that mail
    reached; ``listed``: block lists that have the source or domain, by our own check (feedback), and ``lists``
    their names, at most MOST_LISTS.
    ``campaigns``: the same sums by marketing campaign, at most MOST_CAMPAIGNS.
    """

    worker: str
    number: int
    provider: str
    source: str
    dkim: str = ""
    kind: Literal["delivery", "feedback"] = "delivery"
    time: float = 0.0
    seconds: float = 1.0
    attempts: int = 0
    delivered: int = 0
    deferred: int = 0
    bounced: int = 0
    unknown: int = 0
    complaints: int = 0
    late_bounces: int = 0
    opens: int = 0
    clicks: int = 0
    waiting: int = 0
    connections: int = 0
    busy: int = 0
    partitions: int = 0
    domains: int = 0
    replies: tuple[Reply, ...] = ()
    used: tuple[Used, ...] = ()
    traps: int = 0
    listed: int = 0
    lists: tuple[str, ...] = ()
    campaigns: tuple[CampaignCount, ...] = ()

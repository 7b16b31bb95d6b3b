"""Counts for the metrics that cost a record as good as nothing: dicts on the way, metrics once a second."""

from __future__ import annotations

import typing
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from agents import Out
from agents.deliver.policy import ASIDE
from agents.screen.rules import REASONS as SCREEN_REASONS
from agents.suppress.consent import TOLD
from schemas.event import Kind
from schemas.lane_policy import ALL, LanePolicy
from schemas.lanes import LANES, SUFFIXES
from schemas.suppression import Suppression
from streams import metrics

PROVIDERS = frozenset(provider for _, provider in SUFFIXES)
OTHER = "other"
"""Label of everybody else: there are as many MX sites as there are companies, and a label must be bounded."""


def provider_label(name: str) -> str:
    """A known provider's name, or ``other``."""
    return name if name in PROVIDERS else OTHER


# --- what a stage writes


class _Kind(msgspec.Struct):
    kind: str


class _Reason(msgspec.Struct):
    reason: str
    active: bool = True


_kind = msgspec.json.Decoder(_Kind)
_reason = msgspec.json.Decoder(_Reason)
_REASONS = typing.get_args(typing.get_type_hints(Suppression)["reason"])


class Written:
    """What one stage of this process has written, by topic; events by kind, suppressions by reason.

    A counter that begins at its first event hides that event from ``increase()``: what can be named
    beforehand begins at 0.
    """

    def __init__(self, stage: str, emits: Iterable[str]) -> None:
        self._stage = stage
        self._topics: dict[str, int] = {}
        self._events: dict[str, int] = {}
        self._suppressions: dict[str, int] = {}
        for counter in (metrics.BUGS, metrics.RETRIES, metrics.REBALANCES):
            counter.labels(stage)
        metrics.DEAD_LETTERS.labels(stage, "bug")
        for result in ("ok", "failed", "fenced"):
            metrics.COMMITS.labels(stage, result)
        for topic in emits:
            metrics.RECORDS_OUT.labels(stage, topic)
        if "mail-outcomes" in emits:
            metrics.REPEATS.labels("two")
            for why in ASIDE:
                metrics.ASIDE.labels(why)
            for provider in ("", *LANES):
                metrics.UNCLASSIFIED.labels(provider)
        if "mail-events" in emits:
            for kind in typing.get_args(Kind):
                metrics.EVENTS.labels(kind)
        if stage == "classify":
            for whose in ("address", "campaign"):
                metrics.BOUNCE_FLOODS.labels(whose)
        if stage == "screen":
            for reason in SCREEN_REASONS:
                for action in ("stop", "warn"):
                    metrics.SCREEN_RULES.labels(reason, action)
        if stage in ("screen", "deliver", "suppress"):
            metrics.ERASED_UNKNOWN.labels(stage)
        if stage == "suppress":
            for told in TOLD:
                metrics.SUBSCRIPTIONS.labels(told)
        if "mail-suppressions" in emits:
            for reason in _REASONS:
                metrics.SUPPRESSIONS.labels(reason)

    def add(self, out: Out) -> None:
        """Count one record."""
        topic = out.topic
        self._topics[topic] = self._topics.get(topic, 0) + 1
        with suppress(msgspec.MsgspecError):  # a count is no reason to lose a record
            if topic == "mail-events" and out.value:
                named = out.headers.get("kind")
                kind = named.decode() if named is not None else _kind.decode(out.value).kind
                self._events[kind] = self._events.get(kind, 0) + 1
            elif topic == "mail-suppressions" and out.value:
                row = _reason.decode(out.value)
                if row.active:
                    self._suppressions[row.reason] = self._suppressions.get(row.reason, 0) + 1

    def flush(self) -> None:
        """Hand the counts over to the metrics."""
        for topic, count in self._topics.items():
            metrics.RECORDS_OUT.labels(self._stage, topic).inc(count)
        for kind, count in self._events.items():
            metrics.EVENTS.labels(kind).inc(count)
        for reason, count in self._suppressions.items():
            metrics.SUPPRESSIONS.labels(reason).inc(count)
        self._topics.clear()
        self._events.clear()
        self._suppressions.clear()


# --- lanes


class _Feed(Protocol):
    key: str

    def __len__(self) -> int: ...


class _Feeds(Protocol):
    @property
    def feeds(self) -> Mapping[str, Any]: ...

    def rate(self, feed: Any, source: str, dkim: str) -> Any: ...


def source_gauges(unwell: Mapping[str, float], sources: Sequence[str], now: float) -> None:
    """Which sources could not be used; ``unwell``: until when they are left alone."""
    for source in sources:
        metrics.SOURCE_UNWELL.labels(source or "default").set(unwell.get(source, 0.0) > now)


def lane_gauges(feeds: _Feeds, count: Callable[[Hashable], int], sources: Sequence[str]) -> None:
    """Set what deliver's lanes look like now: call it once a second.

    ``count((source, feed key))``: open connections (``Pool.count``). Sites without a provider are summed
    up as ``other``; one that has neither mail nor connections counts for nothing.
    """
    waiting: Counter[str] = Counter()
    connections: Counter[tuple[str, str]] = Counter()
    rates: defaultdict[tuple[str, str], float] = defaultdict(float)
    for key, feed in feeds.feeds.items():
        provider, length = provider_label(key), len(feed)
        waiting[provider] += length
        for source in tuple(sources) or ("",):
            label, opened = (provider, source or "default"), count((source, key))
            connections[label] += opened
            if length or opened or provider != OTHER:
                rates[label] += feeds.rate(feed, source, "").rate
    for provider, length in waiting.items():
        metrics.WAITING.labels(provider).set(length)
    for label, opened in connections.items():
        metrics.CONNECTIONS.labels(*label).set(opened)
        metrics.LANE_RATE.labels(*label).set(rates.get(label, 0.0))


def limit_gauges(published: Collection[LanePolicy]) -> None:
    """Set what shape allows, from the policies in force: limits of sites without a provider are summed."""
    limits: defaultdict[tuple[str, str], float] = defaultdict(float)
    until: defaultdict[tuple[str, str], float] = defaultdict(float)
    for policy in published:
        if policy.kind == "source" and policy.provider != ALL:
            label = (provider_label(policy.provider), policy.name)
            limits[label] += policy.rate
            until[label] = max(until[label], policy.suspended_until)
    metrics.STREAM_STOPPED.clear()
    for policy in published:
        if policy.provider == ALL and policy.suspended_until:
            metrics.STREAM_STOPPED.labels(policy.kind, policy.name).set(policy.suspended_until)
    for label, limit in limits.items():
        metrics.LANE_LIMIT.labels(*label).set(limit)
        metrics.LANE_SUSPENDED.labels(*label).set(until[label])


def forget_limits() -> None:
    """Another process leads shape now: what this one knew is no longer true."""
    metrics.LANE_LIMIT.clear()
    metrics.LANE_SUSPENDED.clear()
    metrics.STREAM_STOPPED.clear()
    metrics.LISTED.clear()
    metrics.LISTS_DEAD.set(0)


def listed_gauges(found: Mapping[str, Sequence[str]], dead: int) -> None:
    """What the block lists said in the last round, and how many of them are not believed."""
    metrics.LISTED.clear()
    for name, lists in found.items():
        for zone in lists:
            metrics.LISTED.labels(zone, name).set(1)
    metrics.LISTS_DEAD.set(dead)


def begin_campaigns() -> None:
    """Decisions about campaigns are counted from 0."""
    for gate in ("bounces", "complaints", "deferrals", "passed"):
        metrics.CAMPAIGN_GATES.labels(gate)

"""One sum a second per provider, source and DKIM domain: what shape needs, at no cost per message."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from typing import TYPE_CHECKING

from agents import Out
from agents.deliver.allowance import Allowance
from agents.deliver.job import Mail
from agents.deliver.pool import Pool
from schemas.codec import encode
from schemas.lane_report import MOST_CAMPAIGNS, MOST_FROMS, CampaignCount, LaneReport, Reply, Used
from schemas.lanes import LANES
from schemas.outcome import Outcome
from schemas.reply import Meaning

if TYPE_CHECKING:
    from agents.deliver.feed import Feed

HEADERS = {"type": b"lane_report", "version": b"1"}
Key = tuple[str, str, str]
"""Provider (or MX site), source, DKIM domain."""
MAX_REPLIES = 20
QUIET = 10.0
"""Seconds for which a lane without work goes on reporting, so that its lease is kept a while."""
MOST_SITES = 300
"""Reports a second of sites without a lane of their own where nothing was tried. A list of companies has thousands of
sites: each of them from each source, each second, was more than control takes; what has no lease goes at the floor."""


Kind = tuple[str, str, str, str, bool]
"""Class, action, scope and rule of a reply, and whether it refused a connection in its greeting."""


class _Sum:
    __slots__ = ("campaigns", "domains", "least", "replies", "samples", "states")

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.replies: Counter[Kind] = Counter()
        self.samples: dict[Kind, tuple[str, str]] = {}
        self.least: dict[Kind, int] = {}
        """Connections open beside the refused one, or messages that the connection had carried."""
        self.domains: set[str] = set()
        self.campaigns: dict[tuple[str, str], Counter[str]] = {}
        """By tenant and campaign: how attempts ended, of marketing mail."""

    def add(self, meaning: Outcome | Meaning, reply: str, domain: str, least: int, greeting: bool) -> None:
        kind = (meaning.klass, meaning.action, meaning.scope, meaning.rule, greeting)
        self.replies[kind] += 1
        self.samples.setdefault(kind, (reply[:300], domain))
        self.least[kind] = min(least, self.least.get(kind, least))


class Reports:
    """Counts outcomes and publishes them."""

    def __init__(
        self,
        allowance: Allowance,
        sources: Callable[[], Sequence[str]],
        publish: Callable[..., None],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._sources = sources
        self._allowance, self._publish, self._clock, self._monotonic = allowance, publish, clock, monotonic
        self._sums: dict[Key, _Sum] = {}
        self._seen: dict[Key, float] = {}
        """When each had work last, and"""
        self._last: dict[Key, float] = {}
        """when it was told last."""
        self._froms: dict[tuple[str, str], tuple[float, float]] = {}
        """By DKIM domain and From address: when it had work, and when it was told last."""
        self._number = 0

    def count(self, outcome: Outcome, mail: Mail) -> None:
        """Add an attempt's outcome. Outcomes without an attempt (expired, suppressed ...) do not count."""
        if not mail.source or outcome.state not in ("delivered", "bounced", "deferred", "unknown"):
            return
        found = self._sum((mail.feed.key if mail.feed is not None else mail.provider, mail.source, mail.dkim))
        name = self._allowance.by_from(mail.dkim, mail.author)
        if name:
            self._work(mail.dkim, name, self._monotonic())
        found.states[outcome.state] += 1
        found.domains.add(mail.domain)
        if mail.stream == "marketing":
            whose = (mail.tenant, mail.campaign)
            counts = found.campaigns.get(whose)
            if counts is None:
                counts = found.campaigns[whose] = Counter()
            counts[outcome.state] += 1
        if outcome.state != "delivered":
            before = max(0, mail.session.carried - 1) if mail.session else 0
            found.add(outcome, outcome.reply, mail.domain, before, False)

    def note(self, mail: Mail, source: str, meaning: Meaning, reply: str, beside: int) -> None:
        """Add a reply that is no attempt's: a connection refused in its greeting, ``beside`` so many open."""
        found = self._sum((mail.feed.key if mail.feed is not None else mail.provider, source, mail.dkim))
        found.add(meaning, reply, mail.domain, beside, True)

    def _sum(self, key: Key) -> _Sum:
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = _Sum()
        return found

    def send(self, mails: Iterable[Mail], partitions: int, pool: Pool) -> None:
        """Publish the second's reports: every lane with work or within ``QUIET`` seconds of it."""
        now = self._monotonic()
        waits: Counter[tuple[Feed, str]] = Counter()
        full: set[Feed] = set()
        froms: Counter[tuple[str, str]] = Counter()
        for mail in mails:
            feed = mail.feed
            if feed is None:
                continue
            if feed.busy:
                full.add(feed)
            if mail.stage == "waiting":
                waits[feed, mail.dkim] += 1
                name = self._allowance.by_from(mail.dkim, mail.author)
                if name:
                    froms[(mail.dkim, name)] += 1
        waiting, busy = self._by_key(waits, full)
        for dkim, name in froms:
            self._work(dkim, name, now)
        for key in (*waiting, *self._sums):
            self._seen[key] = now
        keys = self._due(now)
        authors = self._told(froms, {key[2] for key in keys}, now)
        for key in keys:
            self._number += 1
            self._allowance.sent(self._number, now)
            used = self._allowance.used(*key, now) + authors.pop(key[2], ())
            found = self._sums.pop(key) if key in self._sums else _Sum()
            seconds = min(QUIET, max(1.0, now - self._last.get(key, now)))
            self._last[key] = now
            self._publish(self._report(key, found, waiting[key], busy[key], partitions, pool, used, seconds))

    def _due(self, now: float) -> list[Key]:
        """What is told now: named lanes, and every attempt; of the sites where mail only waits, or that are quiet,
        those first that were told longest ago."""
        self._seen = {key: seen for key, seen in self._seen.items() if now - seen <= QUIET}
        if len(self._last) > 2 * len(self._seen) + MOST_SITES:
            self._last = {key: told for key, told in self._last.items() if key in self._seen}
        due = [key for key in self._seen if key[0] in LANES or key in self._sums]
        if len(due) < len(self._seen):
            sites = [key for key in self._seen if not (key[0] in LANES or key in self._sums)]
            if len(sites) > MOST_SITES:
                sites = nsmallest(MOST_SITES, sites, key=lambda key: self._last.get(key, -math.inf))
            due += sites
        return due

    def _by_key(self, waits: Counter[tuple[Feed, str]], full: set[Feed]) -> tuple[Counter[Key], Counter[Key]]:
        """(mails that wait: they may go from any of the sources; times that all connections were busy). There are
        thousands of mails, and few feeds."""
        waiting: Counter[Key] = Counter()
        busy: Counter[Key] = Counter()
        sources = self._sources()
        for (feed, dkim), count in waits.items():
            for source in sources:
                waiting[(feed.key, source, dkim)] = count
        for feed in full:
            for (source, dkim), count in feed.busy.items():
                busy[(feed.key, source, dkim)] = count
            feed.busy.clear()
        return waiting, busy

    def _work(self, dkim: str, name: str, now: float) -> None:
        self._froms[(dkim, name)] = (now, self._froms.get((dkim, name), (0.0, 0.0))[1])

    def _told(
        self, waiting: Counter[tuple[str, str]], dkims: set[str], now: float
    ) -> dict[str, tuple[Used, ...]]:
        """By DKIM domain (one of ``dkims``): what one report tells of its From addresses, those first that were told
        longest ago."""
        if not self._froms:
            return {}
        self._froms = {key: (seen, told) for key, (seen, told) in self._froms.items() if now - seen <= QUIET}
        found: dict[str, dict[str, int]] = {}
        for key, (seen, _) in sorted(self._froms.items(), key=lambda item: item[1][1]):
            if key[0] not in dkims:
                continue
            mine = found.setdefault(key[0], {})
            if len(mine) < MOST_FROMS:
                mine[key[1]] = waiting[key]
                self._froms[key] = (seen, now)
        return {dkim: self._allowance.used_by_from(mine, now) for dkim, mine in found.items()}

    def _report(
        self,
        key: Key,
        found: _Sum,
        waiting: int,
        busy: int,
        partitions: int,
        pool: Pool,
        used: tuple[Used, ...],
        seconds: float,
    ) -> Out:
        provider, source, dkim = key
        states = found.states
        report = LaneReport(
            worker=self._allowance.worker,
            number=self._number,
            provider=provider,
            source=source,
            dkim=dkim,
            time=round(self._clock(), 3),
            seconds=round(seconds, 3),
            attempts=sum(states.values()),
            delivered=states["delivered"],
            deferred=states["deferred"],
            bounced=states["bounced"],
            unknown=states["unknown"],
            waiting=waiting,
            connections=pool.count(("" if source == "default" else source, provider)),
            busy=busy,
            partitions=partitions,
            domains=len(found.domains),
            used=used,
            replies=tuple(
                Reply(
                    klass=kind[0],
                    action=kind[1],
                    scope=kind[2],
                    rule=kind[3],
                    count=count,
                    sample=found.samples[kind][0],
                    domain=found.samples[kind][1],
                    open=found.least[kind] if kind[4] else -1,
                    carried=0 if kind[4] else found.least[kind],
                )
                for kind, count in found.replies.most_common(MAX_REPLIES)
            ),
            campaigns=tuple(
                CampaignCount(
                    tenant=tenant,
                    campaign=campaign,
                    attempts=sum(counts.values()),
                    delivered=counts["delivered"],
                    deferred=counts["deferred"],
                    bounced=counts["bounced"],
                )
                for (tenant, campaign), counts in list(found.campaigns.items())[:MOST_CAMPAIGNS]
            ),
        )
        return Out("mail-lane-reports", encode(report), HEADERS, None, 0)

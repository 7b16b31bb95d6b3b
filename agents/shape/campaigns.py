"""When a campaign has to stop: too many of its mails bounce, or are complained about; and when its canary
lets the rest go. Pure.

Counted from the sums in lane reports, marketing mail alone, since the campaign's first mail or since an
operator resumed it. What is counted here is written down every few seconds: after a change of leaders a
report or two may count twice, or some seconds be missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from agents.shape.figures import Feedback
from agents.shape.turns import Turns
from schemas.campaign import Campaign
from schemas.campaign_gate import CampaignGate
from schemas.lane_report import CampaignCount, LaneReport

MOST = 10_000_000
MOST_CAMPAIGNS = 100_000
"""Campaigns that are kept in mind; beyond, the one unheard of for the longest is forgotten."""
WRITE = 5.0
"""Seconds between two records of one campaign's counts."""
AGAIN = 10.0
"""Seconds after which a pause that nobody saw is published again."""
ALL_OF_THEM = 60.0
"""Seconds within which every campaign that is kept is looked at, some of them each time: 100,000 at once took half a
second. Those that time or somebody's command decides about, or of which there are new counts, are looked at always."""
FORGET = 30 * 86400.0
"""Seconds after its last mail or complaint at which a campaign is forgotten."""
COUNTS = tuple(name for name in CampaignCount.__struct_fields__ if name not in ("campaign", "tenant"))


class Change(NamedTuple):
    """What to publish: the campaign as it is from now on, which gate decided, and why."""

    campaign: Campaign
    gate: str
    reason: str


@dataclass(slots=True)
class Campaigns:
    """All campaigns of which there are counts. ``settings``: by default; ``tenants``: by tenant."""

    settings: Feedback = field(default_factory=Feedback)
    tenants: Mapping[str, Feedback] = field(default_factory=dict)
    kept: dict[str, CampaignGate] = field(default_factory=dict)
    """By tenant/id; the one unheard of for the longest first."""
    _written: dict[str, float] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)
    _watched: set[str] = field(default_factory=set)
    _turns: Turns[str] = field(default_factory=Turns)
    _looked: float = float("-inf")
    _swept: float = float("-inf")

    def remember(self, gate: CampaignGate) -> None:
        """Take in what the last leader wrote."""
        if all(0 <= getattr(gate, name) <= 2**53 for name in COUNTS):
            self.kept[gate.name] = gate
            self._watched.add(gate.name)

    def add(self, report: LaneReport, now: float) -> None:
        """Count a report. A count that cannot be is left out."""
        for count in report.campaigns:
            if all(0 <= getattr(count, name) <= MOST for name in COUNTS) and _plausible(count):
                self._add(count, now)

    def _add(self, count: CampaignCount, now: float) -> None:
        name = f"{count.tenant}/{count.campaign}"
        old = self.kept.pop(name, None)  # it goes to the end
        if old is None:
            if len(self.kept) >= MOST_CAMPAIGNS:
                self._forget(next(iter(self.kept)))
            old = CampaignGate(campaign=count.campaign, tenant=count.tenant, since=now, time=now)
        self.kept[name] = replace(
            old,
            time=now,
            **{name: getattr(old, name) + getattr(count, name) for name in COUNTS},
        )
        self._changed.add(name)
        self._watched.add(name)

    def due(self, campaigns: Mapping[str, Campaign], now: float) -> list[Change]:
        """What follows from the counts; call it once a second. The records of it come before the changes."""
        found = []
        self._take_turns(now)
        for name in sorted(self._watched):
            gate, campaign = self.kept[name], campaigns.get(name)
            if campaign is None:
                if now - gate.time > AGAIN:  # else its record may be on its way to us
                    self._watched.discard(name)
                continue
            gate, change = self._look(gate, campaign, now)
            if gate is not self.kept[name]:
                self.kept[name] = gate
                self._changed.add(name)
                self._written.pop(name, None)
            if change is not None:
                found.append(change)
            if not (gate.state or campaign.rest_waits):
                self._watched.discard(name)
        return found

    def _take_turns(self, now: float) -> None:
        """Have the next ones looked at: as many as go with the time since the last ones."""
        share, self._looked = (now - self._looked) / ALL_OF_THEM, now
        if share >= 1:
            self._watched.update(self.kept)
            self._turns = Turns()
        elif share > 0 and self.kept:
            turn = self._turns.next(self.kept, math.ceil(len(self.kept) * share))
            self._watched.update(name for name in turn if name in self.kept)

    def _look(self, gate: CampaignGate, campaign: Campaign, now: float) -> tuple[CampaignGate, Change | None]:
        if gate.state == "pausing":
            if campaign.state != "active":
                return replace(gate, state="paused"), None
            if now - gate.decided < AGAIN:
                return gate, None
            return replace(gate, decided=now), Change(_stopped(campaign), "", gate.reason)
        if gate.state == "paused":
            if campaign.state != "active":
                return gate, None
            # An operator resumed it: what was counted before has had its consequence.
            gate = CampaignGate(campaign=gate.campaign, tenant=gate.tenant, since=now, time=now)
            return gate, None
        if campaign.state != "active" or campaign.stream != "marketing":
            return gate, None
        rules = self.tenants.get(gate.tenant, self.settings)
        canary = campaign.canary if campaign.rest_waits else None
        for what, reason in _over(gate, campaign, rules):
            gate = replace(gate, state="pausing", gate=what, reason=reason, decided=now)
            return gate, Change(_stopped(campaign), what, reason)
        if canary and now >= gate.since + canary.minutes * 60 and gate.ended >= canary.minimum:
            if gate.gate == "passed" and now - gate.decided < AGAIN:
                return gate, None
            reason = f"the canary proved good: {_told(gate)}"
            gate = replace(gate, gate="passed", reason=reason, decided=now)
            return gate, Change(replace(campaign, canary=replace(canary, state="passed")), "passed", reason)
        return gate, None

    def records(self, now: float) -> tuple[list[CampaignGate], list[bytes]]:
        """(counts to write down, keys to delete)."""
        found = []
        for name in list(self._changed):
            gate = self.kept.get(name)
            if gate is None:
                self._changed.discard(name)
            elif now - self._written.get(name, float("-inf")) >= WRITE:
                self._written[name] = now
                self._changed.discard(name)
                found.append(gate)
        drops: list[bytes] = []
        if not found or now - self._swept < ALL_OF_THEM:
            return found, drops
        self._swept = now
        for name, gate in list(self.kept.items()):
            if now - gate.time > FORGET:
                drops.append(gate.key)
                self._forget(name)
        return found, drops

    def waiting(self, campaigns: Mapping[str, Campaign], now: float) -> float:
        """Seconds for which the oldest canary waits beyond its minutes: too few ended, somebody has to look."""
        late = [
            now - gate.since - campaign.canary.minutes * 60
            for name in self._watched
            if (gate := self.kept[name])
            and (campaign := campaigns.get(name)) is not None
            and campaign.canary is not None
            and campaign.rest_waits
            and campaign.state == "active"
        ]
        return max(0.0, max(late, default=0.0))

    def _forget(self, name: str) -> None:
        self.kept.pop(name, None)
        self._written.pop(name, None)
        self._changed.discard(name)
        self._watched.discard(name)


def _over(gate: CampaignGate, campaign: Campaign, rules: Feedback) -> Iterable[tuple[str, str]]:
    """Gates that the counts do not pass: (which, why)."""
    canary = campaign.canary if campaign.rest_waits else None
    least = min(canary.minimum, rules.minimum) if canary else rules.minimum
    if gate.ended < least:
        return
    bounces = min(canary.bounces, rules.bounces) if canary else rules.bounces
    complaints = min(canary.complaints, rules.complaints) if canary else rules.complaints
    whose = "the canary: " if canary else ""
    bounced = gate.bounced + gate.late_bounces
    if bounced >= bounces * gate.ended:
        yield "bounces", f"{whose}{bounced} of {gate.ended} bounced, the limit is {bounces:.2%}"
    if gate.complaints and gate.complaints >= complaints * max(1, gate.delivered):
        yield (
            "complaints",
            f"{whose}{gate.complaints} complaints of {gate.delivered} delivered, the limit is {complaints:.2%}",
        )
    if canary and gate.deferred and gate.deferred >= canary.deferrals * gate.attempts:
        yield (
            "deferrals",
            f"{whose}{gate.deferred} of {gate.attempts} attempts deferred, the limit is {canary.deferrals:.2%}",
        )


def _told(gate: CampaignGate) -> str:
    return (
        f"{gate.delivered} delivered, {gate.bounced + gate.late_bounces} bounced, "
        f"{gate.complaints} complaints, {gate.deferred} of {gate.attempts} attempts deferred"
    )


def _stopped(campaign: Campaign) -> Campaign:
    canary = campaign.canary
    if canary is not None and campaign.rest_waits:
        canary = replace(canary, state="failed")
    return replace(campaign, state="paused", canary=canary)


def _plausible(count: CampaignCount) -> bool:
    return all(0 < len(text) <= 100 and text.isprintable() for text in (count.tenant, count.campaign))

"""Sums of what comes back, per provider, source and DKIM domain: what shape hears of it once a second."""

from __future__ import annotations

from collections import Counter

from schemas.event import MailEvent
from schemas.lane_report import MOST_CAMPAIGNS, CampaignCount, LaneReport, Reply

MOST_REPLIES = 20
"""Kinds of reply in one report."""

_FIELD = {"complained": "complaints", "bounced": "late_bounces", "opened": "opens", "clicked": "clicks"}


class Sums:
    """What happened since the last ``reports``. They are hints: what a crash takes with it is not repeated."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._number = 0
        self._counts: dict[tuple[str, str, str], Counter[str]] = {}
        self._replies: dict[tuple[str, str, str], dict[tuple[str, str, str, str], Reply]] = {}
        self._campaigns: dict[tuple[str, str, str], dict[tuple[str, str], Counter[str]]] = {}

    def add(self, event: MailEvent, site: str = "") -> None:
        """Count an event that came back; machines and what nobody verified do not count. ``site``: the MX site
        of its recipient, which is the lane's name where the provider has none."""
        field = _FIELD.get(event.kind)
        if field is None or event.machine or event.reason in ("unverified", "implausible", "flood"):
            return
        key = (event.provider or site, event.source, event.dkim)
        self._counts.setdefault(key, Counter())[field] += 1
        if event.stream == "marketing" and event.campaign and field in ("complaints", "late_bounces"):
            whose = self._campaigns.setdefault(key, {})
            whose.setdefault((event.tenant, event.campaign), Counter())[field] += 1
        if field == "late_bounces":
            kinds = self._replies.setdefault(key, {})
            kind = (event.klass, event.action, event.scope, event.rule)
            old = kinds.get(kind)
            if old or len(kinds) < MOST_REPLIES:
                domain = event.to.rpartition("@")[2]
                kinds[kind] = Reply(
                    klass=kind[0],
                    action=kind[1],
                    scope=kind[2],
                    rule=kind[3],
                    count=(old.count if old else 0) + 1,
                    sample=old.sample if old else event.reply[:300],
                    domain=old.domain if old else domain,
                )

    def reports(self, now: float) -> list[LaneReport]:
        """One report per provider, source and DKIM domain of which there is news; starts over."""
        found = []
        for key, counts in self._counts.items():
            self._number += 1
            found.append(
                LaneReport(
                    worker=self._worker,
                    number=self._number,
                    provider=key[0],
                    source=key[1],
                    dkim=key[2],
                    kind="feedback",
                    time=round(now, 3),
                    complaints=counts["complaints"],
                    late_bounces=counts["late_bounces"],
                    opens=counts["opens"],
                    clicks=counts["clicks"],
                    replies=tuple(self._replies.get(key, {}).values()),
                    campaigns=tuple(
                        CampaignCount(tenant=tenant, campaign=campaign, **sums)
                        for (tenant, campaign), sums in list(self._campaigns.get(key, {}).items())[
                            :MOST_CAMPAIGNS
                        ]
                    ),
                )
            )
        self._counts.clear()
        self._replies.clear()
        self._campaigns.clear()
        return found

"""What a campaign's feedback is, and what was decided by it: on ``mail-lane-policy`` (compacted)."""

from __future__ import annotations

from typing import Literal

from schemas.codec import event
from schemas.lane_report import CampaignCount


@event("campaign_gate", 1)
class CampaignGate(CampaignCount, frozen=True, kw_only=True, omit_defaults=True):
    """Lane reports' counts of a marketing campaign added up since ``since``: its first mail, or when an operator
    resumed it.

    ``state``: empty while it runs; ``pausing`` from the decision to pause it, ``paused`` once that is seen on
    ``mail-campaigns``. ``gate``: which one decided last: bounces, complaints, deferrals, or ``passed`` (its
    canary); ``reason`` in words, ``decided`` when. Times are Unix seconds.
    """

    state: Literal["", "pausing", "paused"] = ""
    gate: Literal["", "bounces", "complaints", "deferrals", "passed"] = ""
    reason: str = ""
    decided: float = 0.0
    since: float = 0.0
    time: float = 0.0

    @property
    def name(self) -> str:
        """tenant/id, as on ``mail-campaigns``."""
        return f"{self.tenant}/{self.campaign}"

    @property
    def ended(self) -> int:
        """Mails that were delivered or refused for good."""
        return self.delivered + self.bounced

    @property
    def key(self) -> bytes:
        """The key on the compacted topic."""
        return f"campaign|{self.name}".encode()

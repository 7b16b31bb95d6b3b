"""Reads campaigns as they come, only to say what is wrong with them.

Every stage that needs campaigns follows ``mail-campaigns`` by hand and leaves out what it cannot read.
This stage, one reader for all, sends those to ``mail-campaigns-dlq`` with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable

from agents import Out, Reject, Stage, Steps
from schemas.campaign import Campaign
from schemas.codec import Malformed, Record, decode

STAGE = Stage(
    name="campaigns",
    question="Can every worker read this campaign?",
    consumes=("mail-campaigns",),
    emits=(),
    twins=False,
)


class CheckCampaigns(Steps):
    """Decodes, and nothing else."""

    def step(self, record: Record) -> Iterable[Out]:
        """Nothing follows from a good campaign."""
        if not record.value:
            return ()
        try:
            campaign = decode(record, "campaign")
        except Malformed as error:
            raise Reject(error.code, error.detail) from None
        if not isinstance(campaign, Campaign):
            raise Reject("unknown_type", f"{record.topic} takes campaigns, not {type(campaign).__name__}")
        if record.key is not None and record.key != campaign.key:
            raise Reject("wrong_key", f"the key must be tenant/id, here {campaign.key.decode()!r}")
        return ()

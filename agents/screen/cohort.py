"""How engaged a recipient of marketing mail was when it was screened: while a lane's reputation is young, or too many
complain, deliver lets those out first, or alone, who are sure to want it. Pure.

The cohorts are coarse on purpose: what goes along with a mail is one digit, and within one the order is that of
arrival. Sources: warm-up practice in providers.md (weeks 1-2 only who was active in 30 days, never older than 90).
"""

from __future__ import annotations

from agents.screen.rules import DAY, Known
from schemas.cohort import ACTIVE, CLICKED, NEW, OPENED, SILENT

LATELY = 30 * DAY
QUARTER = 90 * DAY


def cohort_of(known: Known, tracked: bool, now: float) -> int:
    """The recipient's cohort at ``now`` (Unix seconds). ``tracked``: whether opens or clicks may be seen at all."""
    if known.last_click and now - known.last_click <= LATELY:
        return CLICKED
    if known.last_open and now - known.last_open <= LATELY:
        return OPENED
    if known.engaged and now - known.engaged <= QUARTER:
        return ACTIVE
    if known.engaged:
        return SILENT
    fresh = not known.first_seen or now - known.first_seen <= LATELY
    return NEW if fresh or not tracked else SILENT

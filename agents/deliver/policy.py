"""What an attempt's end means for the mail: its state, and when it is tried again. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from agents.deliver.row import Row

Verdict = Literal["run", "repeat", "orphan"]
ASIDE = ("warmup", "engaged", "domain", "turn", "campaign", "tenant", "canary", "lane")
"""Why mail steps aside: its turn in a warm-up, a gate on complaints, its domain takes nothing just now, its turn in a
shared lane, somebody's pause, its campaign's canary."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of deliver. Times in seconds."""

    unacked: int = 200
    """Unacknowledged outcomes above which no MAIL starts: bounds what a crash can repeat."""
    unacked_age: float = 1.0
    """Age of the oldest unacknowledged outcome above which no MAIL starts."""
    suppressions_age: float = 2.0
    """No MAIL unless the recipient's suppressions were read to their end this recently."""
    blocked: float = 30.0
    """A started mail that has held the watermark for so long is copied to the ladder, and it passes."""
    patience: float = 10.0
    """In a shared lane, a mail that waits longer for its site's turn steps aside onto the ladder."""
    first_retry: float = 60.0
    """Delay after the first deferral; it grows threefold up to ``last_retry``, with 20 % of jitter."""
    last_retry: float = 21600.0
    """The longest delay between attempts."""
    greylist: float = 300.0
    """Delay after a greylisting that does not say when to come back (the usual time of its programs)."""
    dot: float = 600.0
    """Seconds that a provider may take to answer the final dot (RFC 5321 4.5.3.2.6): a mail whose reply we
    cannot wait for is not tried again before."""
    longest: float = 3000.0
    """Seconds after which an attempt is broken off, though its server still shows signs of life."""
    settle: float = 2.0
    """On a revoke, mails under way get this long to end by themselves."""
    report: float = 1.0
    """Seconds between lane reports."""


def gate(attempt: int, row: Row | None) -> Verdict:
    """Whether attempt ``attempt`` may run: it must be above the journal's, and the mail not ended.

    ``orphan``: an intent was journaled for this very attempt (at-most-once) and no outcome followed.
    """
    if row is None:
        return "run"
    if row.terminal:
        return "repeat"
    if row.state == "intent" and row.attempt == attempt:
        return "orphan"
    return "run" if attempt > row.attempt else "repeat"


def state_of(state: str, permanence: str, at_most_once: bool) -> tuple[str, bool]:
    """(outcome state, final) of an attempt that ended as ``state`` (agents.deliver.attempt).

    The reply's permanence was decided by its rule or its basic code (schemas.reply). A connection that
    died after the dot leaves the mail unknown; only under at-most-once does that end it.
    """
    if state == "accepted":
        return "delivered", True
    if state == "lost":
        return "unknown", at_most_once
    if state == "refused" and permanence != "transient":
        return "bounced", True
    if state == "deferred" and permanence == "permanent":
        return "bounced", True
    return "deferred", False


def retry_delay(attempt: int, settings: Settings, chance: float) -> float:
    """Seconds until the next attempt after attempt ``attempt`` was deferred. ``chance`` in [0, 1)."""
    delay = min(settings.last_retry, settings.first_retry * 3.0 ** min(attempt - 1, 30))
    return float(delay * (0.8 + 0.4 * chance))


_HINT = re.compile(
    r"(?:\bin|after|for|wait|within|retry=)\s{0,3}(?:about |approximately |at least )?"
    r"(?:(\d{1,2}):(\d\d):(\d\d)\b|(?:(\d{1,6})\s?(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)\b)|(\d{2,5})\b(?![.:\d]))",
    re.IGNORECASE,
)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_HINT = 4 * 3600.0
"""Seconds: a hint above it is no greylisting but a wish."""


def come_back(reply: str) -> float | None:
    """Seconds after which a greylisting server says that it will take the mail; None where it does not say.

    ``try again in 300 seconds``, ``come back in 00:05:00``, ``retry in 5 minutes``, ``wait 60s``; a bare
    number is seconds, as greylisting programs mean it."""
    found = _HINT.search(reply[:1000])
    if found is None:
        return None
    hours, minutes, seconds, count, unit, bare = found.groups()
    if hours is not None:
        wait = int(hours) * 3600.0 + int(minutes) * 60.0 + int(seconds)
    elif count is not None:
        wait = int(count) * _UNITS[unit[0].lower()]
    else:
        wait = float(bare)
    return min(wait, LONGEST_HINT) if wait > 0 else None


_NEVER = re.compile(
    r"(?:re-?try(?:ing)?|re-?send(?:ing)?|(?:further|more|repeated) (?:attempts|tries)|trying again) "
    r"(?:this message |it |again )?(?:will|would|can) (?:not|never) (?:succeed|help|work|be accepted)"
    r"|\bwill (?:not|never) succeed\b|permanently deferred"
    r"|do(?:es)? not (?:re-?try|re-?send|try (?:it |this )?again)\b(?!.{0,12} (?:before|until|for|within|so))",
    re.IGNORECASE,
)


def says_never(reply: str) -> bool:
    """Whether a 4xx says in its words that trying again is of no use: then it is believed.

    Yahoo's ``421 4.7.1 [TS03] ... permanently deferred``, ``... Retrying will NOT succeed``.
    """
    return reply[:1] == "4" and _NEVER.search(reply[:1000]) is not None

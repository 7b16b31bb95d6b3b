"""What an attempt's end means for the mail: its state, and when it is tried again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agents.deliver.row import Row

Verdict = Literal["run", "repeat", "orphan"]


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

"""Recipient domains that take nothing just now: their mail waits, the lane does not. Pure.

A reply acts at its own scope. One that speaks of the recipient's domain (its server is out of memory, its
directory does not answer) slows no lane; but where a domain answers so again and again, and takes nothing
meanwhile, each further mail to it is a wasted attempt. So its mail steps aside; one at a time asks whether it is
over, after a minute, then after twice as long each time, an hour at most; the first that is taken ends it.
"""

from __future__ import annotations

from dataclasses import dataclass

STRIKES = 3
"""Deferrals in a row, of mails to the domain, none of which was taken."""
LASTING = 5.0
"""Seconds from the first of them to the last: less may be one moment of several connections."""
FIRST = 60.0
LONGEST = 3600.0
"""Seconds of the first and of the longest pause."""
PROBE = 30.0
"""Seconds for which one mail asks; then the next may."""
MOST = 10_000
"""Domains that are remembered: beyond, the one longest in trouble is forgotten."""


@dataclass(slots=True)
class Trouble:
    """One domain's: ``strikes`` since ``since``; paused until ``until``, the next time for ``pause`` seconds."""

    since: float
    strikes: int = 0
    until: float = 0.0
    pause: float = FIRST
    probe: str = ""


class Domains:
    """Those of one feed. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.troubled: dict[str, Trouble] = {}

    def deferred(self, domain: str, now: float) -> None:
        """The domain deferred a mail for a reason of its own."""
        trouble = self.troubled.get(domain)
        if trouble is None or now - max(trouble.since, trouble.until) > 2 * LONGEST:
            if len(self.troubled) >= MOST:
                del self.troubled[next(iter(self.troubled))]
            trouble = self.troubled[domain] = Trouble(now)
        trouble.strikes += 1
        if trouble.strikes < STRIKES or now - trouble.since < LASTING:
            return
        if now >= trouble.until or trouble.probe:  # else one that had left before the pause began
            trouble.until, trouble.probe = now + trouble.pause, ""
            trouble.pause = min(LONGEST, 2 * trouble.pause)

    def taken(self, domain: str) -> None:
        """The domain took a mail: whatever it was is over."""
        self.troubled.pop(domain, None)

    def wait(self, domain: str, mail: str, now: float) -> float:
        """Seconds for which the ``mail`` (its id) has to stay away; 0: it may go, perhaps to ask."""
        trouble = self.troubled.get(domain)
        if trouble is None or not trouble.until or trouble.probe == mail:
            return 0.0
        if now < trouble.until:
            return trouble.until - now
        trouble.probe, trouble.until = mail, now + PROBE
        return 0.0

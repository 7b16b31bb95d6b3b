"""The time of day for agents: a clock of the machine that is set by hours must not end anybody's mail.

Leases, ownership, pacing and time-outs go by the monotonic clock. What needs the time of day (expiry, the
wait ladder, suspensions, rows that end) goes by this one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("mailsluice.clock")
TOLERANCE = 5.0
"""Seconds that the machine's clock may be set at once without a word: what time servers do."""
HOLD = 900.0
"""Seconds for which a jump is not believed: time for whoever set the clock wrongly to set it right."""


def _boot() -> float:
    """Seconds that run on while the machine sleeps, where it can tell them."""
    found = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if found is None else time.clock_gettime(found)


class SteadyClock:
    """Unix seconds. Call it: it follows the machine's clock, but a jump only after it has lasted ``HOLD``.

    Both the jump and its acceptance are told at ERROR. A process that starts takes the clock as it is.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _boot) -> None:
        self._wall, self._steady = wall, steady
        self._ahead = wall() - steady()
        """Our time minus the steady one."""
        self._jump = 0.0
        self._since = 0.0

    def __call__(self) -> float:
        wall, steady = self._wall(), self._steady()
        off = wall - steady - self._ahead
        if abs(off) <= TOLERANCE:
            if self._jump:
                log.error("the machine's clock is right again; it was off by %+.0f s", self._jump)
                self._jump = 0.0
            self._ahead += off
            return wall
        if abs(off - self._jump) > TOLERANCE:
            self._jump, self._since = off, steady
            log.error(
                "the machine's clock jumped by %+.0f s; for %.0f s this process goes on by its own: set the clock "
                "right, or restart the process to believe it now",
                off,
                HOLD,
            )
        elif steady - self._since >= HOLD:
            log.error("the machine's clock has kept its jump of %+.0f s: it counts from now on", off)
            self._ahead += off
            self._jump = 0.0
            return wall
        return steady + self._ahead

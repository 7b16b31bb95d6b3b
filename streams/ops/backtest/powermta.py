"""PowerMTA's accounting files: CSV (RFC 4180) with a header line; records d, b, t, tq, rb, f and others.

Source: PowerMTA User's Guide, "Accounting records". Which columns there are is configured; the first is
always ``type``. Times are ``2026-03-01 08:00:00+0000`` or Unix seconds.
"""

from __future__ import annotations

import csv

from streams.ops.backtest.row import BadLine, Kind, Row, Whose, address, host, name, seconds

KINDS: dict[str, Kind] = {
    "d": "delivered", "delivery": "delivered", "b": "bounced", "bounce": "bounced", "t": "deferred",
    "transient": "deferred", "tq": "deferred", "transient-queue": "deferred", "rb": "late", "remote-bounce": "late",
    "f": "complaint", "feedback": "complaint", "feedback-loop": "complaint",
}  # fmt: skip
SUPPRESSES = ("bad-mailbox", "bad-domain", "inactive-mailbox")
"""Bounce categories upon which PowerMTA's users take an address off their lists."""
_NEEDED = ("type", "timelogged", "rcpt")


class PowerMta:
    """Reads the lines of one file, beginning with its header."""

    engine = "PowerMTA"

    def __init__(self, header: str, whose: Whose) -> None:
        self._whose = whose
        self._at: dict[str, int] = {}
        self._head(header)

    def _head(self, header: str) -> None:
        names = [field.strip().lower() for field in fields_of(header)]
        missing = [needed for needed in _NEEDED if needed not in names]
        if missing:
            raise BadLine(
                f"its header line has no column {', '.join(missing)}: type, timeLogged, rcpt are needed"
            )
        self._at = {field: at for at, field in reversed(list(enumerate(names)))}

    def row(self, line: str) -> Row | None:
        """The row of a line, None for a record of another kind. Raises BadLine."""
        if line.startswith("type,"):  # files that somebody joined
            self._head(line)
            return None
        found = fields_of(line)
        kind = KINDS.get(found[0].strip())
        if kind is None:
            if not found[0].strip().isalpha():
                raise BadLine(f"it begins with {found[0][:20]!r}, which is no type of record")
            return None
        got = self._got
        if kind == "complaint" and got(found, "feedbacktype") not in ("", "abuse"):
            return None
        if kind == "bounced" and got(found, "bouncecat") == "message-expired":
            return None  # its attempts were told by records of their own
        when = seconds(got(found, "timelogged"))
        source = name(got(found, "vmta") or got(found, "dlvsourceip") or "default", "vmta")
        if found[0].strip() in ("tq", "transient-queue") and "@" not in got(found, "rcpt"):
            # A whole queue was turned away: its name is domain/vmta.
            domain, _, vmta = got(found, "queue").partition("/")
            return self._of_queue(when, domain, name(vmta, "queue") or source, found)
        to = address(got(found, "rcpt"))
        mx = host(got(found, "dsnmta"))
        return Row(
            when, kind, to, source, name(self._whose.of(to, mx), "dsnMta"), self._reply(found),
            "connect" if found[0].strip() in ("tq", "transient-queue") else "", mx, got(found, "bouncecat").strip(),
        )  # fmt: skip

    def _of_queue(self, when: float, domain: str, source: str, found: list[str]) -> Row | None:
        if "." not in domain:
            return None
        mx = host(self._got(found, "dsnmta"))
        provider = name(self._whose.of("@" + domain, mx), "queue")
        return Row(when, "deferred", "", source, provider, self._reply(found), "connect", mx)

    def _reply(self, found: list[str]) -> str:
        """``smtp;550 5.1.1 ...``, else ``5.1.1 (bad destination mailbox address)``."""
        return (self._got(found, "dsndiag") or self._got(found, "dsnstatus"))[:4096]

    def _got(self, found: list[str], field: str) -> str:
        at = self._at.get(field, -1)
        return found[at] if 0 <= at < len(found) else ""


def fields_of(line: str) -> list[str]:
    """The fields of a CSV line. Raises BadLine."""
    if '"' not in line:
        return line.rstrip("\r\n").split(",")
    try:
        return next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration) as error:
        raise BadLine(f"it is no CSV: {error or 'empty'}") from None

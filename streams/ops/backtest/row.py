"""One line of a log of deliveries, whoever wrote it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple

from schemas.lanes import provider_of, site_of

Kind = Literal["delivered", "deferred", "bounced", "late", "complaint"]
"""``late``: a bounce that came by mail; ``complaint``: a feedback report. Neither is an attempt."""
LATEST = 253402300799.0
"""Unix seconds: the last year with four digits."""


class BadLine(ValueError):
    """A line that cannot be used; the message says why, without the recipient."""


class Row(NamedTuple):
    """``time`` Unix seconds. ``provider``: as shape knows it, a name of schemas.lanes or an MX site.

    ``category``: what the engine that wrote the log made of the reply, in its own words; empty: nothing.
    """

    time: float
    kind: Kind
    to: str
    source: str
    provider: str
    reply: str = ""
    phase: str = ""
    mx: str = ""
    category: str = ""


def seconds(text: str) -> float:
    """Unix seconds of a log's time: a number, RFC 3339, or ``2026-03-01 08:00:00+0000``; without a zone UTC.

    Raises BadLine.
    """
    return _seconds(text)


@lru_cache(maxsize=1024)
def _seconds(text: str) -> float:
    try:
        found = float(text) if text.replace(".", "", 1).isdigit() else _parsed(text)
    except (ValueError, OverflowError):
        raise BadLine(f"{text[:40]!r} is no time") from None
    if not 0 < found <= LATEST:
        raise BadLine(f"{text[:40]!r} is no time")
    return found


def _parsed(text: str) -> float:
    found = datetime.fromisoformat(text.strip())
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def name(text: str, what: str) -> str:
    """A source's or site's name as reports may carry it. Raises BadLine."""
    found = text.strip().replace("|", "/")
    if len(found) > 255 or not found.isprintable():
        raise BadLine(f"{what} is {found[:40]!r}, which is no name")
    return found


def host(text: str) -> str:
    """A mail host from ``mx1.example.org. (192.0.2.1)`` or the like; empty where it is none."""
    found = text.split("(", 1)[0].split(" ", 1)[0].strip().rstrip(".").lower()
    return found if len(found) <= 253 and found.isprintable() and "." in found and "|" not in found else ""


DOMAINS = {
    "gmail.com": "google", "googlemail.com": "google", "yahoo.com": "yahoo", "ymail.com": "yahoo", "aol.com": "yahoo",
    "outlook.com": "outlook", "hotmail.com": "outlook", "live.com": "outlook", "msn.com": "outlook", "icloud.com": "apple",
    "me.com": "apple", "mac.com": "apple", "orange.fr": "orange", "wanadoo.fr": "orange", "gmx.de": "gmx", "gmx.net": "gmx",
    "web.de": "gmx", "comcast.net": "comcast", "laposte.net": "laposte", "free.fr": "free", "sfr.fr": "sfr",
    "t-online.de": "tonline", "qq.com": "qq", "163.com": "netease", "126.com": "netease", "mail.ru": "mailru",
}  # fmt: skip
"""Consumer domains whose mail hosts nobody need be told."""


class Whose:
    """Which provider's a recipient is: by the mail host, else as other rows of the domain said.

    Logs leave the host out where no connection came about. At most ``most`` domains are remembered.
    """

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._learnt: dict[str, str] = {}

    def of(self, to: str, mx: str) -> str:
        """The provider or site of a recipient whose mail host was ``mx`` (empty: not told)."""
        domain = to.rpartition("@")[2].lower()
        if not mx:
            return self._learnt.get(domain) or DOMAINS.get(domain) or domain
        found = _of_host(mx)
        if domain not in self._learnt:
            if len(self._learnt) >= self._most:
                self._learnt.clear()
            self._learnt[domain] = found
        return found


@lru_cache(maxsize=65536)
def _of_host(mx: str) -> str:
    return provider_of([mx]) or site_of([mx])


def address(text: str) -> str:
    """A recipient in the spelling that identifies them. Raises BadLine where it is none."""
    found = text.strip().strip("<>").lower()
    local, at, domain = found.rpartition("@")
    if not (at and local and domain) or len(found) > 320 or not found.isprintable() or "|" in domain:
        raise BadLine("the recipient is no address")
    return found

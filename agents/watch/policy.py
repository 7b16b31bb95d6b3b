"""What to ask a block list of DNS, and what its answer means (RFC 5782)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.lane_report import LaneReport

Said = Literal["listed", "clean", "unknown"]
_ZONE = re.compile(r"(?=.{1,200}$)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?)+")
_LISTING = ipaddress.ip_network("127.0.0.0/8")
_ASKER = (ipaddress.ip_network("127.255.0.0/16"), ipaddress.ip_network("127.0.1.255/32"))
"""Answers about who asks, or how, never listings: Spamhaus gives 127.255.255.252 for a mistyped name, .254 to public
resolvers, .255 to who asks too much, and 127.0.1.255 where a domain list is asked for an address."""


@dataclass(frozen=True, slots=True)
class BlockList:
    """``zone``: its name in DNS. ``of``: what it lists."""

    zone: str
    of: Literal["address", "domain"] = "address"


def block_lists(texts: Sequence[str]) -> tuple[BlockList, ...]:
    """``zen.spamhaus.org`` (addresses) or ``domain:dbl.spamhaus.org``. Raises ValueError."""
    found = []
    for text in texts:
        kind, colon, zone = text.strip().lower().rstrip(".").rpartition(":")
        if not _ZONE.fullmatch(zone) or (colon and kind not in ("address", "domain")):
            raise ValueError(
                f"{text[:60]!r} is no block list: expected ZONE (of addresses) or domain:ZONE (of domains)"
            )
        found.append(BlockList(zone, "domain" if kind == "domain" else "address"))
    return tuple(dict.fromkeys(found))


def question(name: str, block_list: BlockList) -> str:
    """The name to ask for, or "" where the list says nothing about such a name (RFC 5782 sections 2.1, 2.4, 4)."""
    try:
        address = ipaddress.ip_address(name.partition("%")[0])  # a zone has no place in DNS
    except ValueError:
        if block_list.of != "domain" or not _ZONE.fullmatch(name.lower()):
            return ""
        return f"{name.lower()}.{block_list.zone}"
    if block_list.of != "address":
        return ""
    return (
        f"{address.reverse_pointer.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{block_list.zone}"
    )


def own_points(block_list: BlockList) -> tuple[str, str]:
    """A name that every list has, and one that none has (RFC 5782 section 5): by them a dead list shows itself."""
    if block_list.of == "domain":
        return f"test.{block_list.zone}", f"invalid.{block_list.zone}"
    return f"2.0.0.127.{block_list.zone}", f"1.0.0.127.{block_list.zone}"


def meaning(answers: Sequence[str] | None) -> Said:
    """What the A records of an answer say; None: nobody answered. Anything but 127/8 is no list's answer (a lapsed
    zone that somebody answers for with his web server)."""
    if answers is None:
        return "unknown"
    if not answers:
        return "clean"
    listed = False
    for text in answers:
        try:
            code = ipaddress.ip_address(text)
        except ValueError:
            return "unknown"
        if code not in _LISTING or any(code in net for net in _ASKER):
            return "unknown"
        listed = True
    return "listed" if listed else "clean"


def report(kind: str, name: str, provider: str, worker: str, now: float) -> LaneReport:
    """What shape is told about a name of ours (``kind``: source or dkim) at a provider; without its figures."""
    return LaneReport(
        worker=worker,
        number=0,
        kind="feedback",
        provider=provider,
        source=name if kind == "source" else "",
        dkim=name if kind == "dkim" else "",
        time=now,
    )


def in_order(has: Said, has_not: Said) -> bool:
    """Whether a list that says this of its test points is to be believed."""
    return (has, has_not) == ("listed", "clean")

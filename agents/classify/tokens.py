"""Our tokens in a message that came back: the only thing in it that a stranger cannot make up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from agents.classify.dsn import Report
from agents.classify.policy import Owner
from schemas.address import normalise
from schemas.codec import Malformed
from schemas.identity import partition_of
from schemas.token import MailToken, Tokens

T = TypeVar("T")
ANSWERS = ("reply", "unsubscribe")
"""What somebody wrote, not their machine."""
MOST = 8
"""Different candidates that are tried: each costs a MAC."""
_ADDRESS = re.compile(rb"(?<![\w.+-])([bu]-[0-9a-zA-Z]{40,60}@[\w.-]{1,255})")
_OUR_ID = re.compile(r"<([0-9a-f]{32})\.[0-9a-f]{8}@")
_LINK = re.compile(rb"/[uoc]/([A-Za-z0-9_-]{40,1500})(?![A-Za-z0-9_-])")


def named_mail(raw: bytes, tokens: Tokens) -> tuple[str, int] | None:
    """(id, partition) of the mail that a return path or unsubscribe address of ours in ``raw`` names."""
    for text in _candidates(_ADDRESS, raw):
        for read in (tokens.read_verp, tokens.read_unsubscribe_address):
            named = _read(read, text)
            if named:
                return named
    for text in _candidates(_LINK, raw):
        link = _read(tokens.read_mail_token, text)
        if link:
            return link.id, link.partition
    return None


def claimed_mail(report: Report, partitions: int) -> tuple[str, int] | None:
    """(id, partition) of the mail whose Message-ID a report or an answer quotes, where its recipient's partition
    would be.

    Anybody who had that mail can write this: it counts only where the book there knows it, as theirs.
    """
    found = _OUR_ID.search(report.message_id[:300])
    for who in _people(report)[:1] if found and partitions else ():
        try:
            return found.group(1), partition_of(normalise(who).key, partitions)  # type: ignore[union-attr]
        except Malformed:
            return None
    return None


def is_about(report: Report, owner: Owner | None) -> bool:
    """Whether a report names the recipient of the mail, or an answer comes from them."""
    return owner is not None and any(who.lower() == owner.to for who in _people(report))


def _people(report: Report) -> list[str]:
    if report.kind in ANSWERS:
        return [report.sender]
    return [who.address for who in report.recipients]


def quoted_owner(raw: bytes, mail: str, tokens: Tokens) -> Owner | None:
    """Whose ``mail`` is, as a link of it that ``raw`` quotes says."""
    for text in _candidates(_LINK, raw):
        found: MailToken | None = _read(tokens.read_mail_token, text)
        if found and found.id == mail:
            return Owner(found.to, found.tenant, found.campaign, found.stream, provider=found.provider)
    return None


def writer(sender: str, partition: int, partitions: int) -> Owner | None:
    """Who unsubscribes by mail, where the mail that they had is no longer remembered.

    They hold a token of ours, and their address must fall on its partition: a stranger's rarely does. To
    take one reader too many off a list does less harm than to go on writing to one who left.
    """
    try:
        key = normalise(sender).key
    except Malformed:
        return None
    return Owner(key) if partitions and partition_of(key, partitions) == partition else None


def _candidates(pattern: re.Pattern[bytes], raw: bytes) -> Iterator[str]:
    seen: dict[bytes, None] = {}
    for found in pattern.finditer(raw):
        if found.group(1) not in seen:
            seen[found.group(1)] = None
            yield found.group(1).decode("ascii", "replace")
            if len(seen) == MOST:
                return


def _read(read: Callable[[str], T], text: str) -> T | None:
    try:
        return read(text)
    except Malformed:
        return None

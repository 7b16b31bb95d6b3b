"""Replies that no rule knows, in groups for review: what differs from mail to mail is masked. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.reply import Meaning
from schemas.reply_text import LONGEST, plain, read_codes

MOST = 100_000
"""Groups that are kept apart; what comes after in yet another wording is only counted."""
_URL = re.compile(r"https?://[^\s<>\"')\]]+")
_HOST = re.compile(r"(?<![\w.@-])(?:[a-z0-9_-]{1,63}\.)+[a-z]{2,24}(?![\w.-])")
_NUMBER = re.compile(r"(?<![a-z\d.])\d+(?![a-z\d.])|#?\d*#[\d#.:-]*")


@dataclass(frozen=True, slots=True)
class Group:
    """``count`` replies of one wording; ``text`` is what they share, ``rule`` the code that decided."""

    count: int
    code: str
    enhanced: str
    action: str
    rule: str
    text: str


def masked(reply: str) -> str:
    """The wording of a reply without its codes, addresses, hosts, URLs, numbers and ids."""
    reply = reply[:LONGEST]
    text = plain(reply[read_codes(reply)[2] :]).replace("\n", " ")
    text = _NUMBER.sub("#", _HOST.sub("HOST", _URL.sub("URL", text)))
    return " ".join(text.split())


class Groups:
    """Counts replies by what they share; memory is bounded by ``most`` groups, however many come."""

    def __init__(self, most: int = MOST) -> None:
        self.seen = self.unclassified = self.over = 0
        self._most = most
        self._count: dict[tuple[str, str, str], int] = {}
        self._said: dict[tuple[str, str, str], Meaning] = {}

    def add(self, reply: str, said: Meaning) -> None:
        """Counts one reply; one that a rule knew, or that is no refusal, only as seen."""
        self.seen += 1
        if said.classified or said.klass == "accepted":
            return
        self.unclassified += 1
        key = (str(said.code or ""), said.enhanced, masked(reply))
        if key not in self._count:
            if len(self._count) >= self._most:
                self.over += 1
                return
            self._said[key] = said
        self._count[key] = self._count.get(key, 0) + 1

    def __iter__(self) -> Iterator[Group]:
        """The groups, the largest first."""
        for key in sorted(self._count, key=lambda key: (-self._count[key], key)):
            code, enhanced, text = key
            said = self._said[key]
            yield Group(self._count[key], code, enhanced, said.action, said.rule or "nothing", text)

"""MTA-STS: what a domain's TXT record and policy file say (RFC 8461). Pure: both are hostile text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

Mode = Literal["enforce", "testing", "none"]
LONGEST = 31_557_600
"""Seconds of max_age at most (RFC 8461 section 3.2)."""
MOST_HOSTS = 100
_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_MX = re.compile(r"(?=.{1,253}$)(?:\*\.)?(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """A policy. ``mx``: host names in lower case, ``*.`` stands for one label. ``max_age``: seconds."""

    mode: Mode
    mx: tuple[str, ...]
    max_age: int

    def matches(self, host: str) -> bool:
        """Whether mail may go to the MX host (RFC 8461 section 4.1)."""
        host = host.rstrip(".").lower()
        return host in self.mx or "*." + host.partition(".")[2] in self.mx


def read_record(texts: Sequence[str]) -> str:
    """The ``id`` of the one record that begins with ``v=STSv1;``, or "" (RFC 8461 section 3.1)."""
    records = [text for text in texts if text.partition(";")[0].strip(" \t") == "v=STSv1"]
    if len(records) != 1:
        return ""
    for part in records[0].split(";")[1:]:
        name, _, value = part.strip(" \t").partition("=")
        if name == "id":
            return value if _ID.fullmatch(value) else ""
    return ""


def read_policy(text: str) -> StsPolicy:
    """A policy file (RFC 8461 section 3.2). Raises ValueError with what is wrong."""
    fields: dict[str, str] = {}
    hosts: list[str] = []
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon:
            if name:
                raise ValueError("a line without a colon")
        elif name == "mx":
            hosts.append(value.rstrip(".").lower())
        else:
            fields.setdefault(name, value)  # the first one counts
    if fields.get("version") != "STSv1":
        raise ValueError("version is not STSv1")
    mode, age = fields.get("mode", ""), fields.get("max_age", "")
    if mode not in ("enforce", "testing", "none"):
        raise ValueError(f"mode is {mode[:20]!r}")
    if not (age.isascii() and age.isdigit() and len(age) <= 10):
        raise ValueError(f"max_age is {age[:20]!r}")
    if len(hosts) > MOST_HOSTS or not all(_MX.fullmatch(host) for host in hosts):
        raise ValueError("an mx that is no host name, or too many of them")
    if not hosts and mode != "none":
        raise ValueError("no mx")
    return StsPolicy(cast(Mode, mode), tuple(hosts), min(int(age), LONGEST))

"""Which domain signs for a mail. Pure.

DMARC (RFC 9989) wants ``d=`` aligned with the domain of From: the same name, or, relaxed, the same
organisational domain. We look for a key of the From domain itself, then of its parents, nearest first: a
parent that the operator gave a key is never a public suffix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Settings:
    """Who may sign as whom."""

    domains: frozenset[str] = frozenset()
    """Domains that we hold keys of, lower case, A-labels."""
    tenants: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """domain -> tenants that may send as it. A domain that is not named is open to every tenant."""
    strict: bool = False
    """Only a key of the From domain itself signs (DMARC ``adkim=s``)."""


def signing_domain(from_domain: str, tenant: str, settings: Settings) -> str | None:
    """The ``d=`` for a mail of ``tenant`` from ``from_domain``, or None where no key may sign it."""
    name = from_domain.lower()
    while name:
        if name in settings.domains:
            allowed = settings.tenants.get(name)
            return name if allowed is None or tenant in allowed else None
        if settings.strict:
            return None
        name = name.partition(".")[2]
    return None


def from_domain(value: str) -> str | None:
    """The domain in the (unfolded) value of a From field with one mailbox, or None."""
    address = from_address(value)
    return address.rpartition("@")[2] if address else None


def from_address(value: str) -> str | None:
    """The address in the (unfolded) value of a From field with one mailbox, in lower case, or None.

    Only a quoted display name may hold ``<``, ``,`` or ``@`` of its own; we write it so ourselves.
    """
    bare = _without_quoted(value)
    if bare is None or "," in bare or bare.count("@") != 1:
        return None
    address = bare
    if "<" in bare:
        before, _, rest = bare.partition("<")
        address, closed, after = rest.partition(">")
        if not closed or after.strip() or "@" in before or "<" in address:
            return None
    found = address.strip().lower()
    domain = found.rpartition("@")[2]
    return found if domain.isascii() and domain.replace(".", "").replace("-", "").isalnum() else None


def _without_quoted(value: str) -> str | None:
    """The value without its quoted strings; None where a quote is not closed."""
    kept: list[str] = []
    quoted = escaped = False
    for char in value:
        if escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif not quoted:
            kept.append(char)
    return None if quoted else "".join(kept)

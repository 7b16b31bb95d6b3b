"""What an address alone tells: role, disposable, mistyped. Pure; the lists are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_KNOWN = 20_000
"""Domains whose verdict is remembered."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a domain. ``meant``: the domain that its writer most likely meant, or ""."""

    disposable: bool = False
    meant: str = ""


_PLAIN = Place()


@dataclass(frozen=True, slots=True)
class Lists:
    """Role names (local parts), disposable domains with their subdomains, mistyped domain -> the one meant.

    ``allowed``: domains that are neither, whatever the lists say. ``endings``: last labels that no zone has,
    and what was meant: they count at the names in ``names`` (gmail, hotmail ...).
    """

    roles: frozenset[str] = frozenset()
    disposable: frozenset[str] = frozenset()
    mistyped: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    endings: Mapping[str, str] = field(default_factory=dict)
    _known: dict[str, Place] = field(default_factory=dict, repr=False, compare=False)

    def is_role(self, address: str) -> bool:
        """Whether the local part names a function, not a person (RFC 2142 and custom); a +tag does not hide it."""
        return address.partition("@")[0].partition("+")[0] in self.roles

    def place(self, domain: str) -> Place:
        """What is known of a normalised domain; most answers come from memory."""
        found = self._known.get(domain)
        if found is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            found = self._known[domain] = self._look(domain)
        return found

    def _look(self, domain: str) -> Place:
        if domain in self.allowed:
            return _PLAIN
        above, disposable = domain, False
        while above.count("."):
            disposable = disposable or above in self.disposable
            above = above.partition(".")[2]
        meant = self.mistyped.get(domain, "")
        if not meant:
            name, _, ending = domain.rpartition(".")
            if name in self.names and ending in self.endings:
                meant = f"{name}.{self.endings[ending]}"
        # Some mistyped names are also sold as disposable ones: what was meant is worth knowing all the same.
        return Place(disposable, meant) if meant or disposable else _PLAIN

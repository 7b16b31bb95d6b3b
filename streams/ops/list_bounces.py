"""How many of a list will bounce, and on what that guess stands. Pure.

Nobody's mailbox is asked: providers take such questions for an attack, and many answer yes to everything. The guess
goes by how long ago an address was last known to work, and, for addresses never written to, by how many of those
that this tenant once wrote to proved bad.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MONTH = 30.44 * 86400.0
DECAY = 0.02
"""Share of addresses that stop working in a month: people change jobs and providers. An assumption: some 20 % a year
is what list owners report; a company's list loses more than one of private mailboxes."""
NEW = 0.03
"""Share of addresses never written to that are bad. An assumption for lists that were collected with care; a list
that was bought or lay about for years has several times as many."""
ENOUGH = 1000
"""Addresses of a tenant's own experience that take the place of the assumption NEW."""
IMPORTED = 0.2
"""A tenant of whose addresses more than this proved bad has brought suppressions from elsewhere: no experience."""


def gone(age: float, decay: float = DECAY) -> float:
    """The chance that an address has stopped working which was known to work ``age`` seconds ago."""
    return 1.0 - (1.0 - decay) ** (max(age, 0.0) / MONTH)


@dataclass(slots=True)
class Bounces:
    """Sums up over those who would be mailed. ``bad`` of ``tried``: what the tenant knows of its own addresses."""

    bad: int = 0
    tried: int = 0
    decay: float = DECAY
    new: float | None = None
    """The operator's own word on addresses never written to."""
    known: int = 0
    unknown: int = 0
    _gone: float = field(default=0.0, repr=False)

    def add(self, age: float | None) -> None:
        """One who would be mailed; ``age``: seconds since a delivery or a sign of life, None where there was none."""
        if age is None:
            self.unknown += 1
        else:
            self.known += 1
            self._gone += gone(age, self.decay)

    @property
    def rate_of_new(self) -> tuple[float, str]:
        """(share, basis) for addresses never written to."""
        if self.new is not None:
            return self.new, "as given"
        if self.tried >= ENOUGH and self.bad <= IMPORTED * self.tried:
            return (
                self.bad / self.tried,
                f"of {self.tried:,} addresses that were written to {self.bad:,} proved bad",
            )
        if self.tried >= ENOUGH:
            return (
                NEW,
                f"assumed: {self.bad:,} suppressed of {self.tried:,} known tells of imports, not of bounces",
            )
        return NEW, f"assumed: fewer than {ENOUGH:,} addresses were ever written to"

    @property
    def expected(self) -> float:
        """Bounces."""
        return self._gone + self.unknown * self.rate_of_new[0]

    @property
    def rate(self) -> float:
        """Bounces a mail, 0 where nobody would be mailed."""
        count = self.known + self.unknown
        return self.expected / count if count else 0.0

    def basis(self) -> list[str]:
        """On what it stands, a sentence for each part."""
        found = []
        if self.known:
            found.append(
                f"{self.known:,} that worked once: {self._gone / self.known:.2%} gone since, at {self.decay:.1%} a month "
                f"({'assumed' if self.decay == DECAY else 'as given'})"
            )
        if self.unknown:
            rate, why = self.rate_of_new
            found.append(f"{self.unknown:,} of which no delivery is known: {rate:.2%} ({why})")
        return found

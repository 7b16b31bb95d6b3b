"""Replies that mean something else now: counted by what was done before and would be done after. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MOST_GROUPS = 2000


class Verdict(NamedTuple):
    """What was made of a reply: ``action`` and ``klass`` as in schemas.reply, or another engine's own words."""

    action: str
    klass: str
    rule: str = ""


@dataclass(slots=True)
class Group:
    """Replies with one pair of verdicts."""

    count: int
    provider: str
    example: str


@dataclass
class Changes:
    """``read``: replies that were no acceptance. ``groups``: those judged otherwise, by (before, after)."""

    read: int = 0
    groups: dict[tuple[Verdict, Verdict], Group] = field(default_factory=dict)
    more: int = 0
    """Changed replies in more pairs than are kept apart."""

    def add(self, before: Verdict, after: Verdict, provider: str, reply: str) -> None:
        """A reply that is judged otherwise."""
        found = self.groups.get((before, after))
        if found is not None:
            found.count += 1
        elif len(self.groups) < MOST_GROUPS:
            self.groups[before, after] = Group(1, provider, reply[:300])
        else:
            self.more += 1

    @property
    def changed(self) -> int:
        """How many replies are judged otherwise."""
        return sum(group.count for group in self.groups.values()) + self.more

    def by_action(self) -> Counter[tuple[str, str]]:
        """(action before, action after) -> replies."""
        found: Counter[tuple[str, str]] = Counter()
        for (before, after), group in self.groups.items():
            found[before.action, after.action] += group.count
        return found

    def ordered(self) -> list[dict[str, Any]]:
        """The groups, the largest first."""
        found = sorted(self.groups.items(), key=lambda item: (-item[1].count, item[0]))
        return [
            {"before": before._asdict(), "after": after._asdict(), "count": group.count, "provider": group.provider,
             "example": group.example}
            for (before, after), group in found
        ]  # fmt: skip

"""Who is suppressed, before and after: by the policy of production, or by what another engine is assumed to do.

Memory: a row for each recipient whom a reply suppresses or counts against; none for all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from agents.suppress.policy import Settings, decide, matters
from schemas.event import Kind, MailEvent
from schemas.suppression import Suppression
from streams.ops.backtest.replies import Verdict


class Attempt(NamedTuple):
    """What an attempt said of a recipient: ``delivered``, ``deferred`` or ``bounced``, with both verdicts."""

    time: float
    to: str
    kind: Kind
    provider: str
    reply: str
    before: Verdict
    after: Verdict
    tenant: str = "default"


class Judge(Protocol):
    """Whom a way to decide suppresses."""

    def knows(self, to: str) -> bool:
        """Whether anything was counted against a recipient: else a delivery to them is no news."""

    def hear(self, attempt: Attempt, verdict: Verdict) -> bool:
        """Take in an attempt; whether its recipient is suppressed from then on."""


class Ours:
    """The suppression policy of production, with its windows for soft failures."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._rows: dict[str, list[Suppression]] = {}

    def knows(self, to: str) -> bool:
        return to in self._rows

    def hear(self, attempt: Attempt, verdict: Verdict) -> bool:
        rows = self._rows.get(attempt.to)
        event = MailEvent(
            id="", kind=attempt.kind, mail="", time=attempt.time, tenant=attempt.tenant, to=attempt.to,
            klass=verdict.klass, action=verdict.action, rule=verdict.rule, provider=attempt.provider,
        )  # fmt: skip
        if matters(event):
            for row in decide(event, rows or (), self._settings, attempt.time):
                rows = [old for old in rows or () if old.key != row.key] + [row]
            if rows:
                self._rows[attempt.to] = rows
        return any(row.in_force(attempt.time) for row in rows or ())


class Theirs:
    """Another engine: one word, for good."""

    def __init__(self) -> None:
        self._gone: set[str] = set()

    def knows(self, to: str) -> bool:
        return to in self._gone

    def hear(self, attempt: Attempt, verdict: Verdict) -> bool:
        if verdict.action == "suppress":
            self._gone.add(attempt.to)
        return attempt.to in self._gone


@dataclass(slots=True)
class Person:
    """A recipient whom one side or both suppressed. ``took``: mails delivered to them after that."""

    time: float
    provider: str
    reply: str
    verdicts: tuple[Verdict, Verdict]
    before: bool = False
    after: bool = False
    took: int = 0


@dataclass
class People:
    """Both sides, and where they differ."""

    before: Judge
    after: Judge
    found: dict[str, Person] = field(default_factory=dict)

    def knows(self, to: str) -> bool:
        """Whether a delivery to the recipient is of any interest."""
        return self.after.knows(to) or self.before.knows(to)

    def add(self, attempt: Attempt) -> None:
        """One attempt."""
        if attempt.kind == "delivered" and not self.knows(attempt.to):
            return
        person = self.found.get(attempt.to)
        was = self.before.hear(attempt, attempt.before)
        now = self.after.hear(attempt, attempt.after)
        if attempt.kind == "delivered":
            if person is not None:
                person.took += 1
        elif was or now:
            if person is None:
                verdicts = (attempt.before, attempt.after)
                person = self.found[attempt.to] = Person(
                    attempt.time, attempt.provider, attempt.reply[:300], verdicts
                )
            person.before, person.after = person.before or was, person.after or now

    def only(self, before: bool) -> Iterator[tuple[str, Person]]:
        """Whom only one side suppressed: that before, or that after."""
        for to, person in self.found.items():
            if person.before is before and person.after is not before:
                yield to, person

    def counts(self) -> dict[str, int]:
        """How many each side suppressed; those of one side alone, and to how many of them mail was delivered later."""
        people = list(self.found.values())
        spared = [person for _, person in self.only(True)]
        fresh = [person for _, person in self.only(False)]
        return {
            "before": sum(person.before for person in people),
            "after": sum(person.after for person in people),
            "only_before": len(spared),
            "only_before_took_mail_later": sum(person.took > 0 for person in spared),
            "only_after": len(fresh),
            "only_after_took_mail_later": sum(person.took > 0 for person in fresh),
        }

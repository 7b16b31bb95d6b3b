"""Which mail may have the little that a warm-up or a gate allows: that to the most engaged recipients. Pure.

While a limit is counted by the day, a feed keeps as much of its mail as may go today, the lowest cohorts first
(``schemas.mail``), and the rest steps aside onto the ladder, so that the log behind it comes into sight: a backlog
of any length is looked through once, at the speed of reading, and what goes out meanwhile is the best seen so far.
What stepped aside looks again by cohort: after the rung of an hour (less, where what is kept will be sent sooner)
times 1 + its cohort, or at the start of the next day, 10 minutes later for each cohort. So the first to come back
are the most engaged, also when a day has room left because some of what was kept could not be sent.

What is kept must not hold the log's window: its record is copied to the ladder too (10 minutes, again and again),
and its ticket is done. A mail that was tried before is kept before all others: greylisting waits for it.

What this does not promise: each worker chooses for the recipients of its own partitions, and takes its part of the
day by them; within a cohort the first come are first; a recipient's cohort is that of the moment of screening.
Where only some of a mail's sources are in warm-up nothing steps aside: what they may not send goes out on the
others. Those in warm-up are then kept for the first two cohorts, as long as their day is used up in time.

Behind a gate (``engaged_only``) marketing mail of other cohorts than 0 steps aside for the rung of an hour, again
and again, and goes out when the gate has opened, or expires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agents.deliver.allowance import Little
from agents.deliver.job import Mail
from schemas.cohort import CLICKED, SILENT

NONE = SILENT + 1
"""Beyond all cohorts."""
MOST = 2000
"""Mails that a feed keeps for a DKIM domain and its sources (a group)."""
MOST_BYTES = 32_000_000
"""Bytes of all mail that is kept in a process (twice as many at worst): it is in no window any more."""
EACH = 6_144
"""Bytes that a mail takes beside its body (as in ``streams.runner``)."""
AT_ONCE = 250
"""Mails that step aside in one look of a feed: each costs some 50 us, and nothing is sent meanwhile."""
SETTLED = 2.0
"""Seconds after which a mail that is kept is copied to the ladder."""

Key = tuple[str, tuple[str, ...]]
"""DKIM domain and the sources that a mail may leave by."""


class Steps(NamedTuple):
    """Seconds of the ladder's first three rungs."""

    least: float = 60.0
    short: float = 600.0
    long: float = 3600.0


class Aside(NamedTuple):
    """A mail steps aside until ``due`` (Unix seconds). ``why``: warmup or engaged."""

    mail: Mail
    due: float
    why: str


STEPS = Steps()


@dataclass(slots=True)
class Group:
    """The marketing mail of one DKIM domain in a feed. ``waiting`` now; ``cut``: the highest cohort that is kept."""

    little: Little
    waiting: int = 0
    cut: int = NONE
    size: int = 0
    """Bytes of what is kept."""
    fits: int = MOST
    """Mails that were kept when their bytes were the limit."""

    @property
    def room(self) -> int:
        """Mails that are kept."""
        return min(self.fits, self.little.left)

    def closed(self, mail: Mail) -> bool:
        """Whether the gate is closed for a mail."""
        return self.little.engaged_only and mail.cohort != CLICKED

    def aside(self, mail: Mail, now: float, steps: Steps) -> Aside:
        """When a mail looks again that may not stay."""
        if self.closed(mail):
            due, why = now + steps.long, "engaged"
        else:
            drained = self.room / self.little.rate / 2 if self.room and self.little.rate > 0 else steps.long
            look = min(steps.long, max(steps.short, drained)) * (1 + mail.cohort)
            due, why = min(now + look, self.little.next_day + steps.short * mail.cohort), "warmup"
        if mail.expires:
            due = min(due, mail.expires)
        return Aside(mail, max(due, now + steps.least), why)


@dataclass(slots=True)
class Chooser:
    """The groups of one feed. ``of(mail)``: the sources by which it may leave; ``little``: see ``Allowance``."""

    of: Callable[[Mail], tuple[str, ...]]
    little: Callable[[Sequence[str], str], Little | None]
    steps: Steps = STEPS
    groups: dict[Key, Group] = field(default_factory=dict)

    def come(self, mail: Mail, now: float) -> Aside | None:
        """A mail comes, and stays (None) or steps aside at once. ``now`` in Unix seconds."""
        if mail.cohort < 0:
            return None
        key = (mail.dkim, self.of(mail))
        group = self.groups.get(key)
        if group is None:
            little = self.little(key[1], mail.dkim)
            if little is None:
                return None
            group = self.groups[key] = Group(little)
            group.cut = NONE if group.room else 0
        rank = _rank(mail)
        if group.closed(mail) or (group.waiting >= group.room and rank >= group.cut):
            return group.aside(mail, now, self.steps)
        group.waiting += 1
        mail.rank = rank
        return None

    def look(
        self, mails: Iterable[Mail], now: float, mono: float, most: int = MOST_BYTES
    ) -> tuple[list[Aside], list[Mail], bool]:
        """Once a second over all bulk mail of the feed: (what steps aside, what is to be copied to the ladder,
        whether ranks have changed). ``most``: bytes that a group may keep (``share``)."""
        found: dict[Key, list[Mail]] = {}
        for mail in mails:
            if mail.cohort >= 0 and mail.stage == "waiting" and not mail.intended:
                found.setdefault((mail.dkim, self.of(mail)), []).append(mail)
        asides: list[Aside] = []
        copies: list[Mail] = []
        changed = False
        for key in {**self.groups, **found}:
            mine = found.get(key, [])
            little = self.little(key[1], key[0])
            if little is None or not mine:
                self.groups.pop(key, None)
                changed |= _ranked(mine, False)
                continue
            group = self.groups.get(key)
            if group is None:
                group = self.groups[key] = Group(little)
            group.little = little
            changed |= _ranked(mine, True)
            kept, over = _chosen(group, mine, most)
            group.waiting = len(kept)
            group.size = sum(len(mail.body) + EACH for mail in kept)
            group.cut = (
                max((mail.rank for mail in kept), default=0) if over or len(kept) >= group.room else NONE
            )
            asides += [group.aside(mail, now, self.steps) for mail in over[: AT_ONCE - len(asides)]]
            if over or group.cut != NONE:
                copies += [mail for mail in kept if not mail.ticket_done and mono - mail.queued > SETTLED]
        return asides, copies, changed


def share(choosers: Iterable[Chooser]) -> int:
    """Bytes that a group may keep: as many as all of a process leave free, or its equal part."""
    sizes = [group.size for chooser in choosers for group in chooser.groups.values()]
    return max(MOST_BYTES - sum(sizes), MOST_BYTES // max(1, len(sizes)))


def _chosen(group: Group, mails: list[Mail], most: int) -> tuple[list[Mail], list[Mail]]:
    """(those that are kept, those that step aside): the lowest cohorts, in each the first come."""
    group.fits = MOST
    may = [mail for mail in mails if not group.closed(mail)]
    over = [mail for mail in mails if group.closed(mail)]
    kept = sorted(may, key=_order)[: group.room]
    size = 0
    for n, mail in enumerate(kept):
        size += len(mail.body) + EACH
        if size > most and n:
            kept, group.fits = kept[:n], n
            break
    if len(kept) < len(may):
        staying = set(map(id, kept))
        over += [mail for mail in may if id(mail) not in staying]
    return kept, over


def _order(mail: Mail) -> tuple[int, float]:
    return mail.rank, mail.queued


def _rank(mail: Mail) -> int:
    return mail.cohort if mail.attempt == 1 else 0


def _ranked(mails: list[Mail], young: bool) -> bool:
    """Set the ranks; whether one has changed."""
    changed = False
    for mail in mails:
        rank = _rank(mail) if young else 0
        changed |= rank != mail.rank
        mail.rank = rank
    return changed

"""Sends that wait: for their domain's DNS answer, or for a campaign that nobody knows yet.

Waiting sends are kept tickets: they are not committed, hold up nobody else, and a process that dies
leaves them to the next one. Their number is bounded by the runner's window.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from agents import Reject, Ticket
from schemas.codec import Malformed
from schemas.hosts import UNKNOWN, Hosts, MailHosts

T = TypeVar("T")
REMEMBERED = 10_000
"""Unknown campaigns whose first sight is remembered."""


class Waiting(NamedTuple, Generic[T]):
    """A kept ticket and how it goes on; ``number`` counts them up."""

    ticket: Ticket
    go: Callable[[T], None]
    number: int = 0


def resume(waiting: Waiting[T], answer: T) -> None:
    """Go on with one send; an error is that record's alone, as it would be in ``batch``."""
    try:
        waiting.go(answer)
    except Reject as error:
        waiting.ticket.reject(error.reason, error.detail)
    except Malformed as error:
        waiting.ticket.reject(error.code, error.detail)
    except Exception as error:
        waiting.ticket.reject("bug", f"{type(error).__name__}: {error}")


class Lookups:
    """DNS questions in progress: one task a domain, however many sends wait for it."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._waiting: dict[str, list[Waiting[MailHosts]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, domain: str, ticket: Ticket, go: Callable[[MailHosts], None]) -> None:
        """Call ``go`` with the domain's hosts when they are known (2 s at most, says the resolver)."""
        waiting = self._waiting.get(domain)
        if waiting is None:
            waiting = self._waiting[domain] = []
            task = asyncio.create_task(self._ask(domain), name="enqueue-dns")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting.append(Waiting(ticket, go))

    def drop(self, partition: int) -> None:
        """Forget the sends of a partition that went away."""
        for domain, waiting in self._waiting.items():
            self._waiting[domain][:] = [one for one in waiting if one.ticket.record.partition != partition]

    async def _ask(self, domain: str) -> None:
        try:
            found = await self._hosts.mail_hosts(domain)
        except Exception:  # it should not raise; if it does, mail must not wait for ever
            found = UNKNOWN
        for waiting in self._waiting.pop(domain):
            resume(waiting, found)


class Hold:
    """Sends of unknown campaigns. ``known`` looks a campaign up; ``read_to_end`` returns once everything
    that was on ``mail-campaigns`` when it was called can be seen by ``known``.

    A send is told False only after a read to the end that began when its campaign's ``seconds`` since
    first sight were over; so also for the sends that come later, which wait for that read alone.
    """

    def __init__(
        self,
        known: Callable[[str], bool],
        read_to_end: Callable[[], Awaitable[None]],
        seconds: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._known = known
        self._read_to_end = read_to_end
        self._seconds = seconds
        self._poll = min(0.5, seconds / 10)
        self._monotonic = monotonic
        self._first_seen: OrderedDict[str, float] = OrderedDict()
        self._waiting: dict[str, list[Waiting[bool]]] = {}
        self._added = 0
        self._task: asyncio.Task[None] | None = None

    def add(self, campaign: str, ticket: Ticket, go: Callable[[bool], None]) -> None:
        """Call ``go`` with whether the campaign turned up."""
        self._first_seen.setdefault(campaign, self._monotonic())
        while len(self._first_seen) > REMEMBERED:
            self._first_seen.popitem(last=False)
        self._added += 1
        self._waiting.setdefault(campaign, []).append(Waiting(ticket, go, self._added))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="enqueue-hold")

    def drop(self, partition: int) -> None:
        """Forget the sends of a partition that went away."""
        for campaign, waiting in list(self._waiting.items()):
            left = [one for one in waiting if one.ticket.record.partition != partition]
            if left:
                self._waiting[campaign] = left
            else:
                del self._waiting[campaign]

    async def _watch(self) -> None:
        while self._waiting:
            await self._look()
            if self._waiting:
                await asyncio.sleep(self._poll)

    async def _look(self) -> None:
        now, last = self._monotonic(), self._added
        # The reader reports its own troubles; while it has them nobody is refused, only held.
        with contextlib.suppress(Exception):
            await self._read_to_end()
            for campaign in list(self._waiting):
                if self._known(campaign):
                    self._first_seen.pop(campaign, None)
                    self._settle(campaign, True, self._added)
                elif now - self._first_seen.setdefault(campaign, now) >= self._seconds:
                    # Not those that came during the read: it may have missed what was published for them.
                    self._settle(campaign, False, last)

    def _settle(self, campaign: str, known: bool, last: int) -> None:
        waiting = self._waiting.pop(campaign)
        left = [one for one in waiting if one.number > last]
        if left:
            self._waiting[campaign] = left
        for one in waiting:
            if one.number <= last:
                resume(one, known)

"""Follows partitions by hand, without a group: foreign tables, changelogs and the journal's tail.

One reader per process follows everything. Each followed partition has a sink that takes its records in
order; ``fresh`` tells whether it is known to be read to its end. The end is the high watermark that comes
with every fetch, never ListOffsets: the embedded broker answers that too low.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from streams.broker import fetch_wait_ms, make_reader, started, stopped
from streams.incarnation import Marks, strangers
from streams.settings import Settings

log = logging.getLogger("mailsluice.follow")
EAGER = (50, 1)
"""Wait (ms) and bytes of a fetch while somebody waits for its answer."""
LARGE = (500, 262_144)
"""Of large tables otherwise: nobody waits for a single record, and a fetch costs as much as 20 records."""
PIECE = 250
"""Records of a table handed over at once, once it was read to its end: 5,000 of them took 55 ms, in which a
transactional mail waited."""
LOOK = 60.0
"""Seconds between looks whether a topic is still the log that was read."""
Sink = Callable[[Sequence[Any]], None]
"""Takes aiokafka ConsumerRecords of one partition, in offset order; must not block."""


class OutsideLog(Exception):
    """The position to start from is beyond the log: it was made anew."""


@dataclass(slots=True, eq=False)
class _Followed:
    sink: Sink
    next: int
    sought: bool = False
    answered: int = 0
    """aiokafka's stamp of the last fetch answer (wall ms; only compared for being another one)."""
    handled: float = float("-inf")
    """Not later than when the last answer was handled, and so than when the next one was asked for."""
    asked: float = float("-inf")
    """Not later than when the last answer was asked for. What a frozen process finds in its socket when
    it wakes may be minutes old: the time of its arrival says nothing."""
    fresh_at: float = float("-inf")
    at_end: bool = False
    """It was read to its end once."""
    marks: Marks = field(default_factory=Marks)
    """What was read of it, to know the log again."""
    waiters: list[tuple[float, asyncio.Future[None]]] = field(default_factory=list)
    """(since when, who waits): the end that counts was asked for later than that."""


class Follower:
    """The reader. ``fatal`` ends the process when the reading cannot go on."""

    def __init__(
        self,
        settings: Settings,
        fatal: Callable[[int, str], Any],
        monotonic: Callable[[], float] = time.monotonic,
        make: Callable[[Settings], AIOKafkaConsumer] = make_reader,
        large: bool = False,
    ) -> None:
        """``large``: for changelogs; their records come up to 0.5 s later, many at a time."""
        self._settings = settings
        self._fatal = fatal
        self._monotonic = monotonic
        self._consumer = make(settings)
        self._followed: dict[TopicPartition, _Followed] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._wait_ms = EAGER[0]
        self._calm = LARGE if large else (fetch_wait_ms(settings), 1)

    async def start(self) -> None:
        """Connect and start reading."""
        await started(self._consumer)
        for body in (self._read(), self._look()):
            task = asyncio.create_task(body, name="follower")
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Stop reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await stopped(self._consumer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception()
            self._fatal(
                70, f"the follower ended: {error}; {error.__cause__!r}" if error else "the follower ended"
            )

    async def first(self, topic: str, partition: int) -> int:
        """The first offset that the partition still holds."""
        tp = TopicPartition(self._settings.topic(topic), partition)
        return int((await self._consumer.beginning_offsets([tp]))[tp])

    async def follow(self, topic: str, partition: int, sink: Sink, start: int) -> None:
        """Hand the partition's records from ``start`` on to ``sink``; returns when read to its present end.

        Raises OutsideLog where ``start`` lies outside the log; the partition is not followed then.
        """
        tp = TopicPartition(self._settings.topic(topic), partition)
        since = self._monotonic()
        self._followed[tp] = _Followed(sink, start)
        self._assign()
        await self._wait(tp, since)

    def forget(self, topic: str, partition: int) -> None:
        """Stop following a partition."""
        tp = TopicPartition(self._settings.topic(topic), partition)
        followed = self._followed.pop(tp, None)
        if followed is not None:
            for _, waiter in followed.waiters:
                waiter.cancel()
            self._assign()

    async def to_end(self, topic: str, partition: int) -> None:
        """Return when everything that is in the partition now was handed over."""
        await self._wait(TopicPartition(self._settings.topic(topic), partition), self._monotonic())

    async def _wait(self, tp: TopicPartition, since: float) -> None:
        followed = self._followed[tp]
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        followed.waiters.append((since, waiter))
        self._pace()
        await waiter

    def _pace(self) -> None:
        # The client's own settings, which it reads for each fetch (pinned; tests/streams/test_pace.py).
        waited = any(followed.waiters for followed in self._followed.values())
        fetcher = self._consumer._fetcher
        self._wait_ms, fetcher._fetch_min_bytes = EAGER if waited else self._calm
        fetcher._fetch_max_wait_ms = self._wait_ms

    def fresh(self, topic: str, partition: int, seconds: float) -> bool:
        """Whether the partition was confirmed read to its end within the last ``seconds``."""
        followed = self._followed.get(TopicPartition(self._settings.topic(topic), partition))
        return followed is not None and self._monotonic() - followed.fresh_at <= seconds

    def _assign(self) -> None:
        # A new manual assignment forgets every position: each is sought again to our own place.
        self._consumer.assign(list(self._followed))
        now = self._monotonic()
        for tp, followed in self._followed.items():
            self._consumer.seek(tp, followed.next)
            followed.answered = 0
            followed.handled = now

    async def _read(self) -> None:
        looked = self._monotonic()
        while True:
            if not self._followed:
                await asyncio.sleep(0.02)
                looked = self._monotonic()
                continue
            if self._consumer._fetcher.error_future.done():
                raise RuntimeError("the client reads no more")
            try:
                found = await self._consumer.getmany(timeout_ms=self._wait_ms, max_records=5000)
            except OffsetOutOfRangeError as error:
                for tp in error.args[0]:
                    self._outside(tp)
                continue
            except KafkaError as error:
                log.warning("could not read: %r; trying again", error)
                await asyncio.sleep(0.3)
                self._assign()  # the client may have gone past what it could not hand over
                continue
            whose = {tp: self._followed.get(tp) for tp in found}
            for tp, messages in found.items():
                followed = whose[tp]
                while messages and followed is not None and followed is self._followed.get(tp):
                    part = messages[:PIECE] if followed.at_end else messages
                    messages = messages[len(part) :]
                    self._hand(tp, followed, part)
                    await asyncio.sleep(0)
            now = self._monotonic()
            for tp, followed in list(self._followed.items()):
                self._progress(tp, followed, looked)
            looked = now
            self._pace()

    def _hand(self, tp: TopicPartition, followed: _Followed, messages: Sequence[Any]) -> None:
        if messages[0].offset < followed.next:
            messages = [m for m in messages if m.offset >= followed.next]
            if not messages:
                return
        try:
            followed.sink(messages)
        except Exception as error:
            place = f"{tp.topic}/{tp.partition}@{messages[0].offset} to {messages[-1].offset}"
            raise RuntimeError(f"{place} could not be applied") from error
        followed.next = messages[-1].offset + 1
        followed.marks.saw(messages[-1])
        followed.marks.newest(followed.next)  # forgets the others

    async def _look(self) -> None:
        """A topic made anew under us, and filled before we looked, answers as if nothing had happened."""
        while True:
            await asyncio.sleep(LOOK)
            newest = {followed: followed.marks.newest(followed.next) for followed in self._followed.values()}
            marks = {tp: followed.marks.at(followed.next) for tp, followed in self._followed.items()}
            try:
                told = await strangers(self._settings, {tp: some for tp, some in marks.items() if some})
            except KafkaError as error:
                log.warning("could not look whether the topics are the same: %r", error)
                continue
            if told:
                self._fatal(
                    78, f"{'; '.join(told[:5])}: made anew; the next start reads it from its beginning"
                )
                return
            for followed, mark in newest.items():
                followed.marks.anchor = mark or followed.marks.anchor

    def _outside(self, tp: TopicPartition) -> None:
        followed = self._followed.get(tp)
        if followed is None:
            return
        why = f"position {followed.next} of {tp.topic}/{tp.partition} is outside the log"
        if followed.at_end:
            self._fatal(78, f"{why}: the topic was made anew or its records deleted under a running worker")
            return
        del self._followed[tp]
        self._assign()
        for _, waiter in followed.waiters:
            if not waiter.done():
                waiter.set_exception(OutsideLog(why))

    def _progress(self, tp: TopicPartition, followed: _Followed, looked: float) -> None:
        state = self._consumer._subscription.subscription.assignment.state_value(tp)
        stamp = state.timestamp
        if stamp is None:
            return
        if stamp != followed.answered:
            followed.answered = stamp
            followed.asked, followed.handled = followed.handled, looked
        # The marks of a transactional producer are offsets without a record: only the client's position
        # passes them.
        followed.next = max(followed.next, state.position)
        if followed.next < state.highwater:
            return
        if followed.next > state.highwater and not followed.at_end:
            self._outside(tp)  # the embedded broker does not answer such a position with an error
            return
        followed.at_end = True
        followed.fresh_at = max(followed.fresh_at, followed.asked)
        waiting = followed.waiters
        if waiting:
            followed.waiters = [w for w in waiting if followed.asked < w[0]]
            for since, waiter in waiting:
                if followed.asked >= since and not waiter.done():
                    waiter.set_result(None)

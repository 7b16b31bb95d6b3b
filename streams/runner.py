"""The only consume loop of the send plane: one stage in one process.

What it promises (design, "Nothing lost, nothing twice", 2): an input offset is committed only when every
output of it and of all records before it is acknowledged, or its dead letter is. What it takes care of,
each measured and each with a test in tests/streams/test_runner_*.py:

- records of a new assignment can come out before ``on_partitions_assigned`` has ended: a batch counts
  only if its poll began after the partition was opened and sought; else the partition is sought back;
- no heartbeat goes out while ``on_partitions_assigned`` runs: partitions are opened (state read to its
  end, which may take minutes) in a task of their own, and the callback returns at once;
- a consumer that does not call ``getmany`` leaves its group and never comes back: it is called also when
  nothing has room or nothing is ours;
- ``getmany`` waits for an assignment without a time-out: no lock is held around it;
- ``pause()`` throws the prefetch away: nothing is ever paused; only partitions with room are polled;
- the twins (transactional) are polled first, and each partition has a line of its own, so that a stage
  that waits (Retry) for one does not hold the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalGenerationError, KafkaError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata

from agents import Agent, Out, Stage
from schemas.codec import Malformed, Record, headers_from
from schemas.mail import NOW
from streams import metrics
from streams.broker import Outbox, fetch_wait_ms, make_group_consumer, raw_headers, started, stopped
from streams.ownership import Ownership
from streams.settings import Settings
from streams.watermark import Watermark
from streams.work import Desk, Work, hand

log = logging.getLogger("mailsluice.runner")

EXIT_LOG_GONE = 78
"""EX_CONFIG: the log no longer holds what the stage has to read; a person must decide."""
EXIT_BUGS = 70
"""EX_SOFTWARE: too many records raised."""
CRASHES_ALONE = 3
"""Starts that ended at one position after which its records are tried one at a time."""
CRASHES_BURIED = 2
"""Starts that ended with the record tried alone, after which it is dead-lettered."""
NOWHERE = TopicPartition("", 0)
"""Polled where nothing has room: it keeps the membership and takes no record."""
FAILING = 30.0
"""Seconds for which every read may fail (the client retries an outage by itself) before the process ends."""
BUSY = 100.0
"""Records/s from which on a fetch waits for MUCH bytes, but no longer than the stage's patience, not for the
first record."""
MUCH = 65_536
CHAIN_SLICES = 4
"""Slices that may wait for a chained stage before the stage before it waits."""


class LogGone(Exception):
    """The committed position lies outside the log."""


class Unreadable(Exception):
    """The client cannot take a batch apart, and so cannot go past it."""


@dataclass(slots=True, eq=False)
class Line:
    """One topic partition that is ours: what is buffered, in work and finished of it."""

    tp: TopicPartition
    name: str
    epoch: int
    mark: Watermark
    next: int
    opened_at_poll: int
    crashes: int = 0
    """Starts at this position that took a record and ended without progress."""
    alone: int = 0
    """Records still to be tried one at a time."""
    counted_at: int = -1
    """The position that ``crashes`` is about."""
    begun: bool = False
    """This start is counted in ``crashes`` already."""
    tried: int = 0
    """The poll that last asked for a record to be tried alone."""
    rest: list[Any] = field(default_factory=list)
    """Read already, to be tried alone one after the other."""
    bury: bool = False
    """The next record killed the process when tried alone: it goes to the dead letters unseen."""
    hole: int = -1
    committed: int = -1
    in_work_bytes: int = 0


class Share:
    """One partition number of the stage: its lines (topics), and the task that works on them in order."""

    def __init__(self, partition: int, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.lines: dict[str, Line] = {}
        self.urgent: deque[Work] = deque()
        self.bulk: deque[Work] = deque()
        self.wake = asyncio.Event()
        self.stopping = False
        self.task: asyncio.Task[None] | None = None
        self.works: dict[tuple[str, int], Work] = {}


class Runner(ConsumerRebalanceListener):
    """Runs ``agent`` as ``stage``. ``fatal(code, why)`` ends the process."""

    def __init__(
        self,
        stage: Stage,
        agent: Agent,
        settings: Settings,
        outbox: Outbox,
        partitions: int,
        fatal: Callable[[int, str], Any],
        *,
        group: str = "",
        ownership: Ownership | None = None,
        fetch: int = 1_048_576,
        clock: Callable[[], float] = time.time,
        make: Callable[[Settings, str, int, int], AIOKafkaConsumer] = make_group_consumer,
    ) -> None:
        self.stage = stage
        self.agent = agent
        self.settings = settings
        self.outbox = outbox
        self.desk = Desk(stage, outbox, settings.largest, clock)
        self.ownership = ownership or Ownership(settings.session)
        self.ready = asyncio.Event()
        self._partitions = partitions
        self._fatal = fatal
        self._clock = clock
        self._consumer: AIOKafkaConsumer = make(settings, group or stage.name, fetch, partitions)
        self._shares: dict[int, Share] = {}
        self._poll = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._behind: list[deque[Work]] = []
        self._stray = 0
        self._taken = 0
        self._paced = time.monotonic()
        self._names = {settings.topic(topic): topic for topic in stage.topics}
        self._in = {topic: metrics.RECORDS_IN.labels(stage.name, topic) for topic in stage.topics}
        self._busy = metrics.STAGE_SECONDS.labels(stage.name)

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group. Returns at once; ``ready`` is set when the first assignment is open."""
        await started(self._consumer)
        self.ownership.watch(self._consumer)
        self._consumer.subscribe(topics=list(self._names), listener=self)
        for name, body in (("poll", self._poll_loop), ("commit", self._commit_loop)):
            task = asyncio.create_task(body(), name=f"{self.stage.name}-{name}")
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Settle what is in work (``drain`` seconds), commit, leave the group."""
        self._stopping = True
        await self._close_shares()
        metrics.OWNED.labels(self.stage.name).set(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await stopped(self._consumer)

    def chain_behind(self, before: Runner, topic: str) -> None:
        """Take what ``before`` emits to ``topic`` in memory, skipping the broker. Stateless stages only.

        The topic is still consumed, so that what lies in it from unchained days is drained. The input of
        ``before`` counts as done when this stage's outputs are acknowledged.
        """
        urgent: deque[Work] = deque()
        bulk: deque[Work] = deque()
        wake = asyncio.Event()
        size = self.stage.slice
        before._behind.append(bulk)

        def take(out: Out, acked: Callable[[], None]) -> None:
            now = int(self._clock() * 1000)
            record = Record(out.topic, out.partition or 0, -1, now, out.key, out.value, out.headers)
            queue = urgent if out.topic.endswith(NOW) else bulk
            queue.append(Work(record, self.desk, lambda _work: acked()))
            wake.set()

        async def pump() -> None:
            while True:
                await wake.wait()
                wake.clear()
                while queue := urgent or bulk:
                    first = queue[0].record
                    works: list[Work] = []
                    while queue and len(works) < size and queue[0].record.partition == first.partition:
                        works.append(queue.popleft())
                    self._in[first.topic].inc(len(works))
                    begun = time.perf_counter()
                    await hand(self.agent, self.desk, works, first.partition)
                    self._busy.inc(time.perf_counter() - begun)
                    await asyncio.sleep(0)

        before.desk.chain[topic] = take
        task = asyncio.get_running_loop().create_task(pump(), name=f"{self.stage.name}-chain")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _share_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:  # without one, its partition was revoked
            self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._stopping:
            return
        error = task.exception()
        code = EXIT_LOG_GONE if isinstance(error, LogGone | Unreadable) else EXIT_BUGS
        if code == EXIT_BUGS:
            log.error("stage %s: %s", self.stage.name, task.get_name(), exc_info=error)
        self._fatal(code, f"stage {self.stage.name}: {task.get_name()} ended: {error!r}")

    # -- reading ------------------------------------------------------------------------------

    async def _poll_loop(self) -> None:
        failing_since = None
        while not self._stopping:
            urgent, bulk = self._with_room()
            suspect = self._next_suspect()
            if suspect is not None and not suspect.rest:
                bulk.append(suspect.tp)
            self._poll += 1
            poll = self._poll
            try:
                found = await self._read(urgent, bulk, suspect is not None and bool(suspect.rest))
                failing_since = None
            except OffsetOutOfRangeError as error:
                raise LogGone(
                    f"stage {self.stage.name}: its position lies outside the log ({error}): the topic was made anew "
                    "or its records were deleted. To read it from its start, delete the group's offsets"
                ) from error
            except UnicodeDecodeError as error:
                near = ", ".join(
                    f"{tp.topic}/{tp.partition}@{self._at(tp)}" for tp in (*urgent, *bulk) if self._at(tp)
                )
                raise Unreadable(
                    f"stage {self.stage.name}: a record has a header name that is not UTF-8 ({error}), and the client "
                    f"cannot go past its batch; it is one of {near} or soon after. To go on without the batch, move "
                    "the group's offset behind it"
                ) from error
            except KafkaError as error:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > FAILING:
                    raise
                log.warning("stage %s could not read: %r; trying again", self.stage.name, error)
                await asyncio.sleep(0.3)
                continue
            if suspect is not None and suspect.rest:
                found = {**found, suspect.tp: suspect.rest}
                suspect.rest = []
            if found:
                await self._note_begun(found, poll)
            for tp, messages in found.items():
                self._take(tp, messages, poll)
            if suspect is not None and self.outbox.trial is suspect and not suspect.mark.span:
                self.outbox.trial = None  # a rebalance came between
            await asyncio.sleep(0)

    async def _read(
        self, urgent: list[TopicPartition], bulk: list[TopicPartition], at_once: bool
    ) -> dict[TopicPartition, list[Any]]:
        consumer, size = self._consumer, self.stage.slice
        if not urgent and not bulk:
            found: dict[TopicPartition, list[Any]] = await consumer.getmany(NOWHERE, timeout_ms=0)
            if not at_once:
                await asyncio.sleep(0.01)
            return found
        if urgent:
            found = await consumer.getmany(*urgent, timeout_ms=0, max_records=size)
            if found:
                return found
        lines = sum(len(share.lines) for share in self._shares.values())
        # A partition that has no room now may have it in a moment, and this call would not see it.
        patience = 0 if at_once else 250 if len(urgent) + len(bulk) == lines else 50
        return dict(await consumer.getmany(*urgent, *bulk, timeout_ms=patience, max_records=size * 2))

    def _with_room(self) -> tuple[list[TopicPartition], list[TopicPartition]]:
        urgent: list[TopicPartition] = []
        bulk: list[TopicPartition] = []
        if self.outbox.full:
            return urgent, bulk
        stage, limit = self.stage, self.settings.window_bytes
        for share in self._shares.values():
            if share.stopping or share.task is None:
                continue
            waiting = len(share.bulk) + len(share.urgent) > stage.slice * 4
            for line in share.lines.values():
                if line.mark.span >= stage.window or line.in_work_bytes >= limit:
                    continue
                if line.alone:
                    continue
                if line.name.endswith(NOW):
                    urgent.append(line.tp)
                elif not waiting:
                    bulk.append(line.tp)
        return urgent, bulk

    def _next_suspect(self) -> Line | None:
        """The line whose next record is to be tried alone: one record in the whole process, in turns, so
        that the guilty one shows itself and no innocent is buried."""
        if self.outbox.trial is not None or self.outbox.full:
            return None
        lines = [
            line
            for share in self._shares.values()
            if share.task is not None and not share.stopping
            for line in share.lines.values()
            if line.alone
        ]
        if not lines:
            return None
        suspect = min(lines, key=lambda line: line.tried)
        suspect.tried = self._poll + 1
        return suspect

    def _at(self, tp: TopicPartition) -> str:
        """The next offset of a partition that the client has fetched records of, or nothing."""
        found = self._consumer._fetcher._records.get(tp)
        records = getattr(found, "_partition_records", None)
        return "" if records is None else str(records.next_fetch_offset)

    def _line(self, tp: TopicPartition, poll: int) -> Line | None:
        share = self._shares.get(tp.partition)
        line = share.lines.get(tp.topic) if share is not None and not share.stopping else None
        return line if line is not None and poll >= line.opened_at_poll else None

    def _take(self, tp: TopicPartition, messages: list[Any], poll: int) -> None:
        share = self._shares.get(tp.partition)
        name = self._names.get(tp.topic)
        line = share.lines.get(tp.topic) if share is not None else None
        if share is None or line is None or name is None or share.stopping:
            return  # not ours (any more): whoever owns it reads it from the committed offset
        first = messages[0].offset
        if poll < line.opened_at_poll or (first > line.next and line.hole != first):
            # A batch of a poll that began before the partition was open, or the hole that dropping one
            # left: go back to our own place. The same hole twice is in the log itself: the marks of a
            # transactional producer are offsets without a record.
            line.hole = first
            self._consumer.seek(tp, line.next)
            return
        if first > line.next:
            log.info("%s: offsets %d to %d hold no records", tp, line.next, first - 1)
            line.next = first
        queue = share.urgent if name.endswith(NOW) else share.bulk
        taken = 0

        def finished(work: Work) -> None:
            self._finished(share, line, work)

        for message in messages:
            if message.offset < line.next:
                continue
            if line.alone and (line.mark.span or self.outbox.trial not in (None, line)):
                line.rest = [m for m in messages if m.offset >= message.offset]
                break
            try:
                record = Record(
                    name,
                    tp.partition,
                    message.offset,
                    message.timestamp,
                    message.key,
                    message.value,
                    headers_from(message.headers),
                )
                bad = None
            except Malformed as error:
                record = Record(
                    name,
                    tp.partition,
                    message.offset,
                    message.timestamp,
                    message.key,
                    message.value,
                    raw_headers(message.headers),
                )
                bad = error
            if line.alone:
                self.outbox.trial = line
            line.mark.take(message.offset)
            line.next = message.offset + 1
            line.in_work_bytes += len(message.value or b"")
            work = Work(record, self.desk, finished)
            share.works[(tp.topic, message.offset)] = work
            taken += 1
            if bad is not None:
                work.reject(bad.code, bad.detail)
            elif line.bury:
                line.bury = False
                work.reject(
                    "crash", "the process ended each time it worked on this record, also when tried alone"
                )
            else:
                queue.append(work)
        if taken:
            self._in[name].inc(taken)
            self._taken += taken
            share.wake.set()

    def _finished(self, share: Share, line: Line, work: Work) -> None:
        offset = work.record.offset
        line.mark.finish(offset)
        line.in_work_bytes -= len(work.record.value or b"")
        share.works.pop((line.tp.topic, offset), None)
        if self.outbox.trial is line:
            self._hurry.set()  # committed at once: a crash from here on is not this record's

    # -- working ------------------------------------------------------------------------------

    async def _work_loop(self, share: Share) -> None:
        stage = self.stage
        while not share.stopping:
            if not share.urgent and not share.bulk:
                share.wake.clear()
                await share.wake.wait()
                continue
            if self.outbox.full or (self._chain_full() and not share.urgent):
                await asyncio.sleep(0.005)
                continue
            queue = share.urgent or share.bulk
            works = [queue.popleft() for _ in range(min(len(queue), stage.slice))]
            begun = time.perf_counter()
            await hand(self.agent, self.desk, works, share.partition)
            self._busy.inc(time.perf_counter() - begun)
            await asyncio.sleep(0)

    def _chain_full(self) -> bool:
        return any(len(queue) > self.stage.slice * CHAIN_SLICES for queue in self._behind)

    # -- ownership ----------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """aiokafka: a rebalance begins. Settle, commit; returns within the drain time."""
        await self._close_shares()

    async def _close_shares(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None and not opening.done():
            opening.cancel()
            await asyncio.wait({opening}, timeout=self.settings.drain)
        shares = list(self._shares.values())
        for share in shares:
            share.stopping = True
            share.wake.set()
        if shares:
            await asyncio.gather(*(self._close(share) for share in shares))
            try:
                async with asyncio.timeout(self.settings.drain):
                    await self._commit()
            except TimeoutError:
                log.warning("stage %s could not commit: the broker does not answer", self.stage.name)
        for share in shares:
            if self.outbox.trial in share.lines.values():
                self.outbox.trial = None
        self._shares.clear()
        self.ownership.turn()
        metrics.OWNED.labels(self.stage.name).set(0)

    async def _close(self, share: Share) -> None:
        try:
            async with asyncio.timeout(self.settings.drain):
                if share.task is not None:
                    await asyncio.wait({share.task}, timeout=self.settings.drain / 2)
                    share.task.cancel()
                await self.agent.revoked(share.partition)
                # What is done but for its acknowledgements may finish; all else is simply not committed.
                while any(work.leaving for work in share.works.values()):
                    await asyncio.sleep(0.005)
        except TimeoutError:
            log.warning(
                "stage %s partition %d did not settle in time; its work is done again",
                self.stage.name,
                share.partition,
            )
        except Exception:
            log.exception("stage %s partition %d failed to close", self.stage.name, share.partition)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """aiokafka: these partitions are ours now. Returns at once: no heartbeat is sent before."""
        epoch = self.ownership.turn()
        if self._stopping:
            return
        self._opening = asyncio.create_task(self._open(set(assigned), epoch), name=f"{self.stage.name}-open")
        self._opening.add_done_callback(self._share_ended)

    async def _open(self, assigned: set[TopicPartition], epoch: int) -> None:
        """Open what was assigned; no record of it counts before. Cancelled when a rebalance overtakes it."""
        mine = {tp for tp in assigned if tp.partition < self._partitions}
        metrics.REBALANCES.labels(self.stage.name).inc()
        numbers = sorted({tp.partition for tp in mine})
        for number in numbers:
            self._shares[number] = Share(number, epoch)
        await asyncio.gather(*(self.agent.assigned(number) for number in numbers))
        places = await self._places(mine)
        for number in numbers:
            share = self._shares[number]
            for tp in sorted(t for t in mine if t.partition == number):
                offset, crashes, alone = places[tp]
                self._consumer.seek(tp, offset)
                line = Line(
                    tp,
                    self._names[tp.topic],
                    epoch,
                    Watermark(offset),
                    offset,
                    self._poll + 1,
                    crashes,
                    alone,
                    offset,
                )
                self._judge(line)
                share.lines[tp.topic] = line
            share.task = asyncio.create_task(self._work_loop(share), name=f"{self.stage.name}-{number}")
            share.task.add_done_callback(self._share_ended)
        metrics.OWNED.labels(self.stage.name).set(len(numbers))
        self.ready.set()
        log.info("stage %s owns partitions %s", self.stage.name, numbers)

    async def _places(self, mine: set[TopicPartition]) -> dict[TopicPartition, tuple[int, int, int]]:
        """Where to read on: committed offset (or the log's start), crashes there, records to try alone."""
        if not mine:
            return {}
        tps = sorted(mine)
        committed = await self._consumer._coordinator.fetch_committed_offsets(tps)
        starts = await self._consumer.beginning_offsets(tps)
        found = {}
        for tp in tps:
            meta = committed.get(tp)
            if meta is None or meta.offset < 0:
                found[tp] = (starts[tp], 0, 0)
                continue
            if meta.offset < starts[tp]:
                raise LogGone(
                    f"stage {self.stage.name}: {tp.topic}/{tp.partition} starts at {starts[tp]} but was read only to "
                    f"{meta.offset}: {starts[tp] - meta.offset} records were deleted unread. Raise the topic's "
                    "retention; to go on without them, move the group's offset by hand"
                )
            crashes, alone = _read_note(meta.metadata)
            found[tp] = (meta.offset, crashes, alone)
        return found

    # -- crashes: a record that kills the process is tried alone, then dead-lettered -----------

    async def _note_begun(self, found: dict[TopicPartition, list[Any]], poll: int) -> None:
        """Note in the offset's metadata that somebody began here: it stays when the process dies.

        Once a start and partition, before its first record is taken, and before each record tried alone.
        """
        offsets = {}
        for tp in found:
            line = self._line(tp, poll)
            if line is None or line.bury or (line.begun and not line.alone):
                continue
            if line.alone and (line.mark.span or self.outbox.trial not in (None, line)):
                continue
            if line.alone:
                self.outbox.trial = line
            self._advance(line)
            line.begun = True
            line.crashes += 1
            offsets[tp] = OffsetAndMetadata(line.mark.position, _note(line))
        if not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except KafkaError as error:
            log.warning("stage %s could not note its start: %r", self.stage.name, error)

    def _advance(self, line: Line) -> None:
        """Progress clears what was counted against an earlier position."""
        position = line.mark.position
        if position > line.counted_at:
            line.alone = max(0, line.alone - (position - line.counted_at))
            line.crashes, line.counted_at = 0, position

    def _judge(self, line: Line) -> None:
        if not line.alone and line.crashes >= CRASHES_ALONE:
            log.error(
                "%s@%d: %d starts ended here; its records are tried one by one",
                line.tp,
                line.next,
                line.crashes,
            )
            line.alone, line.crashes = self.stage.slice * 4, 0
        elif line.alone and line.crashes >= CRASHES_BURIED:
            log.error("%s@%d: the record ends the process also when tried alone", line.tp, line.next)
            line.bury, line.crashes = True, 0

    # -- committing ---------------------------------------------------------------------------

    async def _commit_loop(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self.settings.commit)
            self._hurry.clear()
            if self._consumer._fetcher.error_future.done():
                raise RuntimeError("the client reads no more")
            await self._commit()
            self._pace()
            self._gauges()

    def _pace(self) -> None:
        """A fetch costs as much as 20 records, more where a stage has many topics: under load fetch less often.

        The client has no setting that can be changed while it runs: these are its own (the version is
        pinned; tests/streams/test_pace.py looks that they still work).
        """
        now = time.monotonic()
        busy = self._taken > BUSY * (now - self._paced)
        self._taken, self._paced = 0, now
        fetcher = self._consumer._fetcher
        fetcher._fetch_min_bytes = MUCH if busy else 1
        patience = int(self.stage.patience * 1000)
        fetcher._fetch_max_wait_ms = patience if busy else fetch_wait_ms(self.settings)

    async def _commit(self) -> None:
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        lines: list[tuple[Line, int]] = []
        for share in self._shares.values():
            for line in share.lines.values():
                position = line.mark.position
                self._advance(line)
                if share.stopping and line.begun:
                    line.begun = False
                    line.crashes = max(0, line.crashes - 1)  # an orderly end is no crash
                elif position == line.committed:
                    continue
                offsets[line.tp] = OffsetAndMetadata(position, _note(line))
                lines.append((line, position))
        if not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalGenerationError):
            metrics.COMMITS.labels(self.stage.name, "fenced").inc()
            return
        except KafkaError as error:
            metrics.COMMITS.labels(self.stage.name, "failed").inc()
            log.warning("stage %s could not commit: %r; it tries again", self.stage.name, error)
            return
        metrics.COMMITS.labels(self.stage.name, "ok").inc()
        for line, position in lines:
            line.committed = position
            if self.outbox.trial is line and not line.mark.span:
                self.outbox.trial = None

    def _gauges(self) -> None:
        self.desk.written.flush()
        name, now = self.stage.name, self._clock()
        in_work, oldest = 0, 0.0
        lag = dict.fromkeys(self._in, 0)
        for share in self._shares.values():
            in_work += len(share.works)
            for line in share.lines.values():
                first = line.mark.oldest
                work = share.works.get((line.tp.topic, first)) if first is not None else None
                if work is not None:
                    oldest = max(oldest, now - work.record.timestamp / 1000)
                high = self._consumer.highwater(line.tp)
                if high is not None:
                    lag[line.name] += max(0, high - line.next)
        stray = sum(
            max(0, len(self._consumer.partitions_for_topic(topic) or ()) - self._partitions)
            for topic in self._names
        )
        if stray > self._stray:
            log.error(
                "stage %s: the broker shows %d partitions beyond P=%d; nobody reads them",
                name,
                stray,
                self._partitions,
            )
        self._stray = stray
        metrics.STRAY_PARTITIONS.labels(name).set(stray)
        metrics.IN_WORK.labels(name).set(in_work)
        metrics.OLDEST.labels(name).set(oldest)
        metrics.UNACKED.labels(name).set(self.outbox.unacked)
        for topic, count in lag.items():
            metrics.LAG.labels(name, topic).set(count)


def _note(line: Line) -> str:
    return f"c{line.crashes}a{line.alone}" if line.crashes or line.alone else ""


def _read_note(text: str | None) -> tuple[int, int]:
    """Crashes and records to try alone from an offset's metadata: a hint, never truth."""
    if not text or not text.startswith("c"):
        return 0, 0
    crashes, _, alone = text[1:].partition("a")
    return (int(crashes) if crashes.isdigit() else 0), (int(alone) if alone.isdigit() else 0)

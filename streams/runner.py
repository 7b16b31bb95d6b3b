"""The only consume loop of the send plane: one stage in one process.

What it promises (design, "Nothing lost, nothing twice", 2): an input offset is committed only when every
output of it and of all records before it is acknowledged, or its dead letter is. What it takes care of,
each measured and each with a test in tests/streams/test_runner_*.py:

- records of a new assignment can come out before ``on_partitions_assigned`` has ended: a batch counts
  only if its poll began after the partition was opened and sought; else the partition is sought back;
- ``getmany`` waits for an assignment without a time-out: no lock is held around it;
- ``pause()`` throws the prefetch away: nothing is ever paused; only partitions with room are polled;
- the twins (transactional) are polled first, and each partition has a line of its own, so that a stage
  that waits (Retry) for one does not hold the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalGenerationError, KafkaError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata

from agents import Agent, Out, Stage
from schemas.codec import Malformed, Record, headers_from
from schemas.mail import NOW
from streams import metrics
from streams.broker import Outbox, make_group_consumer, raw_headers, started
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


class LogGone(Exception):
    """The committed position lies outside the log."""


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
    """Starts at this position that ended without progress."""
    alone: int = 0
    """Records still to be tried one at a time."""
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
        make: Callable[[Settings, str, int], AIOKafkaConsumer] = make_group_consumer,
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
        self._consumer: AIOKafkaConsumer = make(settings, group or stage.name, fetch)
        self._shares: dict[int, Share] = {}
        self._poll = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._consumer.stop()

    def chain_behind(self, before: Runner, topic: str) -> None:
        """Take what ``before`` emits to ``topic`` in memory, skipping the broker. Stateless stages only.

        The topic is still consumed, so that what lies in it from unchained days is drained. The input of
        ``before`` counts as done when this stage's outputs are acknowledged.
        """
        queue: deque[Work] = deque()
        wake = asyncio.Event()

        def take(out: Out, acked: Callable[[], None]) -> None:
            now = int(self._clock() * 1000)
            record = Record(out.topic, out.partition or 0, -1, now, out.key, out.value, out.headers)
            queue.append(Work(record, self.desk, lambda _work: acked()))
            wake.set()

        async def pump() -> None:
            while True:
                await wake.wait()
                wake.clear()
                while queue:
                    works = [queue.popleft() for _ in range(min(len(queue), self.stage.slice))]
                    self._in[works[0].record.topic].inc(len(works))
                    begun = time.perf_counter()
                    await hand(self.agent, self.desk, works, works[0].record.partition)
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
        code = EXIT_LOG_GONE if isinstance(error, LogGone) else EXIT_BUGS
        self._fatal(code, f"stage {self.stage.name}: {task.get_name()} ended: {error!r}")

    # -- reading ------------------------------------------------------------------------------

    async def _poll_loop(self) -> None:
        consumer = self._consumer
        while not self._stopping:
            urgent, bulk = self._with_room()
            if not bulk and not urgent:
                if any(
                    line.alone and not line.mark.span
                    for s in self._shares.values()
                    for line in s.lines.values()
                ):
                    await self._commit()
                await asyncio.sleep(0.01)
                continue
            self._poll += 1
            poll = self._poll
            found: dict[TopicPartition, list[Any]] = {}
            try:
                if urgent:
                    found = await consumer.getmany(*urgent, timeout_ms=0, max_records=self.stage.slice)
                if not found:
                    found = await consumer.getmany(
                        *urgent, *bulk, timeout_ms=50, max_records=self.stage.slice * 2
                    )
            except OffsetOutOfRangeError as error:
                raise LogGone(
                    f"stage {self.stage.name}: its position lies outside the log ({error}): the topic was made anew "
                    "or its records were deleted. To read it from its start, delete the group's offsets"
                ) from error
            except KafkaError as error:
                log.warning("stage %s could not read: %r; trying again", self.stage.name, error)
                await asyncio.sleep(0.3)
                continue
            for tp, messages in found.items():
                self._take(tp, messages, poll)
            await asyncio.sleep(0)

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
                if line.alone and (line.mark.span or line.mark.position != line.committed):
                    continue  # one at a time, each committed before the next: the guilty one shows itself
                if line.mark.span >= stage.window or line.in_work_bytes >= limit:
                    continue
                if line.name.endswith(NOW):
                    urgent.append(line.tp)
                elif not waiting:
                    bulk.append(line.tp)
        return urgent, bulk

    def _take(self, tp: TopicPartition, messages: list[Any], poll: int) -> None:
        share = self._shares.get(tp.partition)
        name = self._names.get(tp.topic)
        line = share.lines.get(tp.topic) if share is not None else None
        if share is None or line is None or name is None or share.stopping:
            return  # not ours (any more): whoever owns it reads it from the committed offset
        first = messages[0].offset
        if poll < line.opened_at_poll or (first > line.next and line.hole != first):
            # A batch of a poll that began before the partition was open, or the hole that dropping one
            # left: go back to our own place. The same hole twice is in the log itself.
            line.hole = first
            self._consumer.seek(tp, line.next)
            return
        if first > line.next:
            log.error("%s: offsets %d to %d are missing in the log", tp, line.next, first - 1)
            line.next = first
        queue = share.urgent if name.endswith(NOW) else share.bulk
        taken = 0

        def finished(work: Work) -> None:
            self._finished(share, line, work)

        for message in messages:
            if message.offset < line.next:
                continue
            if line.alone and line.mark.span:
                self._consumer.seek(tp, message.offset)
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
            share.wake.set()

    def _finished(self, share: Share, line: Line, work: Work) -> None:
        offset = work.record.offset
        line.mark.finish(offset)
        line.in_work_bytes -= len(work.record.value or b"")
        share.works.pop((line.tp.topic, offset), None)

    # -- working ------------------------------------------------------------------------------

    async def _work_loop(self, share: Share) -> None:
        stage = self.stage
        while not share.stopping:
            if not share.urgent and not share.bulk:
                share.wake.clear()
                await share.wake.wait()
                continue
            if self.outbox.full:
                await asyncio.sleep(0.005)
                continue
            queue = share.urgent or share.bulk
            works = [queue.popleft() for _ in range(min(len(queue), stage.slice))]
            begun = time.perf_counter()
            await hand(self.agent, self.desk, works, share.partition)
            self._busy.inc(time.perf_counter() - begun)
            await asyncio.sleep(0)

    # -- ownership ----------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """aiokafka: a rebalance begins. Settle, commit; returns within the drain time."""
        await self._close_shares()

    async def _close_shares(self) -> None:
        shares = list(self._shares.values())
        for share in shares:
            share.stopping = True
            share.wake.set()
        if shares:
            await asyncio.gather(*(self._close(share) for share in shares))
            await self._commit()
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
                # Records never started are simply not committed; those with outputs on the way may finish.
                unstarted = {id(work) for work in (*share.urgent, *share.bulk)}
                for work in list(share.works.values()):
                    while id(work) not in unstarted and not work.kept and not work.finished:  # noqa: ASYNC110
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
        """aiokafka: these partitions are ours now. Opens them before any record of them counts."""
        try:
            await self._open_shares(set(assigned))
        except LogGone as error:
            self._fatal(EXIT_LOG_GONE, str(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("stage %s could not open its partitions", self.stage.name)
            self._fatal(EXIT_BUGS, f"stage {self.stage.name} could not open its partitions: {error!r}")

    async def _open_shares(self, assigned: set[TopicPartition]) -> None:
        epoch = self.ownership.turn()
        mine = {tp for tp in assigned if tp.partition < self._partitions}
        stray = len(assigned) - len(mine)
        metrics.STRAY_PARTITIONS.labels(self.stage.name).set(stray)
        metrics.REBALANCES.labels(self.stage.name).inc()
        if stray:
            log.error(
                "stage %s: the broker shows %d partitions beyond P=%d; they are ignored",
                self.stage.name,
                stray,
                self._partitions,
            )
        numbers = sorted({tp.partition for tp in mine})
        await asyncio.gather(*(self.agent.assigned(number) for number in numbers))
        places = await self._places(mine)
        if epoch != self.ownership.epoch:
            return  # a newer rebalance has overtaken this one
        for number in numbers:
            share = Share(number, epoch)
            for tp in sorted(t for t in mine if t.partition == number):
                offset, crashes, alone = places[tp]
                self._consumer.seek(tp, offset)
                share.lines[tp.topic] = Line(
                    tp,
                    self._names[tp.topic],
                    epoch,
                    Watermark(offset),
                    offset,
                    self._poll + 1,
                    crashes,
                    alone,
                )
            self._shares[number] = share
        await self._mark_begun()
        for number in numbers:
            share = self._shares[number]
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

    async def _mark_begun(self) -> None:
        """Note in the offset's metadata that somebody began here: it stays when the process dies."""
        offsets = {}
        for share in self._shares.values():
            for line in share.lines.values():
                self._judge(line)
                line.crashes += 1
                line.committed = line.mark.position
                offsets[line.tp] = OffsetAndMetadata(line.next, _note(line))
        try:
            await self._consumer.commit(offsets)
        except KafkaError as error:
            log.warning("stage %s could not note its start: %r", self.stage.name, error)

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
            await asyncio.sleep(self.settings.commit)
            await self._commit()
            self._gauges()

    async def _commit(self) -> None:
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        lines: list[tuple[Line, int]] = []
        for share in self._shares.values():
            for line in share.lines.values():
                position = line.mark.position
                if position == line.committed and not share.stopping:
                    continue
                if position > line.committed:
                    line.alone = max(0, line.alone - max(0, position - line.committed))
                    line.crashes = 0
                elif share.stopping:
                    line.crashes = max(0, line.crashes - 1)  # an orderly end is no crash
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

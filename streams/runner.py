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
- a fetch waits under load until much has come, and has one answer for all its partitions: the twins
  (transactional) have a reader of their own, which waits for nothing, and are worked on first. Each
  partition has a line of its own, so that a stage that waits (Retry) for one does not hold the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalGenerationError, KafkaError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata

from agents import Agent, Out, Stage
from schemas.codec import Malformed, Record, headers_from
from schemas.mail import NOW
from streams import metrics
from streams.broker import (
    EXIT_SEND_FAILED,
    Outbox,
    fetch_wait_ms,
    let_go,
    make_group_consumer,
    make_swift_reader,
    raw_headers,
    started,
    stopped,
)
from streams.incarnation import Mark, Marks, read_marks, strangers
from streams.lines import Line, Share, beyond, read_note
from streams.notes import Notes
from streams.ownership import Ownership
from streams.settings import Settings
from streams.watermark import Watermark
from streams.work import Desk, Turns, Work, hand

log = logging.getLogger("mailsluice.runner")

EXIT_LOG_GONE = 78
"""EX_CONFIG: the log no longer holds what the stage has to read; a person must decide."""
EXIT_BUGS = 70
"""EX_SOFTWARE: too many records raised."""
NOWHERE = TopicPartition("", 0)
"""Polled where nothing has room: it keeps the membership and takes no record."""
FAILING = 30.0
"""Seconds for which every read may fail (the client retries an outage by itself) before the process ends."""
BUSY = 25.0
"""Records/s from which on a fetch waits for MUCH bytes, but no longer than the stage's patience, not for the
first record."""
MUCH = 131_072
TURN = 0.003
"""Seconds that a slice should take where transactional mail may come: what comes has to be read, which takes
some ten turns of the loop, and each turn has a slice of bulk in it."""
LEAST = 4
"""Records of a slice that took longer than that: it may have waited for something."""
WEIGHT = 6_144
"""Bytes that a record in work takes beside its value, measured in deliver: headers, ticket, what the agent keeps of
it, what the allocator loses."""
LOOK = 60.0
"""Seconds between looks whether a topic is still the log that was read before."""
CHAIN_SLICES = 4
"""Slices that may wait for a chained stage before the stage before it waits."""


class LogGone(Exception):
    """The committed position lies outside the log."""


class Unreadable(Exception):
    """The client cannot take a batch apart, and so cannot go past it."""


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
        make_swift: Callable[[Settings], AIOKafkaConsumer] = make_swift_reader,
        turns: Turns | None = None,
        notes: Notes | None = None,
    ) -> None:
        """``turns``: shared by the runners of a process. ``notes``: where the broker keeps no metadata."""
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
        self._notes = notes
        self._consumer: AIOKafkaConsumer = make(settings, group or stage.name, fetch, partitions)
        self._swift = make_swift(settings) if any(topic.endswith(NOW) for topic in stage.topics) else None
        """Reads the twins; the group's own consumer has them paused."""
        self._shares: dict[int, Share] = {}
        self._poll = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._behind: list[deque[Work]] = []
        self._stray = 0
        self._turns = turns or Turns()
        self._taken = 0
        self._size = min(stage.slice, LEAST) if stage.twins else stage.slice
        """Records handed over at once."""
        self._paced = time.monotonic()
        self._names = {settings.topic(topic): topic for topic in stage.topics}
        self._in = {topic: metrics.RECORDS_IN.labels(stage.name, topic) for topic in stage.topics}
        self._busy = metrics.STAGE_SECONDS.labels(stage.name)

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group. Returns at once; ``ready`` is set when the first assignment is open."""
        await started(self._consumer)
        if self._swift is not None:
            await started(self._swift)
        self.ownership.watch(self._consumer)
        self._consumer.subscribe(topics=list(self._names), listener=self)
        bodies = [
            ("poll", self._poll_loop(self._consumer)),
            ("commit", self._commit_loop()),
            ("look", self._look_loop()),
        ]
        if self._swift is not None:
            bodies.append(("poll-now", self._poll_loop(self._swift)))
        for name, body in bodies:
            task = asyncio.create_task(body, name=f"{self.stage.name}-{name}")
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
        if self._swift is not None:
            await stopped(self._swift)

    def chain_behind(self, before: Runner, topic: str) -> None:
        """Take what ``before`` emits to ``topic`` in memory, skipping the broker. Stateless stages only.

        The topic is still consumed, so that what lies in it from unchained days is drained. The input of
        ``before`` counts as done when this stage's outputs are acknowledged.
        """
        urgent: deque[Work] = deque()
        bulk: deque[Work] = deque()
        wake = asyncio.Event()
        before._behind.append(bulk)

        def take(out: Out, acked: Callable[[], None]) -> None:
            now = int(self._clock() * 1000)
            record = Record(out.topic, out.partition or 0, -1, now, out.key, out.value, out.headers)
            queue = bulk
            if out.topic.endswith(NOW):
                queue = urgent
                self._turns.urgent()
            queue.append(Work(record, self.desk, lambda _work: acked()))
            wake.set()

        async def pump() -> None:
            while True:
                await wake.wait()
                wake.clear()
                while urgent or bulk:
                    if not urgent:
                        await self._turns.next()
                    queue = urgent or bulk
                    first = queue[0].record
                    works: list[Work] = []
                    while queue and len(works) < self._size and queue[0].record.partition == first.partition:
                        works.append(queue.popleft())
                    self._in[first.topic].inc(len(works))
                    await self._hand(works, first.partition)

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
        if isinstance(error, KafkaError):  # the broker has been away for too long: no bug of ours
            code = EXIT_SEND_FAILED
        if code == EXIT_BUGS:
            log.error("stage %s: %s", self.stage.name, task.get_name(), exc_info=error)
        self._fatal(code, f"stage {self.stage.name}: {task.get_name()} ended: {error!r}")

    # -- reading ------------------------------------------------------------------------------

    async def _poll_loop(self, reader: AIOKafkaConsumer) -> None:
        failing_since = None
        while not self._stopping:
            room, waits = self._with_room(reader)
            suspect = self._next_suspect(reader)
            if suspect is not None and not suspect.rest:
                room.append(suspect.tp)
            self._poll += 1
            poll = self._poll
            try:
                at_once = suspect is not None and bool(suspect.rest)
                found = await self._read(reader, room, 0 if at_once else 50 if waits else 250)
                failing_since = None
            except OffsetOutOfRangeError as error:
                raise LogGone(
                    f"stage {self.stage.name}: its position lies outside the log ({error}): the topic was made anew "
                    "or its records were deleted. To read it from its start, delete the group's offsets"
                ) from error
            except UnicodeDecodeError as error:
                near = ", ".join(
                    f"{tp.topic}/{tp.partition}@{at}" for tp in room if (at := _place(reader, tp))
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
        self, reader: AIOKafkaConsumer, room: list[TopicPartition], patience: int
    ) -> dict[TopicPartition, list[Any]]:
        if room:
            return dict(await reader.getmany(*room, timeout_ms=patience, max_records=self.stage.slice * 2))
        found: dict[TopicPartition, list[Any]] = {}
        if reader is self._consumer:
            found = await reader.getmany(NOWHERE, timeout_ms=0)
        if patience:
            await asyncio.sleep(0.01)
        return found

    def _with_room(self, reader: AIOKafkaConsumer) -> tuple[list[TopicPartition], bool]:
        """Partitions of this reader to take from, and whether others have no room just now: they may have it in
        a moment, and a long call would not see it."""
        room: list[TopicPartition] = []
        if self.outbox.full_now if reader is self._swift else self.outbox.full:
            return room, True
        stage = self.stage
        shares = [share for share in self._shares.values() if share.task is not None and not share.stopping]
        lines = [line for share in shares for line in share.lines.values()]
        full, part = beyond(lines, self.settings.window_bytes)
        waits = False
        for share in shares:
            queue = share.urgent if reader is self._swift else share.bulk
            crowded = len(queue) > stage.slice * 4
            for line in share.lines.values():
                if line.reader is not reader:
                    continue
                no_room = line.mark.span >= stage.window or (line.name in full and line.in_work_bytes >= part)
                if crowded or line.alone or no_room:
                    waits = True
                else:
                    room.append(line.tp)
        return room, waits

    def _next_suspect(self, reader: AIOKafkaConsumer) -> Line | None:
        """The line whose next record is to be tried alone: one record in the whole process, in turns, so
        that the guilty one shows itself and no innocent is buried."""
        if self.outbox.trial is not None or self.outbox.full:
            return None
        lines = [
            line
            for share in self._shares.values()
            if share.task is not None and not share.stopping
            for line in share.lines.values()
            if line.alone and line.reader is reader
        ]
        if not lines:
            return None
        suspect = min(lines, key=lambda line: line.tried)
        suspect.tried = self._poll + 1
        return suspect

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
            line.reader.seek(tp, line.next)
            return
        if first > line.next:
            log.info("%s: offsets %d to %d hold no records", tp, line.next, first - 1)
            line.next = first
        queue = share.urgent if name.endswith(NOW) else share.bulk
        taken = passed = 0
        skips = self.stage.skips
        last = None

        def finished(work: Work) -> None:
            self._finished(share, line, work)

        for message in messages:
            if message.offset < line.next:
                continue
            if line.alone and (line.mark.span or self.outbox.trial not in (None, line)):
                line.rest = [m for m in messages if m.offset >= message.offset]
                break
            last = message
            if skips and not line.alone and not line.bury and _kind(message.headers) in skips:
                line.mark.take(message.offset)
                line.mark.finish(message.offset)
                line.next = message.offset + 1
                passed += 1
                continue
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
            line.in_work_bytes += len(message.value or b"") + WEIGHT
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
        if last is not None:
            line.marks.saw(last)
            self._taken += taken + passed
        if taken:
            if queue is share.urgent:
                self._turns.urgent()
            self._in[name].inc(taken)
            share.wake.set()

    def _finished(self, share: Share, line: Line, work: Work) -> None:
        offset = work.record.offset
        line.mark.finish(offset)
        line.in_work_bytes -= len(work.record.value or b"") + WEIGHT
        share.works.pop((line.tp.topic, offset), None)
        if self.outbox.trial is line:
            self._hurry.set()  # committed at once: a crash from here on is not this record's

    # -- working ------------------------------------------------------------------------------

    async def _work_loop(self, share: Share) -> None:
        while not share.stopping:
            if not share.urgent and not share.bulk:
                share.wake.clear()
                await share.wake.wait()
                continue
            if self.outbox.full_now if share.urgent else (self.outbox.full or self._chain_full()):
                await asyncio.sleep(0.005)
                continue
            if not share.urgent:
                await self._turns.next()
                if share.stopping:
                    return
            queue = share.urgent or share.bulk
            await self._hand([queue.popleft() for _ in range(min(len(queue), self._size))], share.partition)

    async def _hand(self, works: list[Work], partition: int) -> None:
        """A slice through the agent; the next one is as large as fits into a turn."""
        begun = time.perf_counter()
        await hand(self.agent, self.desk, works, partition)
        took = time.perf_counter() - begun
        self._busy.inc(took)
        if self.stage.twins and (took > TURN or len(works) == self._size):
            fits = min(2 * self._size, int(TURN * len(works) / took)) if took else self.stage.slice
            self._size = min(self.stage.slice, max(LEAST, fits))
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
            for line in share.lines.values():
                let_go(line.reader, [line.tp])
            share.clear()
        self._shares.clear()
        if self._swift is not None:
            self._swift.assign([])
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
        now = sorted(tp for tp in mine if tp.topic.endswith(NOW)) if self._swift is not None else []
        if self._swift is not None:
            self._consumer.pause(*now)
            self._swift.assign(now)
        for number in numbers:
            share = self._shares[number]
            for tp in sorted(t for t in mine if t.partition == number):
                offset, crashes, alone, marks = places[tp]
                reader = self._swift if self._swift is not None and tp in now else self._consumer
                self._consumer.seek(tp, offset)
                reader.seek(tp, offset)
                line = Line(
                    tp,
                    self._names[tp.topic],
                    reader,
                    epoch,
                    Watermark(offset),
                    offset,
                    self._poll + 1,
                    marks,
                    crashes,
                    alone,
                    offset,
                )
                line.judge(self.stage.slice * 4)
                share.lines[tp.topic] = line
            share.task = asyncio.create_task(self._work_loop(share), name=f"{self.stage.name}-{number}")
            share.task.add_done_callback(self._share_ended)
        metrics.OWNED.labels(self.stage.name).set(len(numbers))
        self.ready.set()
        log.info("stage %s owns partitions %s", self.stage.name, numbers)

    async def _places(self, mine: set[TopicPartition]) -> dict[TopicPartition, tuple[int, int, int, Marks]]:
        """Where to read on: committed offset (or the log's start), crashes there, records to try alone, marks."""
        if not mine:
            return {}
        tps = sorted(mine)
        committed = await self._consumer._coordinator.fetch_committed_offsets(tps)
        starts = await self._consumer.beginning_offsets(tps)
        found = {}
        for tp in tps:
            meta = committed.get(tp)
            if meta is None or meta.offset < 0:
                if starts[tp] > 0:
                    log.warning(
                        "stage %s: no committed offset of %s/%d (a new group, or it expired at the broker); it "
                        "reads from the log's start, %d: what it did before is done again, and what was deleted "
                        "there is not seen",
                        self.stage.name,
                        tp.topic,
                        tp.partition,
                        starts[tp],
                    )
                found[tp] = (starts[tp], 0, 0, Marks())
                continue
            if meta.offset < starts[tp]:
                raise LogGone(
                    f"stage {self.stage.name}: {tp.topic}/{tp.partition} starts at {starts[tp]} but was read only to "
                    f"{meta.offset}: {starts[tp] - meta.offset} records were deleted unread. Raise the topic's "
                    "retention; to go on without them, move the group's offset by hand"
                )
            note = meta.metadata or (
                self._notes.read(tp.topic, tp.partition, meta.offset) if self._notes else ""
            )
            crashes, alone = read_note(note)
            found[tp] = (meta.offset, crashes, alone, Marks(read_marks(meta.metadata or "")))
        await self._look({tp: place[3].at(place[0]) for tp, place in found.items()})
        return found

    async def _look(self, marks: dict[TopicPartition, list[Mark]]) -> None:
        """Raises LogGone where a topic is not the log that we read before."""
        told = await strangers(self.settings, {tp: some for tp, some in marks.items() if some})
        if told:
            raise LogGone(
                f"stage {self.stage.name}: {'; '.join(told[:5])} ({len(told)} in all): the topic was made anew, or "
                "lost its end. To read it from its start, delete the group's offsets; to go on where the stage "
                "stands, commit the same offsets without metadata"
            )

    async def _look_loop(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            lines = [line for share in self._shares.values() for line in share.lines.values()]
            newest = {line: line.marks.newest(line.mark.position) for line in lines}
            try:
                await self._look({line.tp: line.marks.at(line.mark.position) for line in lines})
            except KafkaError as error:
                log.warning(
                    "stage %s could not look whether its topics are the same: %r", self.stage.name, error
                )
                continue
            for line, mark in newest.items():  # read before the anchor was found to be there still
                line.marks.anchor = mark or line.marks.anchor

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
            line.advance()
            line.begun = True
            line.crashes += 1
            offsets[tp] = OffsetAndMetadata(line.mark.position, line.note())
        if not offsets:
            return
        self._note_here(offsets)
        try:
            await self._consumer.commit(offsets)
        except KafkaError as error:
            log.warning("stage %s could not note its start: %r", self.stage.name, error)

    def _note_here(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        if self._notes is not None:
            for tp, meta in offsets.items():
                self._notes.write(tp.topic, tp.partition, meta.offset, meta.metadata)

    # -- committing ---------------------------------------------------------------------------

    async def _commit_loop(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self.settings.commit)
            self._hurry.clear()
            readers = (self._consumer, self._swift)
            if any(reader is not None and reader._fetcher.error_future.done() for reader in readers):
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
                line.advance()
                if share.stopping and line.begun:
                    line.begun = False
                    line.crashes = max(0, line.crashes - 1)  # an orderly end is no crash
                    self._note_here({line.tp: OffsetAndMetadata(position, line.note())})
                elif position == line.committed:
                    continue
                offsets[line.tp] = OffsetAndMetadata(position, line.note())
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
                high = line.reader.highwater(line.tp)
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


def _kind(headers: Any) -> bytes | None:
    """The header ``kind``: the last one that is named so, as ``headers_from`` has it."""
    for name, value in reversed(headers):
        if name == "kind":
            return value
    return None


def _place(reader: AIOKafkaConsumer, tp: TopicPartition) -> str:
    """The next offset of a partition that the client has fetched records of, or nothing."""
    records = getattr(reader._fetcher._records.get(tp), "_partition_records", None)
    return "" if records is None else str(records.next_fetch_offset)

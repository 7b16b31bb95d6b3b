"""A record in work: the ticket that agents get, and how a batch of them is handed over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from agents import Agent, Out, Retry, Stage
from schemas.codec import Malformed, Record
from schemas.mail import NOW, base_topic
from streams import metrics
from streams.broker import AT_ONCE, BULK, PROMPT, Outbox
from streams.counting import Written
from streams.topics import BY_NAME

log = logging.getLogger("mailsluice.work")


LIKELY = 10.0
"""Seconds after a transactional mail in which the next one is expected."""
FREE = 4
"""Turns of the event loop without bulk between two slices then."""


class BugLimit(Exception):
    """So many records raised that the code is at fault, not they: the stage stops."""


class Turns:
    """Lets one slice of bulk run in a turn of the event loop, over all stages and partitions of a process.

    Else each turn has as many slices in it as there are partitions at work, and a transactional mail, which
    takes some ten turns from the socket to its agent, waits for all of them. While transactional mail flows,
    only every fifth turn has a slice: an empty turn costs 20 µs, a slice 3 ms.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False
        self._until = float("-inf")

    def urgent(self) -> None:
        """Transactional mail came: more of it is likely to."""
        self._until = self._monotonic() + LIKELY

    async def next(self) -> None:
        """Wait for a turn, in the order of asking."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._pass_on, self._free())
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _free(self) -> int:
        return FREE if self._monotonic() < self._until else 0

    def _pass_on(self, free: int) -> None:
        loop = asyncio.get_running_loop()
        if free:
            loop.call_soon(self._pass_on, free - 1)
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # a cancelled one takes no turn
                turn.set_result(None)
                loop.call_soon(self._pass_on, self._free())
                return
        self._taken = False


class Desk:
    """What all tickets of one stage in one process share."""

    def __init__(
        self,
        stage: Stage,
        outbox: Outbox,
        largest: int,
        clock: Callable[[], float] = time.time,
        bugs_allowed: int = 20,
    ) -> None:
        self.stage = stage
        self.outbox = outbox
        self.largest = largest
        self.clock = clock
        self.chain: dict[str, Callable[[Out, Callable[[], None]], None]] = {}
        self.written = Written(stage.name, stage.emits)
        self._bugs: list[float] = []
        self._bugs_allowed = bugs_allowed

    def write(self, out: Out, acked: Callable[[], None], urgent: bool) -> None:
        """An output goes to the chained stage of this process, or to the broker."""
        chained = self.chain.get(base_topic(out.topic))
        if chained is not None:
            chained(out, acked)
        else:
            self.written.add(out)
            haste = AT_ONCE if urgent else PROMPT if self.stage.prompt else BULK
            self.outbox.put(out, lambda _offset: acked(), haste)

    def bug(self, work: Work, error: BaseException) -> None:
        """An agent raised on this record alone: dead letter, ERROR, and a limit on their rate."""
        log.error(
            "stage %s raised on %s/%s@%s; the record goes to the dead letters",
            self.stage.name,
            work.record.topic,
            work.record.partition,
            work.record.offset,
            exc_info=error,
        )
        work.reject("bug", f"{type(error).__name__}: {error}")

    def count_bug(self, detail: str) -> None:
        """Raises BugLimit when more than ``bugs_allowed`` records raised within a minute."""
        metrics.BUGS.labels(self.stage.name).inc()
        now = self.clock()
        self._bugs = [at for at in self._bugs if at > now - 60] + [now]
        if len(self._bugs) > self._bugs_allowed:
            raise BugLimit(
                f"stage {self.stage.name}: {len(self._bugs)} records raised within a minute; last: {detail}"
            )


class Work:
    """One record in work (agents see it as ``Ticket``)."""

    __slots__ = ("_desk", "_on_finish", "_pending", "_said_done", "finished", "kept", "record", "settled")

    def __init__(self, record: Record, desk: Desk, on_finish: Callable[[Work], None]) -> None:
        self.record = record
        self._desk = desk
        self._on_finish = on_finish
        self._pending = 0
        self._said_done = False
        self.finished = False
        self.kept = False
        self.settled = False

    def emit(self, out: Out, acked: Callable[[], None] | None = None) -> None:
        """Write an output; too large a one dead-letters the record instead."""
        size = out_size(out)
        if size > self._desk.largest:
            self.reject(
                "too_large", f"an output for {out.topic} has {size} bytes, the limit is {self._desk.largest}"
            )
            return
        self._pending += 1
        then = self._acknowledged if acked is None else lambda: self._acknowledged_then(acked)
        self._desk.write(out, then, self.record.topic.endswith(NOW))

    def _acknowledged(self) -> None:
        self._pending -= 1
        if self._said_done and not self._pending:
            self._finish()

    def _acknowledged_then(self, acked: Callable[[], None]) -> None:
        try:
            acked()  # may emit more: the count must not reach zero before
        except Exception as error:
            # What should have followed was not written: the record must never count as done.
            self._desk.outbox.end(EXIT_RAISED, f"stage {self._desk.stage.name} raised on an answer", error)
            return
        self._acknowledged()

    @property
    def leaving(self) -> bool:
        """Done but for acknowledgements on their way."""
        return self._said_done and not self.finished

    def done(self) -> None:
        """No further output: finished when all are acknowledged."""
        self.settled = True
        self._said_done = True
        if not self._pending:
            self._finish()

    def keep(self) -> None:
        """Done comes later."""
        self.settled = True
        self.kept = True

    def reject(self, reason: str, detail: str) -> None:
        """To the dead letters, as it came."""
        if self._said_done:
            return
        metrics.DEAD_LETTERS.labels(self._desk.stage.name, reason).inc()
        if reason == "bug":
            self._desk.count_bug(detail)
        self._pending += 1
        self._desk.outbox.put(
            dead_letter(
                self.record, self._desk.stage.name, reason, detail, self._desk.clock(), self._desk.largest
            ),
            lambda _o: self._acknowledged(),
        )
        self.done()

    def _finish(self) -> None:
        if not self.finished:
            self.finished = True
            self._on_finish(self)


EXIT_RAISED = 70
"""EX_SOFTWARE: an agent raised where no record can be singled out."""
_SHORT = 1024


def out_size(out: Out) -> int:
    """Bytes of value, key and headers: what counts against the limit of a record."""
    size = len(out.value or b"") + len(out.key or b"")
    for name, value in out.headers.items():
        size += len(name) + len(value)
    return size


def dead_letter(
    record: Record, stage: str, reason: str, detail: str, now: float, largest: int = 12_000_000
) -> Out:
    """A record as it came, for the dead letters of its topic, with the reason in headers ``dlq_*``.

    What is larger than ``largest`` bytes could not be written and would end the process each time: long
    headers and the value are cut then, ``dlq_cut`` has the size that it had. The original stays in its
    topic until its retention ends.
    """
    topic = BY_NAME.get(base_topic(record.topic))
    # What an outsider wrote under our names would be taken for our word: that it was cut, for one.
    headers = {name: content for name, content in record.headers.items() if not name.startswith("dlq_")}
    value = record.value
    if record.size > largest:
        headers = {name[:_SHORT]: content[:_SHORT] for name, content in list(headers.items())[:50]}
        headers["dlq_cut"] = b"%d" % record.size
        value = None if value is None else value[: max(0, largest - 60 * 2 * _SHORT)]
    headers.update(
        {
            "dlq_reason": reason.encode(),
            "dlq_detail": detail[:1000].encode("utf-8", "replace"),
            "dlq_stage": stage.encode(),
            "dlq_topic": record.topic.encode(),
            "dlq_partition": b"%d" % record.partition,
            "dlq_offset": b"%d" % record.offset,
            "dlq_timestamp": b"%d" % record.timestamp,
            "dlq_time": b"%.3f" % now,
        }
    )
    key = None if record.key is None or record.size > largest else record.key
    return Out(topic.dlq if topic else "mail-dlq", value, headers, key, 0)


async def hand(agent: Agent, desk: Desk, works: Sequence[Work], partition: int) -> None:
    """Hand records to the agent until each is done, kept or rejected.

    Retry waits and hands the rest in again; any other error singles out the record that raises. Raises
    BugLimit when too many do.
    """
    todo = list(works)
    while todo:
        try:
            await agent.batch(todo, partition)
        except Retry as retry:
            metrics.RETRIES.labels(desk.stage.name).inc()
            log.warning("stage %s waits %.1f s: %s", desk.stage.name, retry.after, retry)
            await asyncio.sleep(retry.after)
        except Malformed as error:
            if len(todo) == 1:
                todo[0].reject(error.code, error.detail)
            else:
                await _singly(agent, desk, todo, partition)
        except Exception as error:
            if len(todo) == 1:
                desk.bug(todo[0], error)
            else:
                await _singly(agent, desk, todo, partition)
        else:
            for work in todo:
                if not work.settled:
                    desk.bug(work, RuntimeError("the agent neither finished nor kept the record"))
        todo = [work for work in todo if not work.settled]


async def _singly(agent: Agent, desk: Desk, works: Sequence[Work], partition: int) -> None:
    for work in works:
        if not work.settled:
            await hand(agent, desk, [work], partition)

"""Reads dead letters, and writes those again that may be: at a rate, on record, in no more memory for more.

Two readings: the first finds which letters are meant and whose mails they are, then the journal says how far
those came, and the second replays. A letter is marked as replayed when its copy is acknowledged; what is
killed in between is not marked, and a second copy of it is a repeat at the gate that lies ahead.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from agents import Out
from schemas.codec import Malformed
from schemas.hold import Command
from schemas.replay import Replayed, Replays
from streams.admin import check
from streams.broker import make_reader, started
from streams.ops import letters_again as policy
from streams.ops.letters import DEAD, Letter, Wanted
from streams.ops.letters_again import Ends, Past
from streams.ops.origins import NoSecret
from streams.ops.queue_scan import POLICY, audited, fact, facts, put
from streams.ops.read import Place, read_to_end
from streams.settings import Settings
from streams.work import out_size

MARKED, MARKED_EVERY = 500, 2.0
"""Copies, or seconds, after which those written are awaited and marked as replayed."""
SLACK = 3600.0
"""Seconds that clocks may differ: the journal is read from so long before the first of the mails came."""
Told = Callable[[Letter, str, str], None]
"""Called with each letter, ``replayed`` or the code of its refusal, and why."""


async def past_of(settings: Settings) -> Past:
    """What was replayed before."""
    found = Past()
    async for said in facts(settings, Replayed):
        found.add(said)
    return found


async def letters(
    settings: Settings, wanted: Wanted, replays: Replays | None
) -> AsyncGenerator[Letter, None]:
    """The letters that are meant, oldest first within each topic, up to the present end."""
    left = len(wanted.names)
    starts: dict[Place, int] = {}
    for topic, offset in wanted.names:
        starts[(topic, 0)] = min(offset, starts.get((topic, 0), offset))
    async with aclosing(read_to_end(settings, [(topic, 0) for topic in wanted.topics], starts)) as reading:
        async for record in reading:
            letter = Letter(record)
            if wanted.fits(letter, replays):
                yield letter
                left -= 1
                if not left:
                    return


@dataclass(slots=True)
class Plan:
    """What the first reading found: up to where to replay, and whose mails have to be looked up."""

    chosen: int = 0
    already: int = 0
    last: dict[str, int] = field(default_factory=dict)
    names: array[int] = field(default_factory=lambda: array("Q"))
    partitions: set[int] = field(default_factory=set)
    earliest: float = float("inf")

    def take(self, letter: Letter) -> None:
        """One letter that is to be replayed if it may be."""
        self.chosen += 1
        self.last[letter.record.topic] = letter.record.offset
        id = letter.about.get("id")
        if not (letter.of_flow and id):
            return
        self.names.append(policy.name_of(id))
        self.partitions.add(letter.was.partition)
        try:
            received = letter.was.number("received")
        except Malformed:
            received = 0.0
        # Nothing is received after it died: a header that says so must not choose where the journal is read from.
        self.earliest = min(self.earliest, received, letter.time)


async def replay(
    settings: Settings, wanted: Wanted, *, limit: int, rate: float, repeat: bool, dry: bool, who: str,
    why: str, told: Told,
) -> Counter[str]:  # fmt: skip
    """Replay the letters that are meant: at most ``limit`` (0: all), ``rate`` a second; with ``repeat`` also
    those that were replayed before; ``dry``: only say which. Returns counts: selected, replayed, already,
    refused, and each code of a refusal. Raises NoSecret, WrongTopology, NoAnswer, KafkaError."""
    partitions = (await check(settings)).partitions
    replays = Replays.of(settings.secret)
    past = await past_of(settings)
    plan = Plan()
    async with aclosing(letters(settings, wanted, replays)) as reading:
        async for letter in reading:
            if not repeat and past.of(letter.record) is not None:
                plan.already += 1
                continue
            if replays is None and letter.of_sends:
                raise NoSecret(policy.UNPROVED)
            plan.take(letter)
            if plan.chosen == limit:
                break
    ends = Ends(plan.names)
    plan.names = array("Q")
    await _look_up(settings, plan, partitions, ends)
    work = _Replay(settings, plan, past, ends, partitions, replays, repeat, told)
    if dry or not plan.chosen:
        await work.run(wanted, None, rate, "")
        return work.counts
    on = wanted.as_dict() or {"letters": "all"}
    on |= {"again": "yes"} if repeat else {}
    command = Command(what="dlq replay", on=on, who=who, why=why, time=time.time())
    async with audited(settings, command) as (producer, counts):
        await _forget(settings, producer, past)
        try:
            await work.run(wanted, producer, rate, who)
        finally:
            counts |= work.counts
    return work.counts


class _Replay:
    """The second reading."""

    def __init__(
        self, settings: Settings, plan: Plan, past: Past, ends: Ends, partitions: int,
        replays: Replays | None, repeat: bool, told: Told,
    ) -> None:  # fmt: skip
        self._settings, self._plan, self._past, self._ends = settings, plan, past, ends
        self._partitions, self._replays, self._repeat, self._told = partitions, replays, repeat, told
        self.counts = Counter({"selected": plan.chosen, "replayed": 0, "already": plan.already, "refused": 0})

    async def run(self, wanted: Wanted, producer: AIOKafkaProducer | None, rate: float, who: str) -> None:
        """Without a producer nothing is written, and nothing waits."""
        left, due = self._plan.chosen, time.monotonic()
        marks = _Marks(self._settings, producer, who) if producer is not None else None
        try:
            async with aclosing(letters(self._settings, wanted, self._replays)) as reading:
                async for letter in reading:
                    if not left:
                        break
                    record = letter.record
                    if record.offset > self._plan.last.get(record.topic, -1) or (
                        not self._repeat and self._past.of(record) is not None
                    ):
                        continue
                    left -= 1
                    out = self._judge(letter)
                    if out is not None and marks is not None:
                        due = max(due, time.monotonic() - 0.1) + 1.0 / rate
                        await marks.write(letter, out)
                        await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:  # also when it is broken off: what was written is marked
            if marks is not None:
                await marks.flush()

    def _judge(self, letter: Letter) -> Out | None:
        row = self._ends.get(letter.about.get("id", "")) if letter.of_flow else None
        refused = policy.refusal(letter, row, self._partitions, time.time())
        out = None
        if refused is None:
            out = policy.again(letter, self._replays)
            if (size := out_size(out)) > self._settings.largest:
                refused = "too_large", f"it has {size} bytes, MAILSLUICE_LARGEST is {self._settings.largest}"
        if refused is not None:
            self.counts["refused"] += 1
            self.counts[refused[0]] += 1
            self._told(letter, *refused)
            return None
        self.counts["replayed"] += 1
        self._told(letter, "replayed", "")
        return out


class _Marks:
    """Copies on their way, and the word on policy that they were written."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, who: str) -> None:
        self._settings, self._producer, self._who = settings, producer, who
        self._open: list[tuple[str, int, asyncio.Future[Any]]] = []
        self._since = time.monotonic()

    async def write(self, letter: Letter, out: Out) -> None:
        sent = await put(self._settings, self._producer, out)
        self._open.append((letter.record.topic, letter.record.offset, sent))
        if len(self._open) >= MARKED or time.monotonic() > self._since + MARKED_EVERY:
            await self.flush()

    async def flush(self) -> None:
        """Returns when all are acknowledged and marked. Raises KafkaError of the first that is not."""
        taken, self._open, self._since = self._open, [], time.monotonic()
        answers = await asyncio.gather(*(sent for _, _, sent in taken), return_exceptions=True)
        done: dict[str, list[int]] = {}
        for (topic, offset, _), answer in zip(taken, answers, strict=True):
            if not isinstance(answer, BaseException):
                done.setdefault(topic, []).append(offset)
        for topic, offsets in done.items():
            runs = policy.runs_of(sorted(offsets))
            said = Replayed(topic=topic, runs=runs, who=self._who, time=round(time.time(), 3))
            await (await put(self._settings, self._producer, fact(said)))
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer


async def _look_up(settings: Settings, plan: Plan, partitions: int, ends: Ends) -> None:
    """Gate two's rows of the mails, from the journal of their partitions since the first of them came."""
    places = [("mail-outcomes", p) for p in sorted(plan.partitions) if 0 <= p < partitions]
    if not places:
        return
    reader = make_reader(settings)
    await started(reader, 10.0)
    try:
        since = max(0, int((plan.earliest - SLACK) * 1000))
        found = await reader.offsets_for_times(
            {TopicPartition(settings.topic(topic), p): since for topic, p in places}
        )
    finally:
        await reader.stop()
    # None: the partition has nothing so young. The embedded broker answers 0 always.
    starts = {("mail-outcomes", tp.partition): at.offset for tp, at in found.items() if at is not None}
    async for record in read_to_end(settings, list(starts), starts):
        if record.key and record.value:
            ends.put(record.key.decode("utf-8", "replace"), record.value)


async def _forget(settings: Settings, producer: AIOKafkaProducer, past: Past) -> None:
    """Delete words on letters that their topics no longer hold."""
    reader = make_reader(settings)
    await started(reader, 10.0)
    try:
        begins = await reader.beginning_offsets([TopicPartition(settings.topic(topic), 0) for topic in DEAD])
    finally:
        await reader.stop()
    first = {tp.topic.removeprefix(settings.prefix): at for tp, at in begins.items()}
    for key in past.over(first):
        await (await put(settings, producer, Out(POLICY, None, {}, key, 0)))

"""Is every state what the topics say? Recomputes them with the agents' own policies and compares.

    state                    where it lies                         recomputed from
    gate one's rows          mail-screen-log; files of screen      its changelog; mail-enqueued, mail-screened
    gate two's rows          files of deliver                      mail-outcomes
    suppressions             mail-suppressions; files of three     mail-events
    consents                 mail-consents; files of two           mail-events
    contacts                 mail-contacts; files of two           mail-events
    the book of classify     its files                             mail-outcomes

Every file is compared at its own position: one that a former owner left may be older than its log. A book is
not filled again, so that only what it holds is judged, not what it lacks. Campaigns and lane policies have no
second copy anywhere. What retention has taken, or an import has written, is not judged.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from aiokafka import TopicPartition

from agents.classify.policy import owner_of
from schemas.codec import Record, parse
from schemas.contact import Contact
from schemas.erasure import Pseudonyms
from schemas.mail import NOW
from schemas.outcome import Outcome
from schemas.suppression import Suppression
from streams.admin import check
from streams.broker import make_reader, started, stopped
from streams.operators import consent_rules_of, suppress_settings_of
from streams.ops.audit import committed, read_topic
from streams.ops.kept import KEPT, SLACK, File, name_of, open_file, said
from streams.ops.read import Place, read_to_end
from streams.ops.refold import Contacts, Gate, Merged, Suppressions, Told
from streams.pipeline import BY_NAME as STAGES
from streams.settings import Settings

SHOWN = 20
"""Differences of one state and partition that are told one by one."""
LOGS = ("mail-screen-log", "mail-suppressions", "mail-consents", "mail-contacts", "mail-outcomes")
FLOW = ("mail-events", "mail-enqueued" + NOW, "mail-enqueued", "mail-screened" + NOW, "mail-screened")
READERS = {"mail-events": ("suppress", "score"), "mail-enqueued": ("screen",)}


@dataclass
class Recomputation:
    """What was found. ``files`` and ``rows``: how many were compared."""

    files: int = 0
    rows: int = 0
    differences: list[str] = field(default_factory=list)


async def differences(settings: Settings, homes: Mapping[str, Path]) -> list[str]:
    """One line for each state that is not what the topics say. ``homes``: worker -> its MAILSLUICE_STATE.

    Meant for a pipeline at rest or stopped; of one at work, what lies behind a committed position may have
    been worked on or not. Raises WrongTopology and NoAnswer.
    """
    return (await recompute(settings, homes)).differences


async def recompute(settings: Settings, homes: Mapping[str, Path]) -> Recomputation:
    """``differences``, with the numbers of what was compared."""
    partitions = (await check(settings)).partitions
    found = Recomputation()
    begins = await _begins(settings, partitions)
    sure = {
        (stage, topic): offsets
        for base, stages in READERS.items()
        for stage in stages
        for topic, offsets in (
            await committed(
                settings, stage, [t for t in STAGES[stage].topics if t.startswith(base)], partitions
            )
        ).items()
    }
    buried = set()
    async for m in read_topic(settings, "mail-dlq", 1):
        place = [m.text("dlq_stage"), m.text("dlq_topic"), m.text("dlq_partition"), m.text("dlq_offset")]
        buried.add(tuple(place))
    for partition in range(partitions):
        work = _Partition(settings, partition, partitions, begins, found)
        try:
            work.open(homes)
            await work.read_logs()
            await work.read_flow(sure, buried)
        finally:
            work.close()
    return found


async def _begins(settings: Settings, partitions: int) -> dict[Place, int]:
    reader = make_reader(settings)
    await started(reader, 10.0)
    try:
        tps = {
            TopicPartition(settings.topic(t), p): (t, p) for t in (*LOGS, *FLOW) for p in range(partitions)
        }
        return {tps[tp]: int(first) for tp, first in (await reader.beginning_offsets(list(tps))).items()}
    finally:
        await stopped(reader)


class _Partition:
    """The states of one partition."""

    def __init__(
        self, settings: Settings, partition: int, of: int, begins: Mapping[Place, int], found: Recomputation
    ) -> None:
        self._settings, self._partition, self._of, self._found = settings, partition, of, found
        self._begin = {topic: begins[topic, partition] for topic in (*LOGS, *FLOW)}
        self._files: list[File] = []
        self._books: dict[str, sqlite3.Connection] = {}
        self._owners: dict[bytes, set[bytes]] = {}
        self._gate = Gate(settings.screen_horizon)
        self._logs = {t: (KEPT[s, t](), Merged()) for s, t in KEPT if s in ("suppress", "score")}
        """topic -> (the winners by version, the last of the log)."""
        self._imported: set[bytes] = set()
        self._count = dict.fromkeys(LOGS, 0)
        self._end = dict(self._begin)
        self._began = time.time()

    def open(self, homes: Mapping[str, Path]) -> None:
        """Open the partition's files, before anything is read: none is then ahead of what we read."""
        for worker, home in sorted(homes.items()):
            for stage, topic in KEPT:
                path = home / stage / f"{topic}-{self._partition}.sqlite"
                try:
                    if path.exists():
                        identity = f"{topic}/{self._partition} of {self._of}"
                        self._files.append(File(worker, stage, topic, path, identity))
                except sqlite3.Error as error:
                    self._tell(f"{worker} {stage}/{path.name}", {b"": f"it cannot be read: {error}"})
            path = home / "classify" / f"book-{self._partition}.sqlite"
            if path.exists():
                self._books[f"{worker} classify/{path.name}"] = open_file(path)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.db.close()
        for db in self._books.values():
            db.close()

    async def read_logs(self) -> None:
        """The changelogs and the journal, each file compared when its position is reached."""
        async with aclosing(read_to_end(self._settings, [(t, self._partition) for t in LOGS])) as records:
            async for record in records:
                self._count[record.topic] += 1
                self._end[record.topic] = record.offset + 1
                self._feed_files(record)
                if record.topic == "mail-screen-log":
                    self._gate.row(record)
                elif record.topic == "mail-outcomes":
                    self._remember(record)
                else:
                    for merged in self._logs[record.topic]:
                        merged.add(record)
                    if record.key is not None and record.value and _imported(record.topic, record.value):
                        self._imported.add(record.key)
        for file in self._files:
            if file.position > self._end[file.topic]:
                file.fault = f"it stands at {file.position}, its log ends at {self._end[file.topic]}"
            if not file.done:
                self._compare(file)
            self._tell(file.name, {b"": file.fault} if file.fault else file.wrong)
        self._compare_books()

    def _feed_files(self, record: Record) -> None:
        for file in self._files:
            if file.topic != record.topic:
                continue
            if record.offset < file.position:
                file.merged.add(record)
                continue
            if not file.done:
                self._compare(file)
            # Compaction takes a record below a file's position for one behind it: then we cannot know.
            if record.key in file.wrong and self._gaps(record.topic):
                del file.wrong[record.key]

    def _compare(self, file: File) -> None:
        self._found.files += 1
        if file.fault:
            file.done = True
        else:
            self._found.rows += file.compare(self._began, self._begin[file.topic] == 0)

    def _gaps(self, topic: str) -> bool:
        return self._count[topic] < self._end[topic] - self._begin[topic]

    def _remember(self, record: Record) -> None:
        if self._books and record.value and b'"delivered"' in record.value:
            outcome = parse(record.value, Outcome)
            if outcome.state == "delivered":
                row = msgspec.msgpack.encode(owner_of(outcome))
                self._owners.setdefault(bytes.fromhex(outcome.id), set()).add(row)

    def _compare_books(self) -> None:
        for name, db in self._books.items():
            self._found.files += 1
            wrong = {}
            days = db.execute("SELECT name FROM sqlite_master WHERE type='table' AND name GLOB 'day_[0-9]*'")
            for (day,) in days.fetchall() if self._begin["mail-outcomes"] == 0 else ():
                for key, row in db.execute(f"SELECT id, row FROM {day}"):
                    self._found.rows += 1
                    if bytes(row) not in self._owners.get(key, ()):
                        wrong[bytes(key)] = "no delivered outcome says what it holds"
            self._tell(name, wrong)

    async def read_flow(
        self, sure: Mapping[tuple[str, str], Mapping[int, int]], buried: set[tuple[str, ...]]
    ) -> None:
        """What the changelogs follow from, and what follows from them."""
        p, names = self._partition, _names(self._settings)
        rules, strict = consent_rules_of(self._settings), suppress_settings_of(self._settings)
        suppressions, contacts = Suppressions(names, rules, strict), Contacts(names)
        strange: dict[bytes, str] = {}
        whose: dict[bytes, str] = {}

        def worked(stage: str, record: Record) -> bool:
            return (stage, record.topic, str(p), str(record.offset)) not in buried

        async with aclosing(read_to_end(self._settings, [(t, p) for t in FLOW])) as records:
            async for m in records:
                if m.topic == "mail-events":
                    if worked("suppress", m):
                        suppressions.add(m, m.offset < sure["suppress", m.topic][p])
                    if worked("score", m):
                        contacts.add(m, m.offset < sure["score", m.topic][p])
                elif m.topic.startswith("mail-enqueued"):
                    if worked("screen", m):
                        self._gate.enqueued(m, m.offset < sure["screen", m.topic][p])
                elif m.timestamp / 1000 < self._began and not self._knows(m):
                    whose[m.headers["origin"]] = m.text("to")
                    strange[m.headers["origin"]] = f"expected a row: {m.topic}@{m.offset} passed; found none"
        strange = {origin: what for origin, what in strange.items() if not self._gate.erased(whose[origin])}
        self._tell(f"mail-screen-log/{p}", strange)
        whole = not any(self._begin[t] for t in ("mail-enqueued", "mail-enqueued" + NOW, "mail-screen-log"))
        rows = self._gate.wrong(self._began + SLACK, whole)
        self._tell(f"mail-screen-log/{p}", {k.encode(): f"expected {a}, found {b}" for k, a, b in rows})
        self._found.rows += len(self._gate.rows)
        self._compare_log("mail-suppressions", suppressions)
        self._compare_log("mail-consents", suppressions.consents)
        self._compare_log("mail-contacts", contacts)

    def _knows(self, record: Record) -> bool:
        topic = "mail-screen-log"
        return self._begin[topic] > 0 or self._gate.knows(record, self._gaps(topic))

    def _compare_log(self, topic: str, told: Told) -> None:
        winners, last = (merged.rows for merged in self._logs[topic])
        wrong: dict[bytes, str] = {}
        for key, (value, _) in winners.items():
            if last.get(key, (value,))[0] != value:
                wrong[key] = (
                    f"expected {said(value)} last, found an older one behind it: {said(last[key][0])}"
                )
        if self._begin["mail-events"] == 0:
            for key in {*winners, *told} - self._imported:
                values = told.get(key)
                found = winners[key][0] if key in winners else None
                if found not in values:
                    wrong[key] = f"expected {' or '.join(map(said, values))}, found {said(found)}"
        self._found.rows += len(winners)
        self._tell(f"{topic}/{self._partition}", wrong)

    def _tell(self, where: str, wrong: Mapping[bytes, str]) -> None:
        told = self._found.differences
        for key, what in list(wrong.items())[:SHOWN]:
            told.append(f"{where}: " + (f"key {name_of(key)}: " if key else "") + what)
        if len(wrong) > SHOWN:
            told.append(f"{where}: and {len(wrong) - SHOWN} more keys")


def _names(settings: Settings) -> Callable[[str], tuple[str, ...]]:
    # Without a secret the hashes cannot be told: they differ, and that is told.
    return Pseudonyms(settings.hash_secrets()).of if settings.secret else lambda address: ("#",)


def _imported(topic: str, value: bytes) -> bool:
    """Whether somebody wrote the row who is no stage of ours: no event explains it."""
    if topic == "mail-contacts":
        return not parse(value, Contact).seen
    if topic == "mail-consents":
        return False
    row = parse(value, Suppression)
    return row.reason == "manual" or len(row.origin) != 32

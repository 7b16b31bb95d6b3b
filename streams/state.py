"""State and views of a partition, materialised from a compacted topic (design, "Nothing lost", 7)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from agents import Out, Ticket
from schemas.codec import Headers
from schemas.erasure import MARK, key_of, name_in
from streams.broker import die
from streams.follow import Follower, OutsideLog
from streams.incarnation import Mark, mark_of, read_marks, write_marks
from streams.store import Store, Taken, delete, first_word, left_alone, whole

log = logging.getLogger("mailsluice.state")
Newer = Callable[[bytes, bytes], bool]
"""(value in the store, value from the log) -> whether the one from the log takes its place."""
Reduce = Callable[[bytes], tuple[bytes, float]]
"""Value of the log -> (what the file keeps of it, Unix time at which the row may go; 0 = never)."""
HOLD = 16_000
"""Rows of all partitions of a topic that may wait in memory to be written together: some 10 MB, and less than
a second of reading for a new owner."""
CACHE = 32_000
"""KB of SQLite's cache for all partitions of a topic: index pages that new rows fall into."""


def always(_old: bytes, _new: bytes) -> bool:
    """The log's order decides."""
    return True


class _Own(dict[bytes, bytes | None]):
    """Rows by key, and quickly by their first word: under load thousands wait for the tail, and going through all
    of them at each scan took two thirds of what an imported suppression cost."""

    def __init__(self) -> None:
        super().__init__()
        self._words: dict[bytes, set[bytes]] = {}

    def __setitem__(self, key: bytes, value: bytes | None) -> None:
        if key not in self:
            self._words.setdefault(first_word(key), set()).add(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: bytes) -> None:
        super().__delitem__(key)
        word = first_word(key)
        keys = self._words[word]
        keys.discard(key)
        if not keys:
            del self._words[word]

    def of(self, word: bytes) -> Iterable[bytes]:
        """The keys that begin with this word."""
        return self._words.get(word, ())


def _beginning(own: dict[bytes, bytes | None], prefix: bytes) -> list[tuple[bytes, bytes | None]]:
    if not own:
        return []
    keys = own.of(first_word(prefix)) if isinstance(own, _Own) and b"|" in prefix else own
    return [(key, own[key]) for key in keys if key.startswith(prefix)]


UNATTENDED = 86400.0
"""Seconds after which a file that nobody wrote is not trusted. A compacted topic keeps deletions for two days
(``streams.admin.KEPT_TOMBSTONES``): an older file would keep for ever who was erased meanwhile."""


class PartitionState:
    """One partition of a compacted topic in SQLite; ``put`` writes to the topic, the tail to the file."""

    def __init__(
        self,
        topic: str,
        partition: int,
        store: Store,
        follower: Follower,
        *,
        headers: Headers | None = None,
        newer: Newer | None = None,
        reduce: Reduce | None = None,
        until: Callable[[bytes], float] | None = None,
        rewrite: Callable[[Out], None] | None = None,
        unattended: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``until``: instead of ``reduce`` where the file keeps values as they are. ``unattended``: seconds after
        which the file is begun anew, 0 = never; ``clock`` Unix seconds."""
        self.topic = topic
        self.partition = partition
        self._store = store
        self._follower = follower
        self._headers = headers or {}
        self._newer = newer
        self._reduce = reduce
        self._until = until
        self._rewrite = rewrite
        self._unattended = unattended
        self._clock = clock
        self._own: dict[bytes, bytes | None] = _Own() if store.by_word else {}
        """Own writes that the tail has not brought back yet: they win over the file."""
        self._expected: Mark | None = None
        """The record that the file was filled up to: the log must show it first, if it still has it."""
        self._strange = False
        self._sifting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read the log from the stored position to its end. A position outside the log, or below a record
        that is another one than the file was filled from (the topic was made anew), starts anew."""
        first = await self._follower.first(self.topic, self.partition)
        self._if_unattended()
        # Below the log's start nothing is missing: a compacted topic keeps the last value of every key.
        start = max(self._store.position(self.topic), first)
        self._strange, self._expected = False, None
        for mark in read_marks(self._store.mark(self.topic)):
            if mark.offset == start - 1 >= first:
                self._expected, start = mark, mark.offset
        try:
            await self._follower.follow(self.topic, self.partition, self._apply, start)
        except OutsideLog as error:
            await self._again(first, str(error))
        else:
            if self._strange or self._expected is not None:
                await self._again(first, f"{self.topic}/{self.partition} was made anew")
        self.attend()
        self._sift()

    def _if_unattended(self) -> None:
        away = self._clock() - self._store.seen
        if self._unattended and self._store.position(self.topic) >= 0 and not -3600 < away < self._unattended:
            log.info("%s was left alone for too long to be trusted; it is filled anew", self._store.path.name)
            self._store.begin_anew()

    def attend(self) -> None:
        """Note that the file is as the log is, if it is. Call it now and then."""
        if self._follower.fresh(self.topic, self.partition, 60.0):
            try:
                self._store.flush()
                self._store.attended(self._clock())
            except (sqlite3.Error, Taken) as error:
                self._broken(error)

    async def _again(self, first: int, why: str) -> None:
        log.error("%s; %s is filled again from the log's start", why, self._store.path.name)
        self._follower.forget(self.topic, self.partition)
        self._store.begin_anew()
        self._strange, self._expected = False, None
        await self._follower.follow(self.topic, self.partition, self._apply, first)

    def _same(self, message: Any) -> bool:
        """Whether the log is the one that the file was filled from. Compaction may have taken the record."""
        expected, self._expected = self._expected, None
        if expected is not None and message.offset == expected.offset and mark_of(message) != expected:
            self._strange = True
        return not self._strange

    async def close(self) -> None:
        """Stop following and close the file."""
        if self._sifting is not None:
            self._sifting.cancel()
        if self._follower is not None and self._follower.fresh(self.topic, self.partition, 60.0):
            with contextlib.suppress(sqlite3.Error):  # a full disk: it is filled anew
                self._store.attended(self._clock())
        self._follower.forget(self.topic, self.partition)
        self._store.close()

    @property
    def hashed(self) -> Set[str]:
        """The hashes of the people who were erased of whom it holds rows."""
        return self._store.hashed

    def get(self, key: bytes) -> bytes | None:
        """The value under ``key``; own writes are seen at once."""
        if key in self._own:
            return self._own[key]
        return self._stored(key)

    def _stored(self, key: bytes) -> bytes | None:
        try:
            return self._store.get(key)
        except sqlite3.Error as error:
            self._broken(error)
            raise

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """All (key, value) with the prefix; own writes are seen at once."""
        try:
            found = self._store.scan(prefix)
        except (sqlite3.Error, Taken) as error:
            self._broken(error)
            raise
        own = _beginning(self._own, prefix)
        if own:
            rows = dict(found)
            for key, value in own:
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
            found = sorted(rows.items())
        return found

    def put(
        self, ticket: Ticket, key: bytes, value: bytes | None, acked: Callable[[], None] | None = None
    ) -> None:
        """Write to the changelog as an output of ``ticket``."""
        if key[:1] == MARK:
            self._store.hashed.add(name_in(key))
        self._own[key] = value if value is None or self._reduce is None else self._reduce(value)[0]
        ticket.emit(Out(self.topic, value, self._headers, key, self.partition), acked)

    def _apply(self, messages: Sequence[Any]) -> None:
        expected = self._expected
        if not self._same(messages[0]):
            return
        if expected is not None and messages[0].offset == expected.offset:  # applied already
            messages = messages[1:]
            if not messages:
                return
        puts: dict[bytes, tuple[bytes, bytes, float]] = {}
        deletes: set[bytes] = set()
        own, newer, reduce, ends = self._own, self._newer, self._reduce, self._until
        for message in messages:
            key, raw = message.key, message.value
            if key is None:
                continue
            if not raw:
                if key in own and own[key] is None:
                    del own[key]
                puts.pop(key, None)
                deletes.add(key)
                continue
            value, until = reduce(raw) if reduce else (raw, ends(raw) if ends else 0.0)
            if key in own and own[key] == value:
                del own[key]
            if newer is not None:
                waiting = puts.get(key)
                old = waiting[1] if waiting else (None if key in deletes else self._stored(key))
                if old is not None and old != value and not newer(old, value):
                    # A late writer (a former owner) put an older value behind ours: ours goes after it.
                    if self._rewrite is not None and key not in own:
                        self._rewrite(Out(self.topic, old, self._headers, key, self.partition))
                    continue
            deletes.discard(key)
            puts[key] = (key, value, until)
        try:
            mark = write_marks([mark_of(messages[-1])])
            self._store.apply(self.topic, messages[-1].offset + 1, puts.values(), deletes, mark)
        except (sqlite3.Error, Taken) as error:
            self._broken(error)
        if not self._store.sifted:
            self._sift()

    async def keys(self, wanted: Callable[[bytes], bool]) -> list[bytes]:
        """Every key that is wanted, own writes included."""
        found: dict[bytes, None] = {}
        after = 0
        try:
            while True:
                some, after = self._store.some_keys(after)
                found |= dict.fromkeys(filter(wanted, some))
                if not some:
                    break
                await asyncio.sleep(0)  # a few thousand take some milliseconds
        except (sqlite3.Error, Taken) as error:
            self._broken(error)
            raise
        found |= dict.fromkeys(filter(wanted, self._own))
        return [key for key in found if self.get(key) is not None]

    async def to_end(self) -> None:
        """Return when everything that is in the topic's partition now was applied."""
        await self._follower.to_end(self.topic, self.partition)

    def hash_keys(self) -> Counter[str]:
        """How many people were erased under each key, by its name."""
        return Counter(map(key_of, self._store.hashed))

    def _sift(self) -> None:
        if self._store.sifted or (self._sifting is not None and not self._sifting.done()):
            return

        async def sift() -> None:
            try:
                while not self._store.sift():
                    await asyncio.sleep(0.005)  # others take their turns between
            except sqlite3.Error as error:
                self._broken(error)

        self._sifting = asyncio.get_running_loop().create_task(sift(), name="sieve")

    def _broken(self, error: Exception) -> None:
        """The process ends: no record is to blame, and none may be judged without the state."""
        name = self._store.path.name
        if isinstance(error, Taken):
            die(75, f"another process writes this worker's state: {error}")
        if isinstance(error, sqlite3.OperationalError):
            die(74, f"could not use the state file {name}: {error}; is the disk full?")
        self._store.remove()
        die(74, f"the state file {name} is damaged ({error}); it was deleted and is filled again from Kafka")

    def expire(self, now: float) -> int:
        """Delete rows whose time has passed."""
        try:
            return self._store.expire(now)
        except (sqlite3.Error, Taken) as error:
            self._broken(error)
            raise

    def past(self, now: float) -> list[bytes]:
        """Keys of some rows whose time has passed."""
        try:
            return self._store.past(now)
        except sqlite3.Error as error:
            self._broken(error)
            raise

    def fresh(self, seconds: float) -> bool:
        """Whether the topic's partition was read to its end within the last ``seconds``."""
        return self._follower.fresh(self.topic, self.partition, seconds)


class StateFiles:
    """``States`` of one topic for one stage: opens partitions' files in ``directory``."""

    def __init__(
        self,
        topic: str,
        directory: Path,
        follower: Follower,
        partitions: int,
        *,
        headers: Headers | None = None,
        newer: Newer | None = None,
        reduce: Reduce | None = None,
        until: Callable[[bytes], float] | None = None,
        rewrite: Callable[[Out], None] | None = None,
        head: Callable[[bytes], bytes] = whole,
        hash_keys: Collection[str] | None = None,
        unattended: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``head``: the part of a key that rows are found by (see ``Store``); ``until`` as for a partition.
        ``hash_keys``: names of the keys that hashes of erased people are looked under; others are told."""
        self._hash_keys = hash_keys
        self._topic = topic
        self._head = head
        self._directory = directory
        self._follower = follower
        self._partitions = partitions
        self._options: dict[str, Any] = {
            "headers": headers,
            "newer": newer,
            "reduce": reduce,
            "until": until,
            "rewrite": rewrite,
            "unattended": unattended,
            "clock": clock,
        }
        self._open: dict[int, PartitionState] = {}

    async def open(self, partition: int) -> PartitionState:
        """The partition's state, read to its end."""
        await self.close(partition)  # a revoke that ran out of time may have left it open
        await self.close(partition)
        identity = f"{self._topic}/{partition} of {self._partitions}"
        store = Store(
            self._directory / f"{self._topic}-{partition}.sqlite",
            identity,
            head=self._head,
            hold=max(100, HOLD // self._partitions),
            cache=max(500, CACHE // self._partitions),
        )
        state = PartitionState(self._topic, partition, store, self._follower, **self._options)
        try:
            await state.open()
        except BaseException:  # a rebalance cancels an opening
            await state.close()
            raise
        self._open[partition] = state
        lost = state.hash_keys().keys() - set(self._hash_keys) if self._hash_keys is not None else ()
        if lost:
            log.error(
                "%s/%d: people were erased under secrets that are not set any more (%s): they would get mail again. "
                "Put the old secrets into MAILSLUICE_RETIRED_SECRETS",
                self._topic,
                partition,
                ", ".join(sorted(lost)),
            )
        return state

    async def close(self, partition: int) -> None:
        """Close the partition's state, if it is open."""
        state = self._open.pop(partition, None)
        if state is not None:
            await state.close()

    def __call__(self, partition: int) -> PartitionState:
        """The open state of a partition: what an agent reads as its view. Raises KeyError when not open."""
        return self._open[partition]

    def lost_people(self) -> int:
        """How many were erased under keys that are not looked under: 0.2 ms for a thousand who were erased."""
        known = self._hash_keys
        if known is None:
            return 0
        counts = [state.hash_keys() for state in self._open.values()]
        return sum(count for each in counts for key, count in each.items() if key not in known)

    def attend(self) -> None:
        """Note that what is open is up to date, and delete the files that former assignments left and nobody has
        written for ``unattended``: who was erased since is still in them."""
        for state in self._open.values():
            state.attend()
        if not self._options["unattended"]:
            return
        mine = {f"{self._topic}-{partition}.sqlite" for partition in self._open}
        for path in self._directory.glob(f"{self._topic}-*.sqlite"):
            if (
                path.name not in mine
                and left_alone(path, self._options["clock"]()) > self._options["unattended"]
            ):
                log.info("%s is of a partition that is not ours any more; it is deleted", path.name)
                delete(path)

    def opened(self) -> list[PartitionState]:
        """The states open now."""
        return list(self._open.values())

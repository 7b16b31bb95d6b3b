"""What the providers saw: every message they took and every attempt they answered, in their own records.

One append-only file of JSON lines per provider. A message's line is in the file (a write of its own to
the kernel, so that killing the process loses nothing) before its 250 is sent: the demo and the chaos
tests judge the pipeline by these records, never by what the pipeline says of itself.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

SETTLING = 5.0
"""Seconds after its first throttle reply that a sender has to come down to the budget."""
WINDOW = 10.0
"""Seconds of the sliding windows that a sender is judged by."""
OVER = 1.2
"""How far above its budget a window may be."""
THROTTLED = 0.05
"""The share of attempts that may be answered with a throttle reply."""
FLUSH_BYTES = 32_768

SLOW = frozenset({"rate", "connections"})
"""The reasons that count as throttle replies: too fast, or too many connections at once."""


class Try(msgspec.Struct, tag="try", tag_field="kind", omit_defaults=True):
    """An attempt that was not taken. ``at``: Unix seconds of its MAIL (or connection); ``why`` bounded."""

    at: float
    source: str
    code: int
    why: str
    rcpt: str = ""


class Take(msgspec.Struct, tag="take", tag_field="kind", omit_defaults=True):
    """A message taken, one line per recipient. ``at`` Unix seconds of its MAIL, ``time`` of this line.

    ``id`` is the left part of its Message-ID (``message``), ``dkim`` what its signatures proved, for
    instance ``rsa=pass ed25519=pass``, empty where not looked at; ``flaws`` what its headers lack;
    ``replied`` False where a scripted fault kept the 250 from its sender.
    """

    at: float
    time: float
    source: str
    id: str
    message: str
    rcpt: str
    sender: str
    size: int
    dkim: str = ""
    flaws: tuple[str, ...] = ()
    replied: bool = True
    tls: str = ""
    marketing: bool = False


class Act(msgspec.Struct, tag="act", tag_field="kind", omit_defaults=True):
    """What happened to a taken message later: dsn, complaint, open, click, unsubscribe, prefetch, scan."""

    time: float
    what: str
    id: str
    rcpt: str


Entry = Try | Take | Act


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a source kept to a budget, from SETTLING seconds after its first throttle reply.

    ``most`` is the highest number of attempts in any WINDOW seconds from then on, ``share`` the part of
    the attempts from then on that were throttled. A source that was never throttled is within it.
    """

    source: str
    budget: float
    first_throttle: float | None
    most: int
    allowed: float
    attempts: int
    throttled: int
    share: float

    @property
    def ok(self) -> bool:
        """Within the budget, and hardly ever told to slow down."""
        return self.most <= self.allowed and self.share <= THROTTLED


class Tally:
    """The records of one provider, in memory, with the questions that are asked of them."""

    def __init__(self) -> None:
        self._takes: list[Take] = []
        self._tries: list[Try] = []
        self._acts: list[Act] = []
        self._copies: Counter[tuple[str, str]] = Counter()
        self._attempts: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self._taken: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self._throttled: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self.refused: Counter[str] = Counter()
        self.acts: Counter[str] = Counter()
        self.dkim: Counter[str] = Counter()
        self.flaws: Counter[str] = Counter()
        self.bounced: set[tuple[str, str]] = set()

    def add(self, entry: Entry) -> None:
        """Count one record."""
        if isinstance(entry, Take):
            self._takes.append(entry)
            self._copies[entry.message, entry.rcpt] += 1
            self._attempts[entry.source].append(entry.at)
            self._taken[entry.source].append(entry.at)
            self.dkim.update(entry.dkim.split() or ["unchecked"])
            self.flaws.update(entry.flaws)
        elif isinstance(entry, Try):
            self._tries.append(entry)
            self.refused[entry.why] += 1
            self._attempts[entry.source].append(entry.at)
            if entry.why in SLOW:
                self._throttled[entry.source].append(entry.at)
        else:
            self._acts.append(entry)
            self.acts[entry.what] += 1
            if entry.what == "dsn":
                self.bounced.add((entry.id, entry.rcpt))

    def taken(self) -> list[Take]:
        """Every message taken, repeats included, in the order taken."""
        return list(self._takes)

    def tries(self) -> list[Try]:
        """Every attempt that was not taken, in the order answered."""
        return list(self._tries)

    def acted(self) -> list[Act]:
        """What happened to the taken messages later, in its order."""
        return list(self._acts)

    def duplicates(self, counting_unreplied: bool = True) -> dict[tuple[str, str], int]:
        """(Message-ID, recipient) -> how many times too many.

        Without ``counting_unreplied`` copies whose 250 never reached the sender (a scripted fault) do not
        count: repeating those is what a sender should do.
        """
        copies = self._copies
        if not counting_unreplied:
            copies = Counter((take.message, take.rcpt) for take in self._takes if take.replied)
        return {key: count - 1 for key, count in copies.items() if count > 1}

    def sources(self) -> list[str]:
        """Every source address that made an attempt."""
        return sorted(self._attempts)

    def attempts(self, source: str, after: float = 0.0) -> int:
        """How many attempts a source made from the Unix time ``after`` on."""
        return _since(self._attempts.get(source, ()), after)

    def throttled(self, source: str, after: float = 0.0) -> int:
        """How many of them were told to slow down."""
        return _since(self._throttled.get(source, ()), after)

    def windows(self, source: str, seconds: float, after: float = 0.0, taken: bool = True) -> int:
        """The most messages taken (or attempts made) in any sliding window that begins at ``after`` or later."""
        return _densest((self._taken if taken else self._attempts).get(source, ()), seconds, after)

    def first_throttle(self, source: str) -> float | None:
        """Unix time of the first throttle reply to a source, None where there was none."""
        return min(self._throttled.get(source, ()), default=None)

    def judge(self, source: str, budget: float) -> Verdict:
        """Whether ``source`` kept to ``budget`` messages a second."""
        first = self.first_throttle(source)
        after = float("inf") if first is None else first + SETTLING
        attempts, throttled = self.attempts(source, after), self.throttled(source, after)
        most = self.windows(source, WINDOW, after, taken=False)
        share = throttled / attempts if attempts else 0.0
        return Verdict(source, budget, first, most, OVER * budget * WINDOW, attempts, throttled, share)


class Ledger(Tally):
    """The tally of a provider that is at work, written to ``directory/<provider>.jsonl``.

    Opening it again reads what is there and goes on. ``directory`` None keeps it in memory only.
    Raises OSError when the file cannot be written: the provider must then not take mail.
    """

    def __init__(self, directory: Path | None, provider: str) -> None:
        super().__init__()
        self._encoder = msgspec.json.Encoder()
        self._buffer = bytearray()
        self._file = -1
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{provider}.jsonl"
        for entry in _entries(path):
            self.add(entry)
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        if path.stat().st_size:
            self._buffer += b"\n"  # ends a line that a crash tore; an empty line is skipped

    def write(self, entry: Entry) -> None:
        """Record one thing. A Take is in the file when this returns; the others within ``flush``."""
        self.add(entry)
        if self._file < 0:
            return
        self._encoder.encode_into(entry, self._buffer, -1)
        self._buffer += b"\n"
        if isinstance(entry, Take) or len(self._buffer) > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the kernel."""
        while self._buffer and self._file >= 0:
            del self._buffer[: os.write(self._file, self._buffer)]

    def close(self) -> None:
        """Flush and close the file; may be called twice."""
        self.flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read(directory: Path) -> dict[str, Tally]:
    """The tallies of all providers that wrote into ``directory``, by provider; also while they write."""
    found: dict[str, Tally] = {}
    for path in sorted(directory.glob("*.jsonl")):
        tally = found[path.stem] = Tally()
        for entry in _entries(path):
            tally.add(entry)
    return found


def _entries(path: Path) -> Iterable[Entry]:
    decoder = msgspec.json.Decoder(Entry)
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield decoder.decode(line)
            except msgspec.MsgspecError:
                continue  # torn by a crash before its 250, or still being written


def _since(times: Iterable[float], after: float) -> int:
    # Written in the order of the answers; sorting by the time of MAIL costs little and is exact.
    ordered = sorted(times)
    return len(ordered) - bisect_left(ordered, after)


def _densest(times: Iterable[float], seconds: float, after: float) -> int:
    ordered = sorted(times)
    start = bisect_left(ordered, after)
    most = 0
    for end in range(start, len(ordered)):
        while ordered[end] - ordered[start] >= seconds:
            start += 1
        most = max(most, end - start + 1)
    return most

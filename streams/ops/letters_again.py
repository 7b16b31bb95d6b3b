"""What becomes of a dead letter that is replayed: the copy, or why there is none. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise

from agents import Out
from agents.deliver.row import Row, newer, read_row, reduce_outcome
from schemas.codec import Malformed, Record
from schemas.mail import is_verdict
from schemas.replay import HEADER, Replayed, Replays
from streams.ops.letters import READ_BY, STATE, Letter
from streams.ops.origins import NoSecret, origin_of_letter

# -- what was replayed before

_PAGE = 1 << 14


@dataclass
class Past:
    """Which letters were replayed already: four bytes a letter, whatever the order."""

    _said: list[Replayed] = field(default_factory=list)
    _pages: dict[tuple[str, int], array[int]] = field(default_factory=dict)

    def add(self, said: Replayed) -> None:
        """The newest word on a letter counts."""
        self._said.append(said)
        for first, count in zip(said.runs[::2], said.runs[1::2], strict=False):
            for offset in range(first, first + count):
                page = self._pages.setdefault((said.topic, offset // _PAGE), array("I", bytes(4 * _PAGE)))
                page[offset % _PAGE] = len(self._said)

    def over(self, begins: Mapping[str, int]) -> list[bytes]:
        """Keys of words on letters that are gone: ``begins`` is where each topic begins now."""
        return [
            said.key
            for said in self._said
            if said.runs and said.runs[-2] + said.runs[-1] <= begins.get(said.topic, 0)
        ]

    def of(self, record: Record) -> Replayed | None:
        """The word on this letter, if any: not that on one of an older log at the same offset."""
        page = self._pages.get((record.topic, record.offset // _PAGE))
        number = page[record.offset % _PAGE] if page is not None else 0
        said = self._said[number - 1] if number else None
        return said if said is not None and record.timestamp / 1000 <= said.time else None


def runs_of(offsets: Iterable[int]) -> tuple[int, ...]:
    """Ascending offsets as Replayed has them."""
    found: list[int] = []
    for offset in offsets:
        if found and offset == found[-2] + found[-1]:
            found[-1] += 1
        else:
            found += (offset, 1)
    return tuple(found)


# -- what gate two says of them


class Ends:
    """The rows of gate two for the mails of letters: 13 bytes a mail, so that a million of them take no room."""

    def __init__(self, names: Iterable[int]) -> None:
        """``names``: ``name_of`` of each mail's id, in any order."""
        self._names = array("Q", _distinct(sorted(names)))
        self._attempts = array("I", bytes(4 * len(self._names)))
        self._states = bytearray(len(self._names))

    def _place(self, id: str) -> int:
        wanted = name_of(id)
        place = bisect_left(self._names, wanted)
        return place if place < len(self._names) and self._names[place] == wanted else -1

    def _row(self, place: int) -> bytes:
        return bytes(self._states[place : place + 1]) + b"%d" % self._attempts[place]

    def get(self, id: str) -> Row | None:
        """The row of a mail; None where it has none."""
        place = self._place(id)
        return read_row(self._row(place)) if place >= 0 and self._states[place] else None

    def put(self, id: str, value: bytes) -> None:
        """An outcome's JSON, if it is of one of the mails."""
        place = self._place(id)
        if place < 0:
            return
        row, _ = reduce_outcome(value)
        if not self._states[place] or newer(self._row(place), row):
            self._states[place], self._attempts[place] = row[0], int(row[1:])


def name_of(id: str) -> int:
    """64 bits that stand for a mail: of a million letters and 100 million mails, one run in 180,000 has a pair
    with the same ones, and refuses a replay for it."""
    return int.from_bytes(blake2b(id.encode(), digest_size=8).digest())


def _distinct(names: list[int]) -> Iterator[int]:
    if names:
        yield names[0]
    for before, name in pairwise(names):
        if name != before:
            yield name


# -- what becomes of one


def refusal(letter: Letter, row: Row | None, partitions: int, now: float) -> tuple[str, str] | None:
    """(code, why) where a letter cannot be replayed, or must not: the end of its mail could differ.

    ``row`` is gate two's word on its mail, ``now`` Unix seconds.
    """
    was = letter.was
    if "dlq_cut" in letter.record.headers:
        size = letter.record.text("dlq_cut")[:20]
        where = f"{was.topic}/{was.partition}@{was.offset}"
        return (
            "cut",
            f"it had {size} bytes, and only a part is here; the whole is at {where} while that is kept",
        )
    if was.topic in STATE:
        return "state", "its newest record counts: whoever owns it publishes it again"
    if was.topic not in READ_BY or not 0 <= was.partition < partitions:
        return "no_place", f"no stage reads {was.topic[:60]!r}/{was.partition}"
    if not letter.of_flow:
        return None
    if not letter.about.get("id") or not letter.attempt:
        return "bad_envelope", "it has no id or no readable attempt: gate two could not know it again"
    try:
        expires = was.number("expires")
    except Malformed as error:
        return "bad_envelope", error.detail
    if 0 < expires <= now and not is_verdict(was):
        return "expired", "the time in which it may be sent is over"
    return _gate(row, letter.attempt) if row is not None else None


def _gate(row: Row, attempt: int) -> tuple[str, str] | None:
    if row.terminal:
        return "ended", f"its mail has ended: {row.state} at attempt {row.attempt}"
    if row.state == "intent":
        return (
            "intent",
            f"attempt {row.attempt} may have been sent; under at-most-once deliver ends it as unknown",
        )
    if row.state == "unknown":
        return (
            "unknown",
            f"attempt {row.attempt} may have arrived; the ladder brings the next one when it may",
        )
    if row.attempt >= attempt:
        return "gone_on", f"its mail has gone on without it: {row.state} at attempt {row.attempt}"
    return None


UNPROVED = "set MAILSLUICE_SECRET as for the workers: a send that comes again must prove it"


def again(letter: Letter, replays: Replays | None) -> Out:
    """The copy, for the topic and partition where the record died. Raises NoSecret for a send without secrets.

    A send keeps its origin, so that it has its id and counts once. A mail asks for the next attempt, which
    gate two takes once; under at-most-once for the same one, so that an intent journaled meanwhile ends it.
    The rest is as it came: what follows from it has the same ids.
    """
    was = letter.was
    headers = dict(was.headers)
    if letter.of_sends:
        if replays is None:
            raise NoSecret(UNPROVED)
        headers.pop(HEADER, None)
        origin = origin_of_letter(letter.record, replays)
        headers[HEADER] = replays.header(origin, was.topic, headers, was.value)
    elif letter.of_flow and headers.get("guarantee") != b"at_most_once":
        headers["attempt"] = b"%d" % (letter.attempt + 1)
    return Out(was.topic, was.value, headers, was.key, was.partition)

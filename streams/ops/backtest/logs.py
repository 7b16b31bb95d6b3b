"""Logs of other engines as rows in the order of time. Lines that cannot be used are counted and shown.

Files hold lines in about the order of time (engines write them so); several are merged by it. A file is
opened when its first row's turn comes, so that a month of segments needs no month of open files.
"""

from __future__ import annotations

import gzip
import heapq
import shutil
import subprocess
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from streams.ops.backtest.kumomta import KumoMta
from streams.ops.backtest.powermta import PowerMta
from streams.ops.backtest.row import BadLine, Row, Whose
from streams.ops.long_lines import Source, numbered_lines

LONGEST_LINE = 1_000_000
"""Bytes of a line; a longer one is bad, and the next one goes on."""
LINES_OF_ONE = 20
"""Lines over which one quoted CSV record may go: more is a quotation mark that somebody forgot."""
SHOWN = 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class BadLog(ValueError):
    """A file that cannot be read at all."""


@dataclass
class Bad:
    """Lines that could not be used: how many, and the first of them."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, where: str, number: int, why: str) -> None:
        """One more."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{where}:{number}: {why}" if number else f"{where}: {why}")


@dataclass
class Seen:
    """What was read. ``engines``: who wrote it."""

    rows: int = 0
    lines: int = 0
    bad: Bad = field(default_factory=Bad)
    engines: set[str] = field(default_factory=set)


def read_logs(files: tuple[str, ...], seen: Seen) -> Iterator[Row]:
    """The rows of all files (``-``: standard input), the oldest first. Raises BadLog, OSError."""
    whose = Whose()
    if len(files) == 1:
        yield from _rows(files[0], seen, whose)
        return
    if "-" in files:
        raise BadLog("standard input (-) cannot be merged with files: it is read once; give it alone")
    ahead = sorted((_first(name), name) for name in files)
    ahead.reverse()
    open_: list[tuple[float, int, Row, Iterator[Row]]] = []
    number = 0
    while ahead or open_:
        while ahead and (not open_ or ahead[-1][0] <= open_[0][0]):
            number += 1
            _push(open_, number, _rows(ahead.pop()[1], seen, whose))
        if open_:
            _, mine, row, rest = heapq.heappop(open_)
            yield row
            _push(open_, mine, rest)


def _push(open_: list[tuple[float, int, Row, Iterator[Row]]], number: int, rows: Iterator[Row]) -> None:
    row = next(rows, None)
    if row is not None:
        heapq.heappush(open_, (row.time, number, row, rows))


def _first(name: str) -> float:
    """The time of a file's first row; a file without any comes first, to tell what is wrong with it."""
    rows = _rows(name, Seen(), Whose())
    row = next(rows, None)
    rows.close()  # type: ignore[attr-defined]
    return row.time if row else 0.0


def _rows(name: str, seen: Seen, whose: Whose) -> Iterator[Row]:
    where = "standard input" if name == "-" else name
    with _opened(name, seen.bad) as source:
        reader: PowerMta | KumoMta | None = None
        for number, line in _lines(source, seen.bad, where):
            seen.lines += 1
            if not line.strip():
                continue
            try:
                if reader is None:
                    line = line.removeprefix("\ufeff")  # what spreadsheets and editors put before a file
                    reader = _reader(line, where, whose)
                    seen.engines.add(reader.engine)
                    if isinstance(reader, PowerMta):
                        continue
                row = reader.row(line)
            except BadLine as error:
                seen.bad.add(where, number, str(error))
                continue
            if row is not None:
                seen.rows += 1
                yield row


def _reader(line: str, where: str, whose: Whose) -> PowerMta | KumoMta:
    if line.lstrip().startswith("{"):
        return KumoMta(whose)
    if not line.lower().startswith(("type,", '"type",')):
        raise BadLog(
            f"{where}: its first line is neither a PowerMTA accounting file's header (type,timeLogged,...,rcpt,...) "
            "nor a KumoMTA log record ({...}). A part of a file that was split needs the header before its first record"
        )
    try:
        return PowerMta(line, whose)
    except BadLine as error:
        raise BadLog(f"{where}: {error}") from None


def _lines(source: Source, bad: Bad, where: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, record): lines, joined where a quotation goes over their end."""
    lines, ahead = numbered_lines(source, LONGEST_LINE), deque[tuple[int, bytes | None]]()
    while True:
        at, line = ahead.popleft() if ahead else next(lines, (0, b""))
        if line is None:
            bad.add(where, at, f"it has more than {LONGEST_LINE} bytes")
        elif not line:
            return
        elif line.count(b'"') % 2 and not line.lstrip().startswith(b"{"):
            more = _quoted(lines, ahead)
            if more is None:  # its other lines may be good ones
                bad.add(where, at, "a quotation in it does not end")
            else:
                yield at, (line + more).decode("utf-8", "replace")
        else:
            yield at, line.decode("utf-8", "replace")


def _quoted(
    lines: Iterator[tuple[int, bytes | None]], ahead: deque[tuple[int, bytes | None]]
) -> bytes | None:
    """The lines to the end of a quotation, None where there is none; those are then left in ``ahead``."""
    found: list[tuple[int, bytes | None]] = []
    while len(found) < LINES_OF_ONE:
        one = ahead.popleft() if ahead else next(lines, (0, b""))
        found.append(one)
        if not one[1]:
            break
        if one[1].count(b'"') % 2:
            return b"".join(line or b"" for _, line in found)
    ahead.extendleft(reversed([one for one in found if one[1] != b""]))
    return None


@contextmanager
def _opened(name: str, bad: Bad) -> Iterator[Source]:
    """A file's content, uncompressed. Raises OSError, BadLog."""
    if name == "-":
        yield sys.stdin.buffer
        return
    with Path(name).open("rb") as raw:
        begin = raw.read(4)
        raw.seek(0)
        if begin[:2] == _GZIP:
            with gzip.open(raw) as text:
                yield _Told(text, name)
        elif begin == _ZSTD:
            yield from _zstd(name, bad)
        else:
            yield raw


def _zstd(name: str, bad: Bad) -> Iterator[Source]:
    program = shutil.which("zstd")
    if program is None:
        raise BadLog(f"{name}: it is compressed by zstd, and there is no program zstd to read it: install it")
    # It streams, as no decompressor among our libraries does; a segment still being written ends early.
    whole = Path(name).absolute()
    with subprocess.Popen(
        [program, "-dcq", "--", whole],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    ) as work:
        assert work.stdout is not None
        try:
            yield work.stdout
            if work.stdout.read(1) == b"" and work.wait() != 0:
                bad.add(name, 0, "its compressed content is damaged, or ends early")
        finally:
            work.kill()


class _Told:
    """A gzip file whose damage ends it, told as BadLog with its name."""

    def __init__(self, text: Source, name: str) -> None:
        self._text, self._name = text, name

    def readline(self, size: int, /) -> bytes:
        """A line."""
        try:
            return self._text.readline(size)
        except (EOFError, OSError, zlib.error) as error:
            raise BadLog(f"{self._name}: its compressed content is damaged: {error}") from None
